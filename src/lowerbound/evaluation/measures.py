"""The measures by name: what each is, and the values of every row that it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.core.errors import ArgumentError, explain
from lowerbound.evaluation.ais import ais, gaussian_start
from lowerbound.evaluation.bdmc import bdmc
from lowerbound.evaluation.critic import judge_critic, refit_critic
from lowerbound.evaluation.fitted import DRAWS, fitted_gaussian
from lowerbound.evaluation.quadrature import quadrature
from lowerbound.objectives import AVB, elbo, is_loglikelihood
from lowerbound.objectives.log_weights import draw

__all__ = ["MEASURES", "ROWS_AT_ONCE", "UNNUMBERED", "Found", "Job", "parse"]

# Draws times rows that are decoded at once. Small enough for the activations to stay in a processor's cache.
ROWS_AT_ONCE = 2000
_REFIT_ROWS = 10_000

UNNUMBERED = ("quadrature", "avb", "ais", "bdmc")
"""The measures that have no number of particles."""

MEASURES = ("elbo", "elbo-K", "iwae-K", "is-K", "quadrature", "avb", "ais", "bdmc")


@dataclass(frozen=True)
class Job:
    """What a measure works on.

    Attributes:
        model: The model, in evaluation mode.
        batches: Makes an iterator over the batches of rows, each ``[b, *event_shape]``.
        n: The number of rows.
        particles: The number K of draws a row.
        objective: The adversarial objective that trained the model, or None.
        seed: The seed of the draws.
        chains: The number of chains a row that anneal.
        temperatures: The number of steps from their start to the posterior.
    """

    model: Any
    batches: Callable[[], Iterator[Tensor]]
    n: int
    particles: int
    objective: AVB | None
    seed: int
    chains: int = 16
    temperatures: int = 1000


@dataclass(frozen=True)
class Found:
    """What a measure found.

    Attributes:
        rows: ``value``, and parts of it by name, float64 ``[n]``, in nats.
        facts: Plain numbers about all rows together.
    """

    rows: dict[str, NDArray[np.float64]]
    facts: dict[str, float] = field(default_factory=dict)


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


# Results go into arrays of full length: tensors kept from each batch would pin the heap between large temporaries.
def _elbo(job: Job) -> Found:
    rows = {name: np.empty(job.n) for name in ("value", "reconstruction", "kl")}
    done = 0
    for x in job.batches():
        bound = elbo(*job.model.programs(x), particles=job.particles, analytic_kl=True)
        for row, values in zip(rows.values(), bound.terms.values(), strict=True):
            row[done : done + len(x)] = values.double().cpu()
        done += len(x)
    return Found(rows)


def _importance(job: Job, proposal: Callable[[Any], Any]) -> Found:
    value, done = np.empty(job.n), 0
    for x in job.batches():
        chunk = max(1, ROWS_AT_ONCE // len(x))
        model, observed, posterior = job.model.programs(x)
        estimate = is_loglikelihood(model, observed, proposal(posterior), particles=job.particles, chunk=chunk)
        value[done : done + len(x)] = estimate.cpu()
        done += len(x)
    return Found({"value": value})


def _iwae(job: Job) -> Found:
    return _importance(job, lambda posterior: posterior)


def _is(job: Job) -> Found:
    x = next(job.batches())[:1]
    made = draw(*job.model.programs(x), particles=1)
    for name in made.latents:
        support: Any = getattr(made.model.node(name).distribution, "support", None)
        value = made.model[name]
        if support is not None and not bool(support.check(value + 1e3) & support.check(value - 1e3)):
            cure = "Measure iwae-K, or let the latent be real and transform it in the model."
            got = f"node {name!r} with support {support}"
            raise ArgumentError(
                explain("measure 'is-K'", expected="latents on the whole real line", got=got, cure=cure)
            )
    return _importance(job, fitted_gaussian)


def _quadrature(job: Job) -> Found:
    value, change, done = np.empty(job.n), 0.0, 0
    for x in job.batches():
        inputs = job.model.programs(x).model.inputs
        if not inputs or not isinstance(inputs[0], int):
            cure = "Measure iwae-K or is-K instead."
            expected = "a generator of so many rows, which all have the same p(x | z)"
            raise ArgumentError(explain("measure 'quadrature'", expected=expected, got="one with inputs", cure=cure))
        log_p, moved = quadrature(job.model.generator, x)
        value[done : done + len(x)] = log_p.cpu()
        change = max(change, float(moved.max()))
        done += len(x)
    return Found({"value": value}, {"grid_change": change})


def _avb(job: Job) -> Found:
    if job.objective is None:
        cure = "Pass lb.evaluate(..., objective=the objective that trained the model)."
        expected = "a model that was trained against a critic"
        raise ArgumentError(explain("measure 'avb'", expected=expected, got="no adversarial objective", cure=cure))
    first, kept = [], 0
    for x in job.batches():
        first.append(x[: _REFIT_ROWS - kept])
        kept += len(first[-1])
        if kept >= _REFIT_ROWS:
            break
    fresh = refit_critic(job.objective, torch.cat(first))
    found = judge_critic(job.objective, fresh, job.batches(), job.n, seed=job.seed)
    rows = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    facts = {name: value for name, value in found.items() if isinstance(value, float)}
    claimed, refitted = (rows["reconstruction"] - rows[f"kl_{whose}"] for whose in ("claimed", "refitted"))
    nearer = refitted if facts["loss_refitted"] < facts["loss_claimed"] else claimed
    return Found({"value": nearer, "claimed": claimed, "refitted": refitted, **rows}, facts)


def _ais(job: Job) -> Found:
    value, stderr, ess, acceptance = np.empty((4, job.n))
    done = 0
    for x in job.batches():
        program, observed, posterior = job.model.programs(x)
        start = gaussian_start(program, observed, posterior)
        found = ais(program, observed, start, chains=job.chains, temperatures=job.temperatures)
        rows = slice(done, done + len(x))
        value[rows], stderr[rows] = found.value.cpu(), found.stderr.cpu()
        ess[rows], acceptance[rows] = found.ess.cpu(), found.acceptance.double().cpu()
        done += len(x)
    facts = {"stderr_chains": float(np.sqrt((stderr**2).sum()) / job.n), "ess": ess.mean()}
    return Found({"value": value}, {**_annealing(job), **facts, "acceptance": acceptance.mean()})


def _bdmc(job: Job) -> Found:
    """Bracket as many simulated rows as there are rows; those serve for their number only."""
    lower, upper, done = np.empty(job.n), np.empty(job.n), 0
    for x in job.batches():
        found = bdmc(job.model, len(x), chains=job.chains, temperatures=job.temperatures)
        rows = slice(done, done + len(x))
        lower[rows], upper[rows] = found.lower.cpu(), found.upper.cpu()
        done += len(x)
    return Found({"value": upper - lower, "lower": lower, "upper": upper}, _annealing(job))


def _annealing(job: Job) -> dict[str, float]:
    return {"chains": job.chains, "temperatures": job.temperatures}


AT_ONCE = {"is": DRAWS}
"""By the first word of a measure's name: draws a row that it holds at once, where they are more than its particles."""

RUN: dict[str, tuple[str, Callable[[Job], Found]]] = {
    "elbo": ("lower bound", _elbo),
    "iwae": ("lower bound", _iwae),
    "is": ("lower bound", _is),
    "quadrature": ("exact", _quadrature),
    "avb": ("no bound", _avb),
    "ais": ("lower bound", _ais),
    "bdmc": ("gap on simulated rows", _bdmc),
}
"""By the first word of a measure's name: what its value is to log p(x), and the function that finds it."""
