r"""The importance-weighted bound, and its pathwise gradients.

.. math:: \log p(x) \ge \mathcal{L}_K = \mathbb{E}\left[\log \frac{1}{K} \sum_{k=1}^K
          \frac{p(x, z_k)}{q(z_k|x)}\right] \ge \mathcal{L}_{K-1}, \qquad z_k \sim q(z|x)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lowerbound.core.checks import choice, positive_int
from lowerbound.core.errors import ArgumentError, explain
from lowerbound.core.types import Model
from lowerbound.net import Program
from lowerbound.objectives.bound import Bound, BoundObjective
from lowerbound.objectives.log_weights import draw, log_mean_exp
from lowerbound.objectives.score import Baseline, baseline_cost, require_particles, vimco_signal

__all__ = ["IWAE", "ImportanceWeightedBound", "is_loglikelihood", "iw_objective"]


def iw_objective(
    model: Program,
    observed: Mapping[str, Tensor],
    posterior: Program,
    *,
    particles: int,
    validate: bool = False,
) -> ImportanceWeightedBound:
    """Return the importance-weighted bound of a model and a posterior on observed data.

    Args:
        model: The bound generative program.
        observed: The data by node name, each of shape ``batch + event``.
        posterior: The bound posterior program; the nodes that it draws are the latents.
        particles: The number K of draws; K = 1 is the evidence lower bound, larger K are tighter.
        validate: Whether to check the parameters and supports of every node.

    Returns:
        A bound with ``value``, ``terms``, ``log_weights`` and the estimators ``sgvb`` and ``dreg``.

    Raises:
        NodeError: when the bound is first read, if the two programs do not fit each other or the data.

    Source: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders (2016).
    """
    return ImportanceWeightedBound(model, observed, posterior, particles=particles, validate=validate)


class ImportanceWeightedBound(Bound):
    """The importance-weighted bound under one draw; made by `iw_objective`."""

    @property
    def name(self) -> str:  # type: ignore[override]
        """Its name, with the number of particles."""
        return f"iwae-{self.particles}"

    @property
    def value(self) -> Tensor:
        """The log of the mean weight of each row, shape ``batch``, in nats, detached."""
        return log_mean_exp(self.log_weights)

    def sgvb(self, *, kl_weight: Tensor | float = 1.0) -> Tensor:
        r"""Return a surrogate cost whose gradient is minus the pathwise gradient of the bound, shape ``batch``.

        Args:
            kl_weight: A factor on log p(z) - log q(z|x) in the cost's weights, for a warm-up.

        Raises:
            NodeError: if a latent was not drawn with `rsample`.

        Source: Burda, Grosse and Salakhutdinov (2016).
        """
        self._require_pathwise("sgvb")
        return -log_mean_exp(self.draw.log_weights(kl_weight))

    def dreg(self, *, kl_weight: Tensor | float = 1.0) -> Tensor:
        r"""Return a surrogate cost of the doubly reparameterised gradient, shape ``batch``.

        With normalised weights :math:`\tilde w_k`, the model's parameters get
        :math:`\sum_k \tilde w_k \nabla_\theta \log w_k` and the posterior's get
        :math:`\sum_k \tilde w_k^2 \, \partial_z \log w_k \nabla_\phi z_k`. Both are unbiased; near the exact
        posterior the second has far less variance than the plain pathwise gradient.

        Args:
            kl_weight: A factor on log p(z) - log q(z|x) in the cost's weights, for a warm-up.

        Raises:
            NodeError: if a latent was not drawn with `rsample`.

        Source: Tucker et al., Doubly Reparameterized Gradient Estimators (2019).
        """
        self._require_pathwise("dreg")
        own, batch = self.draw, self.draw.posterior.batch
        # The model and q are scored under copies of the draws. A copy's gradient is multiplied by the weight once, on
        # its way into the draw, whatever paths the draws have among themselves.
        copies = {name: own.posterior[name].view_as(own.posterior[name]) for name in own.latents}
        scored = own.rescored(copies)
        constant = self._posterior.run(copies, detach_parameters=True, particles=self.particles, batch=batch)
        log_weights = scored.log_weights(kl_weight, constant.log_joint(own.latents))
        weights = log_weights.detach().softmax(0)
        for copy in copies.values():
            if copy.requires_grad:
                copy.register_hook(
                    lambda grad: grad * weights.reshape(weights.shape + (1,) * (grad.dim() - weights.dim()))
                )
        self._scored = scored  # to be read, not to be differentiated: its latents carry the hooks
        return -(weights * log_weights).sum(0)

    def reinforce(
        self, *, baseline: Baseline = None, pathwise: bool = False, kl_weight: Tensor | float = 1.0
    ) -> Tensor:
        r"""Return a surrogate cost of the score-function gradient, shape ``batch``; it takes any posterior.

        .. math:: \nabla_\phi \mathcal{L}_K = \mathbb{E}\left[(L - b) \sum_k \nabla_\phi \log q(z_k|x)
                  + \sum_k \tilde w_k \nabla_\phi \log w_k\right], \qquad L = \log \frac1K \sum_k w_k

        Args:
            baseline: b: None for zero, a number, or a tensor that does not depend on the draws, shape ``batch``; if it
                has a gradient, the cost contains the squared error that trains it.
            pathwise: Whether nodes with `rsample` keep their pathwise gradient, and only the others are scored.
            kl_weight: A factor on log p(z) - log q(z|x) in the cost's weights, for a warm-up.

        Raises:
            ArgumentError: if the baseline is unknown or does not fit; `vimco` is the form with leave-one-out signals.

        Source: Mnih and Rezende, Variational Inference for Monte Carlo Objectives (2016).
        """
        if isinstance(baseline, str):
            cure = "Use vimco(), whose signals compare each particle with the others."
            raise ArgumentError(explain("baseline", expected="a number or a tensor", got=repr(baseline), cure=cure))
        draws, log_q, _, score = self._score_draws(pathwise=pathwise)
        value = log_mean_exp(draws.log_weights(kl_weight, log_q))
        signal, learning = baseline_cost("reinforce", value.unsqueeze(0), baseline)
        return learning - value - signal.squeeze(0) * score.sum(0)

    def vimco(self, *, pathwise: bool = False, kl_weight: Tensor | float = 1.0) -> Tensor:
        r"""Return a surrogate cost of VIMCO, shape ``batch``: the score function with a signal for each particle.

        .. math:: \nabla_\phi \mathcal{L}_K = \mathbb{E}\left[\sum_k (L - L_{-k}) \nabla_\phi \log q(z_k|x)
                  + \sum_k \tilde w_k \nabla_\phi \log w_k\right]

        where :math:`L_{-k}` puts the geometric mean of the other weights in the place of the particle's own.

        Args:
            pathwise: Whether nodes with `rsample` keep their pathwise gradient, and only the others are scored.
            kl_weight: A factor on log p(z) - log q(z|x) in the cost's weights, for a warm-up.

        Raises:
            ArgumentError: if there is only one particle.

        Source: Mnih and Rezende, Variational Inference for Monte Carlo Objectives (2016).
        """
        require_particles("vimco", self.particles)
        draws, log_q, _, score = self._score_draws(pathwise=pathwise)
        log_weights = draws.log_weights(kl_weight, log_q)
        signal = vimco_signal(log_weights.detach())
        return -log_mean_exp(log_weights) - (signal * score).sum(0)


class IWAE(BoundObjective):
    """The importance-weighted bound as a training objective.

    Args:
        model: The pair of programs.
        particles: The number K of draws.
        gradient: ``"sgvb"``, the plain pathwise gradient; ``"dreg"``, the doubly reparameterised one; or, for
            posteriors of any kind, ``"vimco"`` and ``"reinforce"``.

    Raises:
        ArgumentError: if `gradient` is unknown or `particles` is not positive.

    Source: Burda, Grosse and Salakhutdinov (2016); Tucker et al. (2019).

    Example:
        >>> objective = lb.objectives.IWAE(lb.models.VAE(event_shape=(4,), latent_dim=2, hidden=(8,)), particles=5)
        >>> sorted(objective(torch.ones(3, 4)).terms)
        ['iwae-5', 'kl', 'reconstruction']
    """

    def __init__(
        self, model: Model, *, particles: int = 5, gradient: Literal["sgvb", "dreg", "vimco", "reinforce"] = "sgvb"
    ) -> None:
        super().__init__(model, particles=particles)
        self.gradient = choice("gradient", gradient, ("sgvb", "dreg", "vimco", "reinforce"))
        if gradient == "vimco":
            require_particles("vimco", particles)

    def bound(self, x: Tensor, *, validate: bool = False) -> ImportanceWeightedBound:
        """Return the bound of a batch, shape ``[B, *event_shape]``."""
        return iw_objective(*self.model.programs(x), particles=self.particles, validate=validate)

    def cost(self, bound: Any, x: Tensor) -> Tensor:
        """Return the surrogate cost of each row, shape ``[B]``."""
        estimator = getattr(bound, self.gradient)
        cost: Tensor = estimator(kl_weight=self.kl_weight)
        return cost

    def describe(self) -> dict[str, Any]:
        """Return the class, its arguments and the model, as plain values."""
        return {**super().describe(), "gradient": self.gradient}


@torch.no_grad()
def is_loglikelihood(
    model: Program,
    observed: Mapping[str, Tensor],
    posterior: Program,
    *,
    particles: int = 1000,
    chunk: int = 100,
) -> Tensor:
    r"""Estimate log p(x) of each row by importance sampling from the posterior; a lower bound in expectation.

    .. math:: \log \hat p(x) = \log \frac{1}{K} \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k|x)}

    The draws are made in chunks and their weights are accumulated in float64, so that K is limited by time only.

    Args:
        model: The bound generative program.
        observed: The data by node name, each of shape ``batch + event``.
        posterior: The bound posterior program.
        particles: The number K of draws.
        chunk: How many draws are held in memory at once.

    Returns:
        The estimate for each row, shape ``batch``, float64, in nats.

    Source: Burda, Grosse and Salakhutdinov (2016).
    """
    positive_int("particles", particles)
    positive_int("chunk", chunk)
    sizes = [min(chunk, particles - start) for start in range(0, particles, chunk)]
    chunks = [draw(model, observed, posterior, particles=size).log_weights().double().logsumexp(0) for size in sizes]
    return torch.stack(chunks).logsumexp(0) - math.log(particles)
