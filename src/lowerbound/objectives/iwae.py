r"""The importance-weighted bound and its relatives, and the estimators of their gradients.

.. math:: \log p(x) \ge \mathcal{L}_K = \mathbb{E}\left[\log \frac{1}{K} \sum_{k=1}^K
          \frac{p(x, z_k)}{q(z_k|x)}\right] \ge \mathcal{L}_{K-1}, \qquad z_k \sim q(z|x)

Relatives average the same weights in another way: in groups (MIWAE, PIWAE), mixed with the evidence lower bound
(CIWAE), or by a power mean (Rényi's bound).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lowerbound.core.checks import choice, number, positive_int
from lowerbound.core.errors import ArgumentError, NodeError, explain
from lowerbound.core.types import Model
from lowerbound.net import Program
from lowerbound.objectives.averages import Average
from lowerbound.objectives.bound import Bound, BoundObjective
from lowerbound.objectives.log_weights import Draw, draw
from lowerbound.objectives.relaxation import relaxation_options
from lowerbound.objectives.score import Baseline, baseline_cost, require_particles, vimco_signal

__all__ = ["IWAE", "ImportanceWeightedBound", "is_loglikelihood", "iw_objective"]


def iw_objective(
    model: Program,
    observed: Mapping[str, Tensor],
    posterior: Program,
    *,
    particles: int,
    groups: int = 1,
    partial: bool = False,
    alpha: float = 0.0,
    elbo_share: float = 0.0,
    validate: bool = False,
) -> ImportanceWeightedBound:
    r"""Return the importance-weighted bound of a model and a posterior on observed data, or a relative of it.

    With K draws in M groups of :math:`L = K / M` and weights :math:`w_{ml} = p(x, z_{ml}) / q(z_{ml}|x)` it is

    .. math:: \frac1M \sum_{m=1}^M \Big[ \beta \frac1L \sum_l \log w_{ml}
              + (1 - \beta) \frac{1}{1 - \alpha} \log \frac1L \sum_l w_{ml}^{1 - \alpha} \Big]

    with :math:`\beta` the share of the evidence lower bound. Every one of these is on average at most log p(x) where
    :math:`\alpha \ge 0`, and ``certified``. For :math:`\alpha < 0` the mean weight of a power above 1 is taken: Rényi's
    bound proper then lies above log p(x), and its estimate from K draws on either side, whichever K is; so it is no
    certified bound, neither lower nor upper.

    Args:
        model: The bound generative program.
        observed: The data by node name, each of shape ``batch + event``.
        posterior: The bound posterior program; the nodes that it draws are the latents.
        particles: The number K of draws in all; K = 1 is the evidence lower bound, larger K are tighter.
        groups: The number M of groups, a divisor of K. MIWAE: the bound of L draws, averaged over groups, whose
            gradient tells the posterior more.
        partial: PIWAE: only the posterior learns from groups; the model learns from the bound of all K draws, which is
            then the value.
        alpha: The order of Rényi's bound, any number but 1; 0 is the importance-weighted bound, and towards 1 it falls
            to the evidence lower bound.
        elbo_share: CIWAE: the share of the evidence lower bound, from 0 to 1.
        validate: Whether to check the parameters and supports of every node.

    Returns:
        A bound with ``value``, ``terms``, ``log_weights``, ``certified`` and the estimators ``sgvb``, ``dreg``,
        ``reinforce``, ``vimco`` and ``relaxed``.

    Raises:
        NodeError: when the bound is first read, if the two programs do not fit each other or the data.
        ArgumentError: if `groups` does not divide `particles`, there is one group for `partial`, or a number is out of
            range.

    Source: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders (2016); Rainforth et al., Tighter
    Variational Bounds are Not Necessarily Better (2018); Li and Turner, Rényi Divergence Variational Inference (2016).

    Example:
        >>> from torch.distributions import Normal
        >>> class P(lb.BayesianNet):
        ...     def forward(self, bn, n):
        ...         z = bn.sample("z", Normal(torch.zeros(n), 1.0))
        ...         bn.sample("x", Normal(z, 1.0))
        >>> class Q(lb.BayesianNet):
        ...     def forward(self, bn, x):
        ...         bn.sample("z", Normal(x / 2, 1.0))
        >>> x = torch.tensor([0.0, 1.0])
        >>> bound = lb.iw_objective(P().bind(2), {"x": x}, Q().bind(x), particles=6, groups=2)
        >>> bound.name, bound.value.shape, bound.log_weights.shape
        ('miwae-2-3', torch.Size([2]), torch.Size([6, 2]))
    """
    return ImportanceWeightedBound(
        model,
        observed,
        posterior,
        particles=particles,
        groups=groups,
        partial=partial,
        alpha=alpha,
        elbo_share=elbo_share,
        validate=validate,
    )


class ImportanceWeightedBound(Bound):
    """The importance-weighted bound, or a relative, under one draw; made by `iw_objective`."""

    def __init__(
        self,
        *args: Any,
        groups: int = 1,
        partial: bool = False,
        alpha: float = 0.0,
        elbo_share: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.groups, self.partial = _grouping(self.particles, groups, partial), partial
        self.average = _average(alpha, elbo_share)
        self._options = {"groups": groups, "partial": partial, "alpha": alpha, "elbo_share": elbo_share}
        self.certified = alpha >= 0

    @property
    def name(self) -> str:  # type: ignore[override]
        """Its name, with the number of particles, or of groups and of the particles in each."""
        alpha, share = self.average.alpha, self.average.elbo_share
        groups = 1 if self.partial else self.groups
        word = "m" * (groups > 1) + "c" * (share > 0) + ("renyi" if alpha else "iwae")
        numbers = ",".join(f"{number:g}" for number in (alpha, share) if number)
        counts = f"{self.particles}" if groups == 1 else f"{groups}-{self.particles // groups}"
        return word + (f"({numbers})" if numbers else "") + f"-{counts}"

    @property
    def value(self) -> Tensor:
        """The bound of each row, shape ``batch``, in nats, detached; by default the log of the mean weight."""
        return self._averaged(self.log_weights, 1 if self.partial else self.groups)

    def sgvb(self, *, kl_weight: Tensor | float = 1.0) -> Tensor:
        r"""Return a surrogate cost whose gradient is minus the pathwise gradient of the bound, shape ``batch``.

        Args:
            kl_weight: A factor on log p(z) - log q(z|x) in the cost's weights, for a warm-up.

        Raises:
            NodeError: if a latent was not drawn with `rsample`.

        Source: Burda, Grosse and Salakhutdinov (2016).
        """
        self._require_pathwise("sgvb")
        log_weights, own = self._played(self.draw, self.draw.log_posterior(), kl_weight)
        return own - self.average(log_weights).mean(0)

    def dreg(self, *, kl_weight: Tensor | float = 1.0) -> Tensor:
        r"""Return a surrogate cost of the doubly reparameterised gradient, shape ``batch``.

        With normalised weights :math:`\tilde w_k`, the model's parameters get
        :math:`\sum_k \tilde w_k \nabla_\theta \log w_k` and the posterior's get
        :math:`\sum_k \tilde w_k^2 \, \partial_z \log w_k \nabla_\phi z_k`. Both are unbiased; near the exact
        posterior the second has far less variance than the plain pathwise gradient. For relatives of the bound another
        factor takes the place of :math:`\tilde w_k^2`, derived in `Average.derivatives`; for Rényi's it is
        :math:`\alpha \tilde w_k + (1 - \alpha) \tilde w_k^2` with :math:`\tilde w_k \propto w_k^{1 - \alpha}`.

        Args:
            kl_weight: A factor on log p(z) - log q(z|x) in the cost's weights, for a warm-up.

        Raises:
            NodeError: if a latent was not drawn with `rsample`, or latents are masked or differ in their scale.

        Source: Tucker et al., Doubly Reparameterized Gradient Estimators (2019).
        """
        self._require_pathwise("dreg")
        own, batch = self.draw, self.draw.posterior.batch
        # The model and q are scored under copies of the draws. A copy's gradient is multiplied by the factor once, on
        # its way into the draw, whatever paths the draws have among themselves.
        factors: list[Tensor] = []
        copies = _damped_copies({name: own.posterior[name] for name in own.latents}, factors)
        constant = self._posterior.run(copies, detach_parameters=True, particles=self.particles, batch=batch)
        log_weights, cost = self._played(own, constant.log_joint(own.latents), kl_weight, copies)
        slope, factor = self.average.derivatives(log_weights.detach(), kl_weight * self._latent_scale())
        factors.append(factor.transpose(0, 1).reshape(self.particles, *batch))
        return cost - (slope * log_weights).sum(0).mean(0)

    def reinforce(
        self, *, baseline: Baseline = None, pathwise: bool = False, kl_weight: Tensor | float = 1.0
    ) -> Tensor:
        r"""Return a surrogate cost of the score-function gradient, shape ``batch``; it takes any posterior.

        .. math:: \nabla_\phi \mathcal{L}_K = \mathbb{E}\left[(L - b) \sum_k \nabla_\phi \log q(z_k|x)
                  + \sum_k \tilde w_k \nabla_\phi \log w_k\right], \qquad L = \log \frac1K \sum_k w_k

        Every group of particles has its own signal L.

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
        log_weights, own = self._played(draws, log_q, kl_weight)
        value = self.average(log_weights)
        signal, learning = baseline_cost("reinforce", value, baseline)
        return own + learning - (value + signal * self._by_group(score, self.groups).sum(0)).mean(0)

    def vimco(self, *, pathwise: bool = False, kl_weight: Tensor | float = 1.0) -> Tensor:
        r"""Return a surrogate cost of VIMCO, shape ``batch``: the score function with a signal for each particle.

        .. math:: \nabla_\phi \mathcal{L}_K = \mathbb{E}\left[\sum_k (L - L_{-k}) \nabla_\phi \log q(z_k|x)
                  + \sum_k \tilde w_k \nabla_\phi \log w_k\right]

        where :math:`L_{-k}` puts the geometric mean of the other weights of the group in the place of the particle's
        own.

        Args:
            pathwise: Whether nodes with `rsample` keep their pathwise gradient, and only the others are scored.
            kl_weight: A factor on log p(z) - log q(z|x) in the cost's weights, for a warm-up.

        Raises:
            ArgumentError: if there is only one particle, or one in each group.

        Source: Mnih and Rezende, Variational Inference for Monte Carlo Objectives (2016).
        """
        require_particles("vimco", self.particles // self.groups)
        draws, log_q, _, score = self._score_draws(pathwise=pathwise)
        log_weights, own = self._played(draws, log_q, kl_weight)
        signal = vimco_signal(log_weights.detach(), self.average)
        return own - (self.average(log_weights) + (signal * self._by_group(score, self.groups)).sum(0)).mean(0)

    def _latent_scale(self) -> float:
        """Return the factor that all latents have on their log-probabilities in the weights.

        Raises:
            NodeError: if they have several, or some entries have none, which doubles the paths in unlike ways.
        """
        nodes = [self.draw.posterior.node(name) for name in self.draw.latents]
        odd = next((node for node in nodes if node.mask is not None or node.scale != nodes[0].scale), None)
        if odd is not None:
            got = "a mask" if odd.mask is not None else f"{nodes[0].scale:g} and {odd.scale:g}"
            cure = "Use sgvb, which takes latents of any weight."
            expected = "latents that all have one scale, and no mask"
            raise NodeError(explain(f"dreg at node {odd.name!r}", expected=expected, got=got, cure=cure))
        return nodes[0].scale

    def _by_group(self, values: Tensor, groups: int) -> Tensor:
        """Return values ``[K, *batch]`` as ``[K / M, M, *batch]``: groups are a batch axis of their own."""
        return values.reshape(groups, self.particles // groups, *values.shape[1:]).transpose(0, 1)

    def _averaged(self, log_weights: Tensor, groups: int) -> Tensor:
        """Return the bound of log-weights ``[K, *batch]``."""
        return self.average(self._by_group(log_weights, groups)).mean(0)

    def _played(
        self, draws: Draw, log_q: Tensor, kl_weight: Tensor | float, copies: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | float]:
        """Return log-weights by group to learn from, ``[K / M, M, *batch]``, and the model's cost where it has its own.

        Args:
            draws: The draws.
            log_q: log q(z|x), ``[K, *batch]``.
            kl_weight: A factor on log p(z) - log q(z|x).
            copies: Tensors under which the model is scored in place of the draws.
        """
        if not self.partial:
            scored = draws if copies is None else draws.rescored(copies)
            own: Tensor | float = 0.0
        else:
            values = draws.values if copies is None else copies
            fixed = draws.rescored({name: value.detach() for name, value in values.items()})
            cost = -self._averaged(fixed.log_weights(kl_weight, log_q.detach()), 1)
            own, scored = cost - cost.detach(), draws.rescored(values, constant=True)
        if scored is not self.draw:
            self._scored = scored  # to be read, not to be differentiated: copies carry hooks
        return self._by_group(scored.log_weights(kl_weight, log_q), self.groups), own


@torch.compiler.disable  # type: ignore[untyped-decorator] # hooks inside a compiled graph do not run
def _damped_copies(values: Mapping[str, Tensor], factors: list[Tensor]) -> dict[str, Tensor]:
    """Return copies of draws ``[K, *batch, *event]`` whose gradients are multiplied by a factor on their way back.

    Args:
        values: The draws by name.
        factors: Holds the factor, shape ``[K, *batch]``, by the time that gradients flow.
    """

    def damp(grad: Tensor) -> Tensor:
        (factor,) = factors
        return grad * factor.reshape(factor.shape + (1,) * (grad.dim() - factor.dim()))

    copies = {name: value.view_as(value) for name, value in values.items()}
    for copy in copies.values():
        if copy.requires_grad:
            copy.register_hook(damp)
    return copies


def _grouping(particles: int, groups: int, partial: bool) -> int:
    """Return the number of groups if it divides the particles, and is more than one where only q has groups."""
    positive_int("groups", groups)
    if particles % groups:
        cure = "Particles are all draws: 8 groups of 5 are particles=40, groups=8."
        expected = f"a divisor of particles={particles}"
        raise ArgumentError(explain("groups", expected=expected, got=groups, cure=cure))
    if partial and groups == 1:
        cure = "Pass groups=2 or more, or leave partial out."
        raise ArgumentError(explain("partial", expected="several groups", got="groups=1", cure=cure))
    return groups


def _average(alpha: float, elbo_share: float) -> Average:
    """Return how the weights are averaged, if the numbers are in range."""
    number("elbo_share", elbo_share, low=0.0, high=1.0)
    if number("alpha", alpha) == 1:
        cure = "There Rényi's bound is the evidence lower bound: use elbo, or an alpha such as 0.9."
        raise ArgumentError(explain("alpha", expected="a number other than 1", got=alpha, cure=cure))
    return Average(alpha, elbo_share)


class IWAE(BoundObjective):
    """The importance-weighted bound, or a relative, as a training objective; the arguments are those of `iw_objective`.

    Args:
        model: The pair of programs.
        particles: The number K of draws in all.
        gradient: ``"sgvb"``, the plain pathwise gradient; ``"dreg"``, the doubly reparameterised one; or, for
            posteriors of any kind, ``"vimco"`` and ``"reinforce"``; or, for Bernoulli and one-hot latents,
            ``"relaxed"``, which is biased.
        groups: The number M of groups that the draws are averaged in: MIWAE.
        partial: Whether only the posterior learns from groups: PIWAE.
        alpha: The order of Rényi's bound; a negative one is no certified bound.
        elbo_share: The share of the evidence lower bound: CIWAE.
        temperature: Of ``"relaxed"``: lower has less bias and more variance.
        straight_through: Of ``"relaxed"``: whether the programs see rounded draws.

    Raises:
        ArgumentError: if `gradient` is unknown, or a number is out of range.

    Source: Burda, Grosse and Salakhutdinov (2016); Tucker et al. (2019); Rainforth et al. (2018); Li and Turner (2016).

    Example:
        >>> model = lb.models.VAE(event_shape=(4,), latent_dim=2, hidden=(8,))
        >>> sorted(lb.objectives.IWAE(model, particles=5)(torch.ones(3, 4)).terms)
        ['iwae-5', 'kl', 'reconstruction']
        >>> next(iter(lb.objectives.IWAE(model, particles=6, elbo_share=0.05)(torch.ones(3, 4)).terms))
        'ciwae(0.05)-6'
    """

    def __init__(
        self,
        model: Model,
        *,
        particles: int = 5,
        gradient: Literal["sgvb", "dreg", "vimco", "reinforce", "relaxed"] = "sgvb",
        groups: int = 1,
        partial: bool = False,
        alpha: float = 0.0,
        elbo_share: float = 0.0,
        temperature: float | None = None,
        straight_through: bool = False,
    ) -> None:
        super().__init__(model, particles=particles)
        self.gradient = choice("gradient", gradient, ("sgvb", "dreg", "vimco", "reinforce", "relaxed"))
        self.relaxation = relaxation_options(gradient, temperature, straight_through)
        self.groups, self.partial = _grouping(particles, groups, partial), partial
        average = _average(alpha, elbo_share)
        self.alpha, self.elbo_share = average.alpha, average.elbo_share
        self.certified = alpha >= 0
        if gradient == "vimco":
            require_particles("vimco", particles // groups)

    def bound(self, x: Tensor, *, validate: bool = False) -> ImportanceWeightedBound:
        """Return the bound of a batch, shape ``[B, *event_shape]``."""
        programs = self.model.programs(x)
        return iw_objective(*programs, particles=self.particles, validate=validate, **self._relative())

    def cost(self, bound: Any, x: Tensor) -> Tensor:
        """Return the surrogate cost of each row, shape ``[B]``."""
        estimator = getattr(bound, self.gradient)
        cost: Tensor = estimator(kl_weight=self.kl_weight, **self.relaxation)
        return cost

    def describe(self) -> dict[str, Any]:
        """Return the class, its arguments and the model, as plain values."""
        return {**super().describe(), "gradient": self.gradient, **self._relative(), **self.relaxation}

    def _relative(self) -> dict[str, Any]:
        return {
            "groups": self.groups,
            "partial": self.partial,
            "alpha": self.alpha,
            "elbo_share": self.elbo_share,
        }


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
