"""Mixtures of diagonal Gaussians whose draws have gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from lowerbound.distributions.precision import full_precision

__all__ = ["GaussianMixture"]


class GaussianMixture(MixtureSameFamily):
    r"""A mixture of C diagonal Gaussians, :math:`q(z) = \sum_c \pi_c \mathcal{N}(z; \mu_c, \mathrm{diag}(\sigma_c^2))`.

    The component of a draw is a jump, yet the draw has a gradient, by implicit reparameterisation: with the
    conditional distribution functions :math:`F_d(z) = q(z_d' \le z_d \mid z_1, \dots, z_{d-1})`, which are uniform and
    independent,

    .. math:: \frac{dz}{d\phi} = -\left( \frac{\partial F}{\partial z} \right)^{-1} \frac{\partial F}{\partial \phi}

    where the first matrix is lower triangular.

    Args:
        logits: The logarithms of the weights up to a constant, shape ``[*, C]``.
        loc: The means, shape ``[*, C, D]``.
        scale: The standard deviations, shape ``[*, C, D]``.

    Source: Figurnov, Mohamed and Mnih, Implicit Reparameterization Gradients (2018), section 3.3; Graves, Stochastic
    Backpropagation through Mixture Density Distributions (2016).

    Example:
        >>> loc = torch.tensor([[-1.0], [1.0]], requires_grad=True)
        >>> q = GaussianMixture(torch.zeros(2), loc, torch.ones(2, 1))
        >>> q.rsample((1000,)).mean().backward()  # the mean moves by half of what one component's does
        >>> bool(torch.allclose(loc.grad, torch.full((2, 1), 0.5), atol=0.1))
        True
    """

    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        components = Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)
        super().__init__(Categorical(logits=logits, validate_args=False), components, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GaussianMixture:
        """Return the same mixture with a larger batch shape."""
        batch = torch.Size(batch_shape)
        shape = (*batch, *self.loc.shape[-2:])
        return GaussianMixture(self.logits.expand(*batch, -1), self.loc.expand(shape), self.scale.expand(shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws of shape ``sample_shape + batch_shape + [D]``, through which gradients flow."""
        z: Tensor = self.sample(torch.Size(sample_shape))  # type: ignore[no-untyped-call]
        with full_precision(z):
            distances, jacobian = self._distribution_functions(z)
            step: Tensor = torch.linalg.solve_triangular(jacobian, distances.unsqueeze(-1), upper=False)
            return z - step.squeeze(-1)

    def _distribution_functions(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return what is 0 and has the gradient of :math:`F_d`, ``[*, D]``, and :math:`\partial F / \partial z`.

        Both are of the tail that is nearer, which may be the upper one: there F is near 1, and differences of such
        numbers would be lost. Where the upper tail is taken, F falls with z, and its row has the other sign.
        """
        unit = (z.unsqueeze(-2) - self.loc) / self.scale  # [*, C, D]
        log_density = -0.5 * unit.square() - self.scale.log()
        before = log_density.cumsum(-1) - log_density  # of the coordinates before d
        weight = (self.logits.unsqueeze(-1) + before).softmax(-2)
        with torch.no_grad():
            sign = torch.where((weight * torch.special.ndtr(unit)).sum(-2, keepdim=True) > 0.5, -1.0, 1.0).to(z)
        tail = torch.special.ndtr(sign * unit)
        function = (weight * tail).sum(-2)
        with torch.no_grad():
            pull = -unit / self.scale
            below = torch.einsum("...cd,...ce->...de", weight * (tail - function.unsqueeze(-2)), pull).tril(-1)
            density = (weight * log_density.exp()).sum(-2) * _ROOT
            jacobian = below + torch.diag_embed(sign.squeeze(-2) * density)
        return function - function.detach(), jacobian


_ROOT = (2 * torch.pi) ** -0.5
