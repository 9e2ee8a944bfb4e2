r"""The inclusive divergence KL(p(z|x) || q(z|x)) and reweighted wake-sleep.

.. math:: \mathrm{KL}(p(z|x) \| q(z|x)) = \mathbb{E}_{p(z|x)}\left[\log p(x, z) - \log q(z|x)\right] - \log p(x)

Its gradient needs no path through the draws, so the posterior may be discrete: the draws of q are weighted by
:math:`\tilde w_k \propto p(x, z_k) / q(z_k|x)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lowerbound.core.checks import choice
from lowerbound.core.types import Model
from lowerbound.net import Program
from lowerbound.objectives.bound import Bound, BoundObjective
from lowerbound.objectives.log_weights import log_mean_exp
from lowerbound.objectives.score import require_particles

__all__ = ["RWS", "InclusiveKL", "klpq"]


def klpq(
    model: Program,
    observed: Mapping[str, Tensor],
    posterior: Program,
    *,
    particles: int,
    validate: bool = False,
) -> InclusiveKL:
    """Return the inclusive divergence of a posterior from the model's, on observed data.

    Args:
        model: The bound generative program.
        observed: The data by node name, each of shape ``batch + event``.
        posterior: The bound posterior program; the nodes that it draws are the latents.
        particles: The number K of draws, at least 2: one draw has weight 1, whatever its value.
        validate: Whether to check the parameters and supports of every node.

    Returns:
        An estimate with ``value``, ``terms``, ``log_weights`` and the costs ``importance()`` of the posterior and
        ``wake()`` of the model.

    Raises:
        ArgumentError: if there is only one particle.
        NodeError: when it is first read, if the two programs do not fit each other or the data.

    Source: Bornschein and Bengio, Reweighted Wake-Sleep (2015).

    Example:
        >>> from torch.distributions import Bernoulli, Normal
        >>> class P(lb.BayesianNet):
        ...     def forward(self, bn, n):
        ...         z = bn.sample("z", Bernoulli(torch.full((n,), 0.5)))
        ...         bn.sample("x", Normal(z, 1.0))
        >>> class Q(lb.BayesianNet):
        ...     def forward(self, bn, x):
        ...         bn.sample("z", Bernoulli(logits=x - 0.5))  # the exact posterior
        >>> x = torch.tensor([0.0, 1.0])
        >>> bool(lb.klpq(P().bind(2), {"x": x}, Q().bind(x), particles=4).value.abs().max() < 1e-6)
        True
    """
    return InclusiveKL(model, observed, posterior, particles=particles, validate=validate)


class InclusiveKL(Bound):
    """The inclusive divergence under one draw; made by `klpq`."""

    name = "klpq"
    _pathwise = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_particles("klpq", self.particles)

    @property
    def value(self) -> Tensor:
        r"""The estimate :math:`\sum_k \tilde w_k \log w_k - \log \frac1K \sum_k w_k` of each row, shape ``batch``.

        It is a divergence, to be minimised, in nats; consistent as K grows, biased for any K.
        """
        log_weights = self.log_weights
        return _weighted(log_weights.softmax(0), log_weights).sum(0) - log_mean_exp(log_weights)

    @property
    def terms(self) -> dict[str, Tensor]:
        """The importance-weighted bound and the divergence of each row, shape ``batch``, in nats, detached."""
        return {f"iwae-{self.particles}": log_mean_exp(self.log_weights), "klpq": self.value}

    def importance(self) -> Tensor:
        r"""Return the posterior's surrogate cost, the wake phase of q, shape ``batch``.

        .. math:: -\sum_k \tilde w_k \log q_\phi(z_k|x)

        with constant weights: self-normalised importance sampling of the divergence's gradient.
        """
        draws, log_q, _, _ = self._score_draws(pathwise=False)
        return -_weighted(draws.log_weights(1.0, log_q).detach().softmax(0), log_q).sum(0)

    def wake(self) -> Tensor:
        r"""Return the model's surrogate cost, the wake phase of p, shape ``batch``.

        .. math:: -\sum_k \tilde w_k \log p_\theta(x, z_k)

        with constant weights: its gradient is that of the importance-weighted bound.
        """
        draws, log_q, _, _ = self._score_draws(pathwise=False)
        log_joint = draws.log_likelihood() + draws.log_prior()
        return -_weighted((log_joint - log_q).detach().softmax(0), log_joint).sum(0)


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Return weights times values; a particle of no weight counts for nothing, though its value is infinite."""
    return weights * values.masked_fill(weights == 0, 0.0)


class RWS(BoundObjective):
    r"""Reweighted wake-sleep as a training objective, for posteriors of any kind.

    The model always learns in the wake phase, by :math:`\sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k)`. The
    posterior learns by the same weights (``"wake"``), from rows that the model dreams (``"sleep"``), or from both.

    Args:
        model: The pair of programs.
        particles: The number K of draws, at least 2.
        posterior_phase: ``"wake"``, ``"sleep"`` or ``"both"``.

    Raises:
        ArgumentError: if there is only one particle or the phase is unknown.

    Source: Bornschein and Bengio, Reweighted Wake-Sleep (2015).

    Example:
        >>> objective = lb.objectives.RWS(lb.models.VAE(event_shape=(4,), latent_dim=2, hidden=(8,)), particles=5)
        >>> sorted(objective(torch.ones(3, 4)).terms)
        ['iwae-5', 'klpq']
    """

    def __init__(
        self, model: Model, *, particles: int = 10, posterior_phase: Literal["wake", "sleep", "both"] = "wake"
    ) -> None:
        super().__init__(model, particles=particles)
        require_particles("RWS", particles)
        self.posterior_phase = choice("posterior_phase", posterior_phase, ("wake", "sleep", "both"))

    def bound(self, x: Tensor, *, validate: bool = False) -> InclusiveKL:
        """Return the divergence of a batch, shape ``[B, *event_shape]``."""
        return klpq(*self.model.programs(x), particles=self.particles, validate=validate)

    def cost(self, bound: Any, x: Tensor) -> Tensor:
        """Return the surrogate cost of each row, shape ``[B]``; a warm-up does not apply to it."""
        cost: Tensor = bound.wake()
        if self.posterior_phase != "sleep":
            cost = cost + bound.importance()
        if self.posterior_phase != "wake":
            cost = cost + self.sleep(x, bound.draw.latents)
        return cost

    def sleep(self, x: Tensor, latents: list[str]) -> Tensor:
        """Return the posterior's cost on rows that the model dreams in the place of `x`, shape ``[B]``.

        It is minus log q at the dreamt latents. Gaps of `x`, NaN, stay gaps.
        """
        with torch.no_grad():
            dream = self.model.programs(x).model.run()
        values = {name: dream[name] for name in latents}
        rows = torch.where(x.isnan(), x, dream["x"])
        cost: Tensor = -self.model.programs(rows).posterior.run(values).log_joint(latents)
        return cost

    def describe(self) -> dict[str, Any]:
        """Return the class, its arguments and the model, as plain values."""
        return {**super().describe(), "posterior_phase": self.posterior_phase}
