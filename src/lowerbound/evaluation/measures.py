"""The measures by name: what each is, and the values of every row that it returns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.core.distributed import gather, place
from lowerbound.core.errors import ArgumentError, SamplingWarning, explain
from lowerbound.core.random import reseed
from lowerbound.evaluation.ais import ais, gaussian_start
from lowerbound.evaluation.bdmc import bdmc
from lowerbound.evaluation.critic import judge_critic, refit_critic
from lowerbound.evaluation.fitted import DRAWS, fitted_gaussian
from lowerbound.evaluation.ledger import Ledger
from lowerbound.evaluation.quadrature import quadrature
from lowerbound.objectives import AVB, elbo, is_loglikelihood
from lowerbound.objectives.log_weights import draw

__all__ = ["ANNEALED", "AT_ONCE", "MEASURES", "RUN", "UNNUMBERED", "Found", "Job", "Measure", "parse", "rows_at_once"]

# Draws times rows that are decoded at once: the activations stay in a processor's cache; an accelerator is kept busy.
ROWS_AT_ONCE, ROWS_AT_ONCE_ACCELERATED = 2000, 20_000
_REFIT_ROWS = 10_000

# Annealing is remarked on where more than a twentieth of the rows have fewer effective chains than two (of 16 or more)
# or a lower acceptance than this.
_TWENTIETH, _STUCK = 1 / 20, 0.05

UNNUMBERED = ("quadrature", "avb", "ais", "bdmc")
"""The measures that have no number of particles."""

ANNEALED = frozenset({"ais", "bdmc"})
"""The measures that have chains and temperatures."""

MEASURES = ("elbo", "elbo-K", "iwae-K", "is-K", "quadrature", "avb", "ais", "bdmc")


@dataclass(frozen=True)
class Job:
    """What a measure works on.

    Attributes:
        name: The measure's name, such as ``"iwae-1000"``.
        model: The model, in evaluation mode.
        batches: Makes an iterator over the batches of rows, each ``[b, *event_shape]``.
        particles: The number K of draws a row.
        objective: The adversarial objective that trained the model, or None.
        seed: The seed of the draws.
        chains: The number of chains a row that anneal.
        temperatures: The number of steps from their start to the posterior.
        ledger: Where the values of rows are taken down as they are found.
    """

    name: str
    model: Any
    batches: Callable[[], Iterator[Tensor]]
    particles: int
    objective: AVB | None
    seed: int
    chains: int
    temperatures: int
    ledger: Ledger


@dataclass(frozen=True)
class Found:
    """What a measure found.

    Attributes:
        rows: ``value``, and parts of it by name, float64 ``[n]``, in nats.
        facts: Plain numbers about all rows together.
    """

    rows: dict[str, NDArray[np.float64]]
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """What a name stands for.

    Attributes:
        kind: What its value is to log p(x).
        find: Returns the values of every row.
        rehearse: Goes through it on a few rows, and raises what `find` would raise.
    """

    kind: str
    find: Callable[[Job], Found]
    rehearse: Callable[[Job], object]


def parse(name: str) -> tuple[str, int]:
    """Split a measure's name into its kind and its number of particles.

    Raises:
        ArgumentError: if there is no such measure.

    Example:
        >>> parse("elbo"), parse("iwae-1000")
        (('elbo', 1), ('iwae', 1000))
    """
    kind, dash, count = name.partition("-")
    if kind in ("elbo", *UNNUMBERED) and not dash:
        return kind, 1
    if f"{kind}-K" in MEASURES and count.isdecimal() and int(count) > 0:
        return kind, int(count)
    cure = "Write elbo, elbo-16 or iwae-1000, for example."
    expected = f"one of {', '.join(MEASURES)} with a number K"
    raise ArgumentError(explain("measure", expected=expected, got=repr(name), cure=cure))


def _by_rows(
    kind: str,
    of_batch: Callable[[Job, Tensor], Mapping[str, Tensor]],
    facts: Callable[[Job, dict[str, NDArray[np.float64]]], dict[str, float]] = lambda job, rows: {},
) -> Measure:
    """Return a measure that goes through the batches, each with noise of its own, and takes down what it finds.

    Several processes take the batches in turn, and tell each other what they found after every round.

    Args:
        kind: What its value is to log p(x).
        of_batch: From a batch to ``value`` and parts of it, ``[b]`` by name; names that begin with ``_`` are for
            `facts` only.
        facts: From the values of all rows to plain numbers.
    """

    def find(job: Job) -> Found:
        ledger, here, left = job.ledger, place(), _left(job)
        try:
            while turns := list(islice(left, here.size)):
                own: Mapping[str, Tensor] = {}
                if here.rank < len(turns):
                    number, x = turns[here.rank]
                    reseed(job.seed, "evaluate", job.name, number)
                    own = of_batch(job, x)
                for values in gather(dict(own))[: len(turns)]:
                    ledger.add(values)
        finally:
            ledger.write()
        shown = {name: row for name, row in ledger.rows.items() if not name.startswith("_")}
        return Found(shown, facts(job, ledger.rows))

    def rehearse(job: Job) -> None:
        of_batch(replace(job, particles=1, chains=2, temperatures=2), next(job.batches())[:2])

    return Measure(kind, find, rehearse)


def _left(job: Job) -> Iterator[tuple[int, Tensor]]:
    """Yield the batches that are not done, with their numbers."""
    done, first = job.ledger.done, 0
    for number, x in enumerate(job.batches()):
        if first >= done:
            yield number, x
        first += len(x)


def rows_at_once(device: torch.device) -> int:
    """Return how many draws times rows are decoded at once on a device."""
    return ROWS_AT_ONCE if device.type == "cpu" else ROWS_AT_ONCE_ACCELERATED


def _elbo(job: Job, x: Tensor) -> Mapping[str, Tensor]:
    programs, total = job.model.programs(x), torch.zeros(3, len(x), dtype=torch.float64)
    chunk = max(1, rows_at_once(x.device) // len(x))
    for done in range(0, job.particles, chunk):
        particles = min(chunk, job.particles - done)
        terms = elbo(*programs, particles=particles, analytic_kl=True).terms.values()
        total += particles * torch.stack(list(terms)).double().cpu()
    return dict(zip(("value", "reconstruction", "kl"), total / job.particles, strict=True))


def _importance(job: Job, x: Tensor, proposal: Callable[[Any], Any]) -> Mapping[str, Tensor]:
    chunk = max(1, rows_at_once(x.device) // len(x))
    model, observed, posterior = job.model.programs(x)
    estimate = is_loglikelihood(model, observed, proposal(posterior), particles=job.particles, chunk=chunk)
    return {"value": estimate}


def _iwae(job: Job, x: Tensor) -> Mapping[str, Tensor]:
    return _importance(job, x, lambda posterior: posterior)


def _is(job: Job, x: Tensor) -> Mapping[str, Tensor]:
    made = draw(*job.model.programs(x[:1]), particles=1)
    for name in made.latents:
        support: Any = getattr(made.model.node(name).distribution, "support", None)
        value = made.model[name]
        if support is not None and not bool(support.check(value + 1e3) & support.check(value - 1e3)):
            cure = "Measure iwae-K, or let the latent be real and transform it in the model."
            got = f"node {name!r} with support {support}"
            raise ArgumentError(
                explain("measure 'is-K'", expected="latents on the whole real line", got=got, cure=cure)
            )
    return _importance(job, x, fitted_gaussian)


def _quadrature(job: Job, x: Tensor) -> Mapping[str, Tensor]:
    inputs = job.model.programs(x).model.inputs
    if not inputs or not isinstance(inputs[0], int):
        cure = "Measure iwae-K or is-K instead."
        expected = "a generator of so many rows, which all have the same p(x | z)"
        raise ArgumentError(explain("measure 'quadrature'", expected=expected, got="one with inputs", cure=cure))
    log_p, moved = quadrature(job.model.generator, x)
    return {"value": log_p, "_moved": moved}


def _grid_facts(job: Job, rows: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    return {"grid_change": float(rows["_moved"].max())}


def _avb(job: Job) -> Found:
    """Judge the critic by a fresh one, fitted to the first rows: one for all rows, so it is no measure by rows."""
    _check_critic(job)
    objective: Any = job.objective
    first, kept, n = [], 0, 0
    for x in job.batches():
        n += len(x)
        if kept < _REFIT_ROWS:
            first.append(x[: _REFIT_ROWS - kept])
            kept += len(first[-1])
    fresh = refit_critic(objective, torch.cat(first))
    found = judge_critic(objective, fresh, job.batches(), n, seed=job.seed)
    rows = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    facts = {name: value for name, value in found.items() if isinstance(value, float)}
    claimed, refitted = (rows["reconstruction"] - rows[f"kl_{whose}"] for whose in ("claimed", "refitted"))
    nearer = refitted if facts["loss_refitted"] < facts["loss_claimed"] else claimed
    return Found({"value": nearer, "claimed": claimed, "refitted": refitted, **rows}, facts)


def _check_critic(job: Job) -> None:
    if job.objective is None:
        cure = "Pass lb.evaluate(..., objective=the objective that trained the model)."
        expected = "a model that was trained against a critic"
        raise ArgumentError(explain("measure 'avb'", expected=expected, got="no adversarial objective", cure=cure))


def _ais(job: Job, x: Tensor) -> Mapping[str, Tensor]:
    program, observed, posterior = job.model.programs(x)
    start = gaussian_start(program, observed, posterior)
    found = ais(program, observed, start, chains=job.chains, temperatures=job.temperatures)
    return {"value": found.value, "_stderr": found.stderr, "_ess": found.ess, "_acceptance": found.acceptance}


def _ais_facts(job: Job, rows: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    n, ess, acceptance = len(rows["value"]), rows["_ess"], rows["_acceptance"]
    few = min(2.0, max(1.2, job.chains / 8))
    if (poor := int((ess < few).sum())) > _TWENTIETH * n:
        said = f"the weight of {poor:,} of {n:,} rows rests on fewer than {few:g} of {job.chains} chains"
        _warn("ais", f"{said}: a lower bound still, and a loose one. Raise --temperatures.")
    if (stuck := int((acceptance < _STUCK).sum())) > _TWENTIETH * n:
        said = f"chains of {stuck:,} of {n:,} rows hardly move (acceptance below {_STUCK:.0%})"
        _warn("ais", f"{said}. Raise --temperatures: their step sizes follow the target more closely then.")
    return {
        **_annealing(job),
        "stderr_chains": float(np.sqrt((rows["_stderr"] ** 2).sum()) / n),
        "ess": float(ess.mean()),
        "rows_of_low_ess": poor,
        "acceptance": float(acceptance.mean()),
    }


def _bdmc(job: Job, x: Tensor) -> Mapping[str, Tensor]:
    """Bracket as many simulated rows as there are rows; those serve for their number only."""
    found = bdmc(job.model, len(x), chains=job.chains, temperatures=job.temperatures)
    return {"value": found.gap, "lower": found.lower, "upper": found.upper}


def _annealing(job: Job, _: Any = None) -> dict[str, float]:
    return {"chains": job.chains, "temperatures": job.temperatures}


def _warn(measure: str, said: str) -> None:
    if place().first:
        warnings.warn(f"{measure}: {said}", SamplingWarning, stacklevel=2)


AT_ONCE = {"is": DRAWS}
"""By the first word of a measure's name: draws a row that it holds at once, where they are more than its particles."""

RUN = {
    "elbo": _by_rows("lower bound", _elbo),
    "iwae": _by_rows("lower bound", _iwae),
    "is": _by_rows("lower bound", _is),
    "quadrature": _by_rows("exact", _quadrature, _grid_facts),
    "avb": Measure("no bound", _avb, _check_critic),
    "ais": _by_rows("lower bound", _ais, _ais_facts),
    "bdmc": _by_rows("gap on simulated rows", _bdmc, _annealing),
}
"""By the first word of a measure's name: the measure."""
