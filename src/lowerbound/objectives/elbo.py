r"""The evidence lower bound, and its pathwise gradients.

.. math:: \log p(x) \ge \mathbb{E}_{q(z|x)}\left[\log p(x, z) - \log q(z|x)\right]
          = \mathbb{E}_{q(z|x)}[\log p(x|z)] - \mathrm{KL}(q(z|x) \| p(z))
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import Tensor

from lowerbound.core.types import Model
from lowerbound.net import Program
from lowerbound.objectives.bound import Bound, BoundObjective

__all__ = ["ELBO", "EvidenceLowerBound", "elbo"]


def elbo(
    model: Program,
    observed: Mapping[str, Tensor],
    posterior: Program,
    *,
    particles: int = 1,
    analytic_kl: bool = False,
    validate: bool = False,
) -> EvidenceLowerBound:
    """Return the evidence lower bound of a model and a posterior on observed data.

    Args:
        model: The bound generative program, such as ``generator.bind(len(x))``.
        observed: The data by node name, each of shape ``batch + event``.
        posterior: The bound posterior program, such as ``encoder.bind(x)``; the nodes that it draws are the latents.
        particles: The number K of draws of every latent, averaged.
        analytic_kl: Whether KL(q || p) is taken in closed form at the nodes where one is known.
        validate: Whether to check the parameters and supports of every node.

    Returns:
        A bound with ``value``, ``terms``, ``log_weights`` and the estimator ``sgvb``.

    Raises:
        NodeError: when the bound is first read, if the two programs do not fit each other or the data.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes (2014).

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
        model, observed, posterior, particles=particles, analytic_kl=analytic_kl, validate=validate
    )


class EvidenceLowerBound(Bound):
    """The evidence lower bound under one draw; made by `elbo`."""

    name = "elbo"

    def __init__(self, *args: Any, analytic_kl: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.analytic_kl = analytic_kl

    @property
    def value(self) -> Tensor:
        """The bound of each row, shape ``batch``, in nats, detached: the mean log-weight, unless a KL is analytic."""
        return (self._reconstruction - self._kl).detach()

    @property
    def terms(self) -> dict[str, Tensor]:
        """The bound, E log p(x|z) and KL(q || p) of each row, shape ``batch``, in nats, detached."""
        reconstruction, kl = self._reconstruction.detach(), self._kl.detach()
        return {self.name: reconstruction - kl, "reconstruction": reconstruction, "kl": kl}

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
            return -draws.log_weights(kl_weight, constant.log_joint(draws.latents)).mean(0)
        return kl_weight * self._kl - self._reconstruction

    @cached_property
    def _reconstruction(self) -> Tensor:
        return self.draw.log_likelihood().mean(0)

    @cached_property
    def _kl(self) -> Tensor:
        return self.draw.kl(analytic=self.analytic_kl)


class ELBO(BoundObjective):
    """The evidence lower bound as a training objective.

    Args:
        model: The pair of programs.
        particles: The number K of draws of every latent, averaged.
        analytic_kl: Whether KL(q || p) is taken in closed form where one is known; less variance, the same mean.
        stl: Whether the gradient sticks the landing; it then uses the draws, not the closed form.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes (2014).

    Example:
        >>> objective = lb.objectives.ELBO(lb.models.VAE(event_shape=(4,), latent_dim=2, hidden=(8,)))
        >>> sorted(objective(torch.ones(3, 4)).terms)
        ['elbo', 'kl', 'reconstruction']
    """

    def __init__(self, model: Model, *, particles: int = 1, analytic_kl: bool = True, stl: bool = False) -> None:
        super().__init__(model, particles=particles)
        self.analytic_kl, self.stl = analytic_kl, stl

    def bound(self, x: Tensor, *, validate: bool = False) -> EvidenceLowerBound:
        """Return the bound of a batch, shape ``[B, *event_shape]``."""
        generator, posterior = self.model.generator.bind(len(x)), self.model.posterior.bind(x)
        return elbo(
            generator, {"x": x}, posterior, particles=self.particles, analytic_kl=self.analytic_kl, validate=validate
        )

    def cost(self, bound: Bound) -> Tensor:
        """Return the surrogate cost of each row, shape ``[B]``."""
        return bound.sgvb(stl=self.stl, kl_weight=self.kl_weight)  # type: ignore[call-arg]

    def describe(self) -> dict[str, Any]:
        """Return the class, its arguments and the model, as plain values."""
        return {**super().describe(), "analytic_kl": self.analytic_kl, "stl": self.stl}
