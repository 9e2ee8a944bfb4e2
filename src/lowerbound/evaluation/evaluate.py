"""Named measures of a model over a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.core.checks import positive_int
from lowerbound.core.errors import ArgumentError, NonFiniteError, explain
from lowerbound.core.numerics import flushed_denormals
from lowerbound.core.random import seeded
from lowerbound.core.types import Data, Model
from lowerbound.evaluation.gallery import gallery
from lowerbound.evaluation.latents import latent_summary, unit_kl
from lowerbound.evaluation.scores import Scores
from lowerbound.objectives import elbo, is_loglikelihood

__all__ = ["MEASURES", "evaluate"]

MEASURES = ("elbo", "elbo-K", "iwae-K")

# Draws times rows that are decoded at once. Small enough for the activations to stay in a processor's cache.
_ROWS_AT_ONCE = 2000
_SHOWN_LATENTS = 10_000


@torch.no_grad()
def evaluate(
    model: Model,
    data: Data,
    measures: str | Sequence[str] = ("elbo", "iwae-100"),
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Scores:
    r"""Measure a model on every row of a data set.

    | measure | what it is |
    | --- | --- |
    | ``elbo`` | :math:`\mathbb{E}_q[\log p(x,z) - \log q(z|x)]`, one draw a row, with its two terms |
    | ``elbo-K`` | the same, averaged over K draws a row |
    | ``iwae-K`` | :math:`\mathbb{E} \log \frac1K \sum_k w_k`, the importance-weighted bound with K draws a row |

    All are lower bounds of log p(x) in expectation, and all are means over rows of numbers that are computed for each
    row alone. Standard errors are over rows; they contain the noise of the draws, which are independent between rows.

    Args:
        model: The model; it is evaluated on the device on which it lies.
        data: The rows; a dynamically binarised set is drawn once, from its own seed.
        measures: Names as above.
        limit: The number of rows, from the first on; None for all.
        seed: The seed of the draws.
        progress: Whether to show a progress bar.

    Returns:
        The scores, with the values of every row, a summary of the latents, and the arrays for the figures.

    Raises:
        ArgumentError: if a measure is unknown or the limit is not positive.
        NodeError: if the model cannot take the data.
        NonFiniteError: if a row has no finite value.

    Source: Kingma and Welling (2014); Burda, Grosse and Salakhutdinov (2016).

    Example:
        >>> _, test = lb.data.digits()
        >>> model = lb.models.VAE(event_shape=(8, 8), latent_dim=2, hidden=(16,))
        >>> scores = lb.evaluate(model, test, ["elbo", "iwae-10"], limit=50)
        >>> scores.measures["iwae-10"]["n"], scores.rows["elbo"].shape
        (50, (50,))
    """
    names = list(dict.fromkeys([measures] if isinstance(measures, str) else measures))
    parsed = {name: _parse(name) for name in names}
    n = len(data) if limit is None else min(positive_int("limit", limit), len(data))
    module: Any = model
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with flushed_denormals():
            measured = {}
            for name, (kind, particles) in parsed.items():
                with seeded(seed, "evaluate", name):
                    shown = _with_bar(_batches(module, data, particles, n), n, name if progress else None)
                    measured[name] = _MEASURES[kind](module, shown, n, particles)
            rows = {name: terms.pop("value") for name, terms in measured.items()}
            _check_finite(rows)
            summary, arrays = _look(module, data, n, seed)
    finally:
        for part, training in modes:
            part.training = training
    return Scores(
        measures={name: _summarise(rows[name], measured[name], parsed[name][1]) for name in names},
        data={**data.describe(), "n_evaluated": n, "evaluation_seed": seed},
        latents=summary,
        rows=rows,
        gallery=arrays,
    )


def _parse(name: str) -> tuple[str, int]:
    """Split a measure's name into its kind and its number of particles."""
    kind, dash, count = name.partition("-")
    if kind == "elbo" and not dash:
        return "elbo", 1
    if kind in _MEASURES and count.isdecimal() and int(count) > 0:
        return kind, int(count)
    cure = "Write elbo, elbo-16 or iwae-1000, for example."
    raise ArgumentError(
        explain("measure", expected=f"one of {', '.join(MEASURES)} with a number K", got=repr(name), cure=cure)
    )


Rows = dict[str, NDArray[np.float64]]


# Results go into arrays of full length: tensors kept from each batch would pin the heap between large temporaries.
def _elbo(model: Any, batches: Iterable[Tensor], n: int, particles: int) -> Rows:
    rows = {name: np.empty(n) for name in ("value", "reconstruction", "kl")}
    done = 0
    for x in batches:
        bound = elbo(
            model.generator.bind(len(x)), {"x": x}, model.posterior.bind(x), particles=particles, analytic_kl=True
        )
        for row, values in zip(rows.values(), bound.terms.values(), strict=True):
            row[done : done + len(x)] = values.double().cpu()
        done += len(x)
    return rows


def _iwae(model: Any, batches: Iterable[Tensor], n: int, particles: int) -> Rows:
    value, done = np.empty(n), 0
    for x in batches:
        chunk = max(1, _ROWS_AT_ONCE // len(x))
        program, posterior = model.generator.bind(len(x)), model.posterior.bind(x)
        estimate = is_loglikelihood(program, {"x": x}, posterior, particles=particles, chunk=chunk)
        value[done : done + len(x)] = estimate.cpu()
        done += len(x)
    return {"value": value}


_MEASURES: dict[str, Callable[[Any, Iterable[Tensor], int, int], Rows]] = {"elbo": _elbo, "iwae": _iwae}


def _check_finite(rows: Rows) -> None:
    for name, values in rows.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            got = f"{len(bad)} of {len(values)} rows without one, first row {bad[0]}"
            cure = "Look at those rows and at the scale of the data; a model may give a far outlier no density at all."
            raise NonFiniteError(explain(f"measure {name!r}", expected="a finite value a row", got=got, cure=cure))


def _summarise(values: NDArray[np.float64], terms: Rows, particles: int) -> dict[str, Any]:
    n = len(values)
    return {
        "value": float(values.mean()),
        "stderr": float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        "n": n,
        "particles": particles,
        "kind": "lower bound",
        "unit": "nats",
        **{name: float(term.mean()) for name, term in terms.items()},
    }


def _batches(model: Any, data: Data, particles: int, limit: int) -> Iterator[Tensor]:
    """Yield the rows on the model's device; the first batch is checked against the model's supports."""
    device = next(model.parameters()).device
    size = max(10, min(1000, _ROWS_AT_ONCE // particles))
    for number, batch in enumerate(data.evaluation_batches(size, limit=limit)):
        x = batch.to(device)
        if number == 0:
            with torch.random.fork_rng():
                bound = elbo(model.generator.bind(len(x)), {"x": x}, model.posterior.bind(x), validate=True)
                bound.value  # noqa: B018 (the property draws, and drawing checks)
        yield x


def _with_bar(batches: Iterator[Tensor], rows: int, name: str | None) -> Iterator[Tensor]:
    """Yield the batches under a progress bar, if it has a name."""
    if name is None:
        yield from batches
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=rows)
        for x in batches:
            yield x
            bar.advance(task, len(x))


def _look(model: Any, data: Any, n: int, seed: int) -> tuple[dict[str, Any], Any]:
    """Return the summary of the latents and the gallery; latents only for models that encode."""
    inputs = next(iter(data.evaluation_batches(16, limit=min(16, n)))).to(next(model.parameters()).device)
    if not hasattr(model, "encode"):
        return {}, gallery(model, inputs, seed=seed)
    latents = torch.empty(n, model.latent_dim)
    kl_sum: Tensor | None = torch.zeros(model.latent_dim, dtype=torch.float64)
    done = 0
    for x in _batches(model, data, 2, n):
        q = model.encode(x)
        latents[done : done + len(x)] = q.mean.cpu()
        kl = unit_kl(q)
        kl_sum = None if kl is None or kl_sum is None else kl_sum + kl.double().sum(0).cpu()
        done += len(x)
    kl_of_units = None if kl_sum is None else kl_sum / n
    labels = getattr(data, "labels", None)
    arrays = gallery(
        model,
        inputs,
        latents=latents[:_SHOWN_LATENTS],
        labels=None if labels is None else labels[: min(n, _SHOWN_LATENTS)],
        label_names=getattr(data, "label_names", None),
        unit_kl=kl_of_units,
        seed=seed,
    )
    return latent_summary(latents, kl_of_units), arrays
