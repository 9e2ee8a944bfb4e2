"""Named measures of a model over a data set."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.core.checks import positive_int
from lowerbound.core.distributed import place
from lowerbound.core.errors import ArgumentError, NonFiniteError, explain
from lowerbound.core.numerics import flushed_denormals
from lowerbound.core.random import seeded
from lowerbound.core.types import Data, Model, follows
from lowerbound.evaluation.ais import check_annealing
from lowerbound.evaluation.bits import bits_per_dim
from lowerbound.evaluation.forecast import duration, forecast
from lowerbound.evaluation.gallery import Gallery
from lowerbound.evaluation.ledger import Ledger
from lowerbound.evaluation.look import look
from lowerbound.evaluation.measures import ANNEALED, AT_ONCE, RUN, UNNUMBERED, Found, Job, parse, rows_at_once
from lowerbound.evaluation.scores import Scores
from lowerbound.objectives import AVB
from lowerbound.objectives.log_weights import draw

__all__ = ["evaluate"]


@torch.no_grad()
def evaluate(
    model: Model,
    data: Data,
    measures: str | Sequence[str] = ("elbo", "iwae-100"),
    *,
    limit: int | None = None,
    chains: int = 16,
    temperatures: int = 1000,
    objective: AVB | None = None,
    seed: int = 0,
    keep: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Scores:
    r"""Measure a model on every row of a data set.

    | measure | what it is |
    | --- | --- |
    | ``elbo`` | :math:`\mathbb{E}_q[\log p(x,z) - \log q(z|x)]`, one draw a row, with its two terms |
    | ``elbo-K`` | the same, averaged over K draws a row |
    | ``iwae-K`` | :math:`\mathbb{E} \log \frac1K \sum_k w_k`, the importance-weighted bound with K draws a row |
    | ``is-K`` | the same with draws from a Gaussian fitted to the posterior's: it needs no density of q |
    | ``quadrature`` | log p(x) itself, on a grid; for one or two latent dimensions |
    | ``avb`` | the ELBO as a critic estimates it: the training's, or a fresh one if it is nearer; no bound |
    | ``ais`` | annealed importance sampling, `lowerbound.evaluation.ais`, from a Gaussian near the posterior |
    | ``bdmc`` | the gap of `lowerbound.evaluation.bdmc` on as many rows of the model's own: what ``ais`` may be off |

    The first four and ``ais`` are lower bounds of log p(x) in expectation. All are means over rows of numbers that are
    computed for each row alone. Standard errors are over rows; they contain the noise of the draws, which are
    independent between rows. Under torchrun all processes make this call: they share out the rows, and return the same
    numbers as one process would, bit for bit on machines of one kind; ``avb`` and the summary each computes for itself.

    Args:
        model: The model; it is evaluated on the device on which it lies.
        data: The rows; a dynamically binarised set is drawn once, from its own seed.
        measures: Names as above.
        limit: The number of rows, from the first on; None for all.
        chains: The number of chains a row of ``ais`` and ``bdmc``.
        temperatures: Their number of steps from the start to the posterior.
        objective: The adversarial objective that trained the model, for the measure ``avb``.
        seed: The seed of the draws.
        keep: A folder for the values of the batches that are done: the same call, after an interruption, goes on from
            them and returns the same numbers, bit for bit. It stays.
        progress: Whether to show a progress bar, and to say how long annealing will take.

    Returns:
        The scores, with the values of every row, a summary of the latents, and the arrays for the figures.

    Raises:
        ArgumentError: if a measure is unknown or the limit is not positive.
        NodeError: if the model cannot take the data.
        NonFiniteError: if a row has no finite value.
        SamplingWarning: if the chains of many rows hardly moved, or few of them carry the weight.

    Source: Kingma and Welling (2014); Burda, Grosse and Salakhutdinov (2016); Mescheder, Nowozin and Geiger (2017);
    Neal (2001); Grosse, Ghahramani and Adams (2015).

    Example:
        >>> _, test = lb.data.digits()
        >>> model = lb.models.VAE(event_shape=(8, 8), latent_dim=2, hidden=(16,))
        >>> scores = lb.evaluate(model, test, ["elbo", "iwae-10"], limit=50)
        >>> scores.measures["iwae-10"]["n"], scores.rows["elbo"].shape
        (50, (50,))
    """
    if not follows(data, Data):
        cure = "Load it with lowerbound.data, or wrap an array as lowerbound.data.Dataset(array)."
        raise ArgumentError(explain("data", expected="a data set", got=type(data).__name__, cure=cure))
    here = place()
    names = list(dict.fromkeys([measures] if isinstance(measures, str) else measures))
    parsed = {name: parse(name) for name in names}
    if not ANNEALED.isdisjoint(kind for kind, _ in parsed.values()):
        check_annealing(chains, temperatures)
    n = len(data) if limit is None else min(positive_int("limit", limit), len(data))
    module: Any = model
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    identity = "" if keep is None else _identity(module, data)

    def job_of(name: str, *, bar: bool = False) -> Job:
        kind, particles = parsed[name]
        size = _batch_size(module, max(particles, chains if kind in ANNEALED else AT_ONCE.get(kind, 1)))
        path = None if keep is None else Path(keep) / f"{name}.safetensors"
        numbers = [n, size, seed, *([chains, temperatures] if kind in ANNEALED else [])]
        ledger = Ledger(n, path, f"{identity} {name} {numbers}")
        batches = partial(_batches, module, data, size, n, bar=name if bar else None)
        return Job(name, module, batches, particles, objective, seed, chains, temperatures, ledger)

    try:
        with flushed_denormals():
            if len(names) > 1:  # so that no work is lost to a measure that the model does not allow
                with seeded(seed, "rehearse"):
                    for name, (kind, _) in parsed.items():
                        RUN[kind].rehearse(job_of(name))
            found = {}
            for name, (kind, _) in parsed.items():
                job = job_of(name, bar=progress and here.first)
                if progress and kind in ANNEALED:
                    _announce(kind, job_of(name), n)
                with seeded(seed, "evaluate", name):
                    found[name] = RUN[kind].find(job)
            _check_finite({name: one.rows["value"] for name, one in found.items()})
            summary, arrays = _look(module, data, n, seed)
            log_p = _log_p(module, data, seed)
    finally:
        for part, training in modes:
            part.training = training
    about = {**data.describe(), "n_evaluated": n, "evaluation_seed": seed, "log_p": log_p}
    summaries = {name: _summarise(one, *parsed[name]) for name, one in found.items()}
    return Scores(
        measures={name: {**summary, **bits_per_dim(summary, about)} for name, summary in summaries.items()},
        data=about,
        latents=summary,
        rows={name: one.rows["value"] for name, one in found.items()},
        gallery=arrays,
    )


def _check_finite(rows: dict[str, NDArray[np.float64]]) -> None:
    for name, values in rows.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            got = f"{len(bad)} of {len(values)} rows without one, first row {bad[0]}"
            cure = "Look at those rows and at the scale of the data; a model may give a far outlier no density at all."
            raise NonFiniteError(explain(f"measure {name!r}", expected="a finite value a row", got=got, cure=cure))


def _summarise(found: Found, kind: str, particles: int) -> dict[str, Any]:
    values = found.rows["value"]
    n = len(values)
    return {
        "value": float(values.mean()),
        "stderr": float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        "n": n,
        **({"particles": particles} if kind not in UNNUMBERED else {}),
        "kind": RUN[kind].kind,
        "unit": "nats",
        **{name: float(row.mean()) for name, row in found.rows.items() if name != "value"},
        **found.facts,
    }


def _batch_size(model: Any, particles: int) -> int:
    return max(10, min(1000, rows_at_once(_device_of(model)) // particles))


def _batches(model: Any, data: Data, size: int, limit: int, *, bar: str | None = None) -> Iterator[Tensor]:
    """Yield the rows on the model's device, under a bar of that name; the first batch is checked against the model."""
    device = _device_of(model)
    with _progress(bar, limit) as advance:
        for number, batch in enumerate(data.evaluation_batches(size, limit=limit)):
            x = batch.to(device)
            if number == 0:
                with seeded(0, "first batch"):
                    made = draw(*model.programs(x), particles=1, validate=True)
                    if tuple(made.log_likelihood().shape) != (1, len(x)):
                        cure = (
                            "Read lb.elbo(*model.programs(x)).value or lb.is_loglikelihood(*model.programs(x)) instead."
                        )
                        got = "one for all rows: latents that all rows share"
                        raise ArgumentError(explain("model", expected="one value a row", got=got, cure=cure))
            yield x
            advance(len(x))


@contextmanager
def _progress(name: str | None, rows: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar, if it has a name, and give what moves it on."""
    if name is None:
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=rows)
        yield lambda rows: bar.advance(task, rows)


def _identity(model: Any, data: Data) -> str:
    """Return a digest of the model, its weights, and what identifies the data."""
    described = [repr(model), model.describe() if hasattr(model, "describe") else None, data.describe()]
    found = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for name, value in model.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _announce(kind: str, job: Job, n: int) -> None:
    """Say on the standard error stream how long a measure will take."""
    from rich.console import Console

    here, left = place(), n - job.ledger.done
    if not left or not here.first:
        return
    with seeded(0, "forecast"):
        numbers = {"chains": job.chains, "temperatures": job.temperatures}
        seconds = forecast(
            job.model, next(job.batches()), math.ceil(left / here.size), **numbers, both_ways=kind == "bdmc"
        )
    rows = f"{n:,} rows" if left == n else f"the last {left:,} of {n:,} rows"
    how = f"{rows}, {job.chains} chains each, {job.temperatures:,} temperatures"
    Console(stderr=True).print(f"{kind}: about {duration(seconds)} for {how}", highlight=False)


def _log_p(model: Any, data: Data, seed: int) -> str | None:
    """Return whether log p(x) is of a probability or a density, None if its distributions do not tell."""
    x = next(iter(data.evaluation_batches(1, limit=1))).to(_device_of(model))
    programs = model.programs(x)
    with seeded(seed, "log p"):
        trace = programs.model.observe()
    try:
        discrete = [trace.node(name).distribution.support.is_discrete for name in programs.observed]
        return "probability" if all(discrete) else "density"
    except (AttributeError, NotImplementedError):
        return None


def _device_of(model: Any) -> torch.device:
    """Return where a model lies; one without parameters and buffers lies on the processor."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))


def _look(model: Any, data: Any, n: int, seed: int) -> tuple[dict[str, Any], Gallery]:
    """Return the summary of the latents and the gallery."""
    inputs = next(iter(data.evaluation_batches(16, limit=min(16, n)))).to(_device_of(model))
    batches = _batches(model, data, _batch_size(model, 2), n)
    with seeded(seed, "look"):
        return look(model, inputs, batches, n, data=data, seed=seed)
