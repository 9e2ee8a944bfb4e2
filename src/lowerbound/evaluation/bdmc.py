r"""Bidirectional Monte Carlo: how far annealed importance sampling may be off, on data that the model made itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowerbound.core.checks import choice, positive_int
from lowerbound.core.errors import ArgumentError, explain
from lowerbound.evaluation.ais import Annealed, Path, anneal, gaussian_start, schedule_of, tune

__all__ = ["Sandwich", "bdmc"]


@dataclass(frozen=True)
class Sandwich:
    """What bidirectional Monte Carlo found, for simulated rows.

    Attributes:
        forward: Chains from the initial distribution; their weights have mean p(x).
        backward: Chains from the exact posterior draw; their weights have mean 1 / p(x).
    """

    forward: Annealed
    backward: Annealed

    @property
    def lower(self) -> Tensor:
        """A lower bound of log p(x) in expectation, float64 ``[n]``."""
        return self.forward.value

    @property
    def upper(self) -> Tensor:
        """An upper bound of log p(x) in expectation, float64 ``[n]``."""
        return -self.backward.value

    @property
    def gap(self) -> Tensor:
        """`upper` minus `lower`, float64 ``[n]``: in expectation at least what either is off."""
        return self.upper - self.lower

    @property
    def stderr(self) -> float:
        """The standard error of the mean gap over rows; it contains the noise of the chains."""
        return float(self.gap.std() / math.sqrt(len(self.gap))) if len(self.gap) > 1 else math.nan


@torch.no_grad()
def bdmc(
    model: Any,
    n: int,
    *,
    chains: int = 16,
    temperatures: int = 1000,
    schedule: str | Sequence[float] = "sigmoid",
    leapfrogs: int = 2,
    initial: str = "posterior",
) -> Sandwich:
    r"""Bracket log p(x) of rows that the model draws, for which an exact draw of the posterior is known.

    .. math:: (z, x) \sim p(z)\, p(x | z) \;\Rightarrow\; z \sim p(z | x), \qquad
        \mathbb{E} \log \bar w_{\mathrm{forward}} \le \log p(x) \le -\mathbb{E} \log \bar w_{\mathrm{backward}}

    Backward chains start at z, go through the same distributions in the other order, and estimate 1 / p(x). The gap
    bounds the error of `lowerbound.evaluation.ais` with the same settings, in expectation, on rows like the model's
    own; real rows are as easy so far as the model fits them. Draws come from torch's global generators.

    Args:
        model: A model whose generator is bound to a number of rows and draws the node ``x``.
        n: The number of rows to simulate.
        chains: The number of chains a row, in either direction.
        temperatures: As for `lowerbound.evaluation.ais`.
        schedule: As there.
        leapfrogs: As there.
        initial: ``"posterior"`` for `lowerbound.evaluation.gaussian_start`, ``"prior"`` for the prior.

    Returns:
        Both bounds and the gap of every row.

    Raises:
        ArgumentError: if a number is out of its range, the schedule does not increase from 0 to 1, or the model makes
            no rows ``x``.
        NodeError: if a latent is discrete or has no density.

    Source: Grosse, Ghahramani and Adams, Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo (2015); Wu
    et al., On the Quantitative Analysis of Decoder-Based Generative Models (2017).

    Example:
        >>> model = lb.models.VAE(event_shape=(4,), latent_dim=2, hidden=(8,))
        >>> found = bdmc(model, 7, chains=3, temperatures=20, leapfrogs=2)
        >>> found.gap.shape, bool(found.gap.mean().abs() < 0.1)
        (torch.Size([7]), True)
    """
    betas = schedule_of(schedule, positive_int("temperatures", temperatures))
    choice("initial", initial, ("posterior", "prior"))
    simulated = model.generator.bind(positive_int("n", n)).observe()
    if "x" not in simulated:
        cure = "Bracket a model whose rows are its node 'x', or measure ais alone."
        raise ArgumentError(explain("model", expected="rows x", got=", ".join(simulated), cure=cure))
    program, observed, posterior = model.programs(simulated["x"])
    start = gaussian_start(program, observed, posterior) if initial == "posterior" else None
    path = Path(program, observed, start, chains=chains)
    settings = tune(path, betas, leapfrogs=positive_int("leapfrogs", leapfrogs))
    latents = {name: simulated[name].expand(chains, *simulated[name].shape) for name in path.target.names}
    exact = path.flat(path.target.unconstrain(latents))
    return Sandwich(
        anneal(path, path.draw(), betas, settings, leapfrogs=leapfrogs),
        anneal(path, exact, betas, settings, leapfrogs=leapfrogs, reverse=True),
    )
