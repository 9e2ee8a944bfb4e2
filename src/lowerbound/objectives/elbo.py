r"""The evidence lower bound, and its pathwise gradients.

.. math:: \log p(x) \ge \mathbb{E}_{q(z|x)}\left[\log p(x, z) - \log q(z|x)\right]
          = \mathbb{E}_{q(z|x)}[\log p(x|z)] - \mathrm{KL}(q(z|x) \| p(z))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowerbound.core.checks import choice, number
from lowerbound.core.errors import ArgumentError, explain
from lowerbound.core.lazy import lazy
from lowerbound.core.types import Model, Outcome, Player
from lowerbound.net import Program
from lowerbound.objectives.bound import Bound, BoundObjective
from lowerbound.objectives.relaxation import relaxation_options
from lowerbound.objectives.score import Baseline, baseline_cost, require_particles

__all__ = ["ELBO", "EvidenceLowerBound", "elbo"]


def elbo(
    model: Program,
    observed: Mapping[str, Tensor],
    posterior: Program,
    *,
    particles: int = 1,
    analytic_kl: bool = False,
    beta: float = 1.0,
    validate: bool = False,
) -> EvidenceLowerBound:
    r"""Return the evidence lower bound of a model and a posterior on observed data, with a weight on its divergence.

    .. math:: \mathcal{L}_\beta = \mathbb{E}_{q(z|x)}[\log p(x|z)] - \beta \, \mathrm{KL}(q(z|x) \| p(z))

    With :math:`\beta > 1` (beta-VAE) it is a looser lower bound; with :math:`\beta < 1` it may lie above log p(x), and
    is not ``certified``. `beta` belongs to the value. The `kl_weight` of the estimators is another thing: a warm-up of
    the cost on the way to this same value, which it leaves alone; the cost has their product.

    Args:
        model: The bound generative program, such as ``generator.bind(len(x))``.
        observed: The data by node name, each of shape ``batch + event``.
        posterior: The bound posterior program, such as ``encoder.bind(x)``; the nodes that it draws are the latents.
        particles: The number K of draws of every latent, averaged.
        analytic_kl: Whether KL(q || p) is taken in closed form at the nodes where one is known.
        beta: The weight of KL(q || p) in the bound, not negative.
        validate: Whether to check the parameters and supports of every node.

    Returns:
        A bound with ``value``, ``terms``, ``certified``, ``log_weights`` (without beta) and the estimators ``sgvb``,
        ``reinforce``, ``vargrad`` and ``relaxed``.

    Raises:
        NodeError: when the bound is first read, if the two programs do not fit each other or the data.
        ArgumentError: if an argument is out of range.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes (2014); Higgins et al., beta-VAE (2017).

    Example:
        >>> from torch.distributions import Normal
        >>> class P(lb.BayesianNet):
        ...     def forward(self, bn, n):
        ...         z = bn.sample("z", Normal(torch.zeros(n), 1.0))
        ...         bn.sample("x", Normal(z, 1.0))
        >>> class Q(lb.BayesianNet):
        ...     def forward(self, bn, x):
        ...         bn.sample("z", Normal(x / 2, 0.5**0.5))
        >>> x = torch.tensor([0.0, 1.0])
        >>> lb.elbo(P().bind(2), {"x": x}, Q().bind(x), particles=3).value  # q is exact: log N(x; 0, 2)
        tensor([-1.2655, -1.5155])
    """
    return EvidenceLowerBound(
        model, observed, posterior, particles=particles, analytic_kl=analytic_kl, beta=beta, validate=validate
    )


class EvidenceLowerBound(Bound):
    """The evidence lower bound under one draw; made by `elbo`."""

    def __init__(self, *args: Any, analytic_kl: bool = False, beta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.analytic_kl, self.beta = analytic_kl, number("beta", beta, low=0.0)
        self._options = {"analytic_kl": analytic_kl, "beta": beta}
        self.certified = beta >= 1

    @property
    def name(self) -> str:  # type: ignore[override]
        """Its name, with the weight of the divergence if it is not 1."""
        return "elbo" if self.beta == 1 else f"beta-elbo({self.beta:g})"

    @property
    def value(self) -> Tensor:
        """The bound of each row, shape ``batch``, in nats, detached: the mean log-weight, unless a KL is analytic."""
        return (self._reconstruction - self.beta * self._kl).detach()

    @property
    def terms(self) -> dict[str, Tensor]:
        """The bound, E log p(x|z) and KL(q || p) of each row, shape ``batch``, in nats, detached."""
        reconstruction, kl = self._reconstruction.detach(), self._kl.detach()
        return {self.name: reconstruction - self.beta * kl, "reconstruction": reconstruction, "kl": kl}

    def sgvb(self, *, stl: bool = False, kl_weight: Tensor | float = 1.0) -> Tensor:
        r"""Return a surrogate cost whose gradient is minus the pathwise gradient of the bound, shape ``batch``.

        Args:
            stl: Sticking the landing: q's parameters count as constants in log q(z|x), so that the gradient is zero
                wherever q is the exact posterior, draw by draw. The draws then carry the whole gradient.
            kl_weight: A factor on the KL term of the cost, for a warm-up; the reported value keeps factor 1.

        Raises:
            NodeError: if a latent was not drawn with `rsample`.

        Source: Kingma and Welling (2014); Roeder, Wu and Duvenaud, Sticking the Landing (2017).
        """
        self._require_pathwise("sgvb")
        if stl:
            draws = self.draw
            values = {name: draws.posterior[name] for name in draws.latents}
            constant = self._posterior.run(
                values, detach_parameters=True, particles=self.particles, batch=draws.posterior.batch
            )
            return -draws.log_weights(kl_weight * self.beta, constant.log_joint(draws.latents)).mean(0)
        return kl_weight * self.beta * self._kl - self._reconstruction

    def reinforce(
        self, *, baseline: Baseline = None, pathwise: bool = False, kl_weight: Tensor | float = 1.0
    ) -> Tensor:
        r"""Return a surrogate cost of the score-function gradient, shape ``batch``; it takes any posterior.

        .. math:: \nabla_\phi \mathcal{L} = \mathbb{E}_q\left[(f - b)\, \nabla_\phi \log q(z|x)\right], \qquad
                  f = \log p(x|z) + \beta (\log p(z) - \log q(z|x))

        Args:
            baseline: b: None for zero, ``"leave-one-out"`` for the mean of the other particles, a number such as a
                moving average, or a tensor that does not depend on the draws, shape ``batch``; if it has a gradient,
                the cost contains the squared error that trains it.
            pathwise: Whether nodes with `rsample` keep their pathwise gradient, and only the others are scored.
            kl_weight: A factor on log p(z) - log q(z|x) in f, for a warm-up; the reported value keeps factor 1.

        Raises:
            ArgumentError: if the baseline is unknown or does not fit.

        Source: Williams, Simple Statistical Gradient-Following Algorithms (1992); Mnih and Gregor (2014).
        """
        draws, _, log_q_fixed, score = self._score_draws(pathwise=pathwise)
        f = draws.log_weights(kl_weight * self.beta, log_q_fixed)
        signal, learning = baseline_cost("reinforce", f, baseline)
        return learning - (f + signal * score).mean(0)

    def vargrad(self, *, kl_weight: Tensor | float = 1.0) -> Tensor:
        r"""Return a surrogate cost of VarGrad, shape ``batch``: half the log-weights' variance over the particles.

        .. math:: \nabla_\phi\, \tfrac12 \mathrm{Var}_k \left[\log p(x, z_k) - \log q_\phi(z_k|x)\right]

        with the draws fixed. It equals the score function with the leave-one-out baseline, draw by draw.

        Args:
            kl_weight: As for `reinforce`.

        Raises:
            ArgumentError: if there is only one particle.

        Source: Richter et al., VarGrad: A Low-Variance Gradient Estimator for Variational Inference (2020).
        """
        require_particles("vargrad", self.particles)
        draws, _, log_q_fixed, score = self._score_draws(pathwise=False)
        f = draws.log_weights(kl_weight * self.beta, log_q_fixed)
        return 0.5 * (f.detach() + score.detach() - score).var(0) - f.mean(0)

    @lazy
    def _reconstruction(self) -> Tensor:
        return self.draw.log_likelihood().mean(0)

    @lazy
    def _kl(self) -> Tensor:
        return self.draw.kl(analytic=self.analytic_kl)


class ELBO(BoundObjective):
    """The evidence lower bound as a training objective.

    Args:
        model: The pair of programs.
        particles: The number K of draws of every latent, averaged.
        analytic_kl: Whether KL(q || p) is taken in closed form where one is known; less variance, the same mean.
        gradient: ``"sgvb"``, the pathwise gradient; ``"stl"``, which sticks the landing and uses the draws, not the
            closed form; for posteriors of any kind, ``"reinforce"`` and ``"vargrad"``; or, for Bernoulli and one-hot
            latents, ``"relaxed"``, which is biased.
        baseline: Of ``"reinforce"``: None, ``"leave-one-out"``, ``"moving-average"``, or a network from rows to
            ``[B]`` or ``[B, 1]``, which is trained beside the model.
        beta: The weight of the divergence in the bound; below 1 it is no certified bound.
        temperature: Of ``"relaxed"``: lower has less bias and more variance.
        straight_through: Of ``"relaxed"``: whether the programs see rounded draws.

    Raises:
        ArgumentError: if a name is unknown, `particles` is not positive, or the estimator compares particles and there
            is one.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes (2014); Mnih and Gregor, Neural Variational Inference
    and Learning in Belief Networks (2014).

    Example:
        >>> objective = lb.objectives.ELBO(lb.models.VAE(event_shape=(4,), latent_dim=2, hidden=(8,)))
        >>> sorted(objective(torch.ones(3, 4)).terms)
        ['elbo', 'kl', 'reconstruction']
    """

    moving_average: Tensor

    def __init__(
        self,
        model: Model,
        *,
        particles: int = 1,
        analytic_kl: bool = True,
        gradient: Literal["sgvb", "stl", "reinforce", "vargrad", "relaxed"] = "sgvb",
        baseline: Literal["leave-one-out", "moving-average"] | nn.Module | None = None,
        beta: float = 1.0,
        temperature: float | None = None,
        straight_through: bool = False,
    ) -> None:
        super().__init__(model, particles=particles)
        self.beta = number("beta", beta, low=0.0)
        self.certified = beta >= 1
        self.analytic_kl = analytic_kl
        self.gradient = choice("gradient", gradient, ("sgvb", "stl", "reinforce", "vargrad", "relaxed"))
        self.relaxation = relaxation_options(gradient, temperature, straight_through)
        if isinstance(baseline, str):
            choice("baseline", baseline, ("leave-one-out", "moving-average"))
        if baseline is not None and gradient != "reinforce":
            cure = "Choose gradient='reinforce', or leave the baseline out."
            raise ArgumentError(explain("baseline", expected=f"none for gradient {gradient!r}", got="one", cure=cure))
        if gradient == "vargrad" or baseline == "leave-one-out":
            require_particles(gradient, particles)
        self.baseline = baseline
        self.register_buffer("moving_average", torch.zeros(()), persistent=baseline == "moving-average")

    def bound(self, x: Tensor, *, validate: bool = False) -> EvidenceLowerBound:
        """Return the bound of a batch, shape ``[B, *event_shape]``."""
        options: dict[str, Any] = {"analytic_kl": self.analytic_kl, "beta": self.beta}
        return elbo(*self.model.programs(x), particles=self.particles, validate=validate, **options)

    def players(self) -> tuple[Player, ...]:
        """Return the one player: the model, both programs, and the baseline's network if there is one."""
        (model,) = super().players()
        own = self.baseline.parameters() if isinstance(self.baseline, nn.Module) else ()
        return (replace(model, parameters=(*model.parameters, *own)),)

    def forward(self, x: Tensor, player: str = "model") -> Outcome:
        """Return the mean cost of a batch and its mean terms."""
        outcome = super().forward(x, player)
        if self.baseline == "moving-average" and self.training:
            self.moving_average.lerp_(next(iter(outcome.terms.values())).to(self.moving_average.dtype), 0.1)
        return outcome

    def cost(self, bound: Any, x: Tensor) -> Tensor:
        """Return the surrogate cost of each row, shape ``[B]``."""
        if self.gradient == "vargrad":
            cost: Tensor = bound.vargrad(kl_weight=self.kl_weight)
        elif self.gradient == "reinforce":
            cost = bound.reinforce(baseline=self._baseline(x), kl_weight=self.kl_weight)
        elif self.gradient == "relaxed":
            cost = bound.relaxed(kl_weight=self.kl_weight, **self.relaxation)
        else:
            cost = bound.sgvb(stl=self.gradient == "stl", kl_weight=self.kl_weight)
        return cost

    def _baseline(self, x: Tensor) -> Baseline:
        if isinstance(self.baseline, nn.Module):
            found: Tensor = self.baseline(x)
            return found.squeeze(-1) if found.dim() > 1 else found
        return self.moving_average.clone() if self.baseline == "moving-average" else self.baseline

    def describe(self) -> dict[str, Any]:
        """Return the class, its arguments and the model, as plain values."""
        baseline = type(self.baseline).__name__ if isinstance(self.baseline, nn.Module) else self.baseline
        own = {"analytic_kl": self.analytic_kl, "gradient": self.gradient, "baseline": baseline, "beta": self.beta}
        return {**super().describe(), **own, **self.relaxation}
