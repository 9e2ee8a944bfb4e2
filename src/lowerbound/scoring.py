"""How likely rows are under a run, and how unusual that is beside rows which the run has not seen."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowerbound import evaluation, runs
from lowerbound.core.checks import choice, positive_int
from lowerbound.core.device import find_device

__all__ = ["RowScores", "p_values", "score"]


class RowScores(NamedTuple):
    """The scores of rows.

    Attributes:
        log_likelihood: A lower bound in expectation of log p(x), in nats, float64 ``[n]``; low means unusual.
        p_value: How much of the held-out rows is as unusual or more, float64 ``[n]``.
        held_out: How many rows were held out.
        split: Which split they are.
    """

    log_likelihood: NDArray[np.float64]
    p_value: NDArray[np.float64]
    held_out: int
    split: str


def p_values(scores: NDArray[np.float64], held_out: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Return :math:`(1 + \#\{i : h_i \le s\}) / (1 + n)` for each score s, where h are n held-out scores.

    For a row of the held-out rows' own distribution, the chance of a value of at most a is at most a.

    Source: Bates et al., Testing for outliers with conformal p-values (2023).

    Example:
        >>> p_values(np.array([0.0, 2.5]), np.array([1.0, 2.0, 3.0])).tolist()
        [0.25, 0.75]
    """
    return (1 + np.searchsorted(np.sort(held_out), scores, side="right")) / (1 + len(held_out))


def score(
    run: str | os.PathLike[str],
    source: str,
    *,
    particles: int = 100,
    split: str = "test",
    seed: int = 0,
    device: str = "auto",
) -> RowScores:
    """Score all rows of a source: tables, images, whatever the run was trained on.

    Args:
        run: The run folder.
        source: As for `lowerbound.data.load_all`.
        particles: The number K of draws behind the importance-weighted bound; more of them make it tighter.
        split: The held-out rows of the run behind the p-values: ``"test"`` or ``"validation"``, which chose the
            weights and so are a little too likely.
        seed: The seed of the draws.
        device: Where to compute.

    Raises:
        LowerboundError: if there is no such run, split or source; the message names the cure.
    """
    positive_int("particles", particles)
    choice("split", split, ("test", "validation"))
    loaded = runs.load(run)
    model: Any = loaded.model
    model.to(find_device(device))
    implicit = loaded.config["objective"].get("class") == "AVB"
    measure = f"{'is' if implicit else 'iwae'}-{particles}"
    rows, held_out = (
        evaluation.evaluate(model, data, measure, seed=seed, progress=False).rows[measure]
        for data in (runs.load_data(loaded, source=source), runs.load_data(loaded, split))
    )
    return RowScores(rows, p_values(rows, held_out), len(held_out), split)
