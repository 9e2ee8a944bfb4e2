"""The planar map, with its determinant and its inverse."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.nn.functional import softplus

__all__ = ["PlanarTransform"]


class PlanarTransform(Transform):
    r"""A map that shears the space along one direction, by an amount that depends on one projection.

    .. math:: f(x) = x + \hat u \tanh(a), \quad a = w^\top x + b, \qquad
              \left| \det f'(x) \right| = 1 + w^\top \hat u\, (1 - \tanh^2 a)

    It is invertible if :math:`w^\top \hat u > -1`. Any u is made so, by a change along w only:

    .. math:: \hat u = u + (m(w^\top u) - w^\top u) \frac{w}{\|w\|^2}, \qquad
              m(t) = \log(1 + (e^{1 - \delta} - 1) e^t) - 1 + \delta

    where m is Rezende and Mohamed's, shifted so that :math:`m(0) = 0`: at u = 0 the map is the identity, whatever w.
    The determinant is above :math:`\delta = 0.05`, which leaves an inverse that single precision can find.
    The inverse is :math:`x = y - \hat u \tanh(a)`, and a solves :math:`a + w^\top \hat u \tanh(a) = w^\top y + b`, one
    increasing equation of one number, by bisection; its gradients are exact by the implicit function theorem.

    Args:
        u: The direction of the shear, shape ``[*, D]``.
        w: The direction that is looked at, not zero, shape ``[*, D]``.
        b: The offset, shape ``[*]``.

    Source: Rezende and Mohamed, Variational Inference with Normalizing Flows (2015), appendix A.1.

    Example:
        >>> f = PlanarTransform(torch.tensor([1.0, 2.0]), torch.tensor([-3.0, 0.5]), torch.tensor(0.1))
        >>> x = torch.tensor([0.3, -0.7])
        >>> bool(torch.allclose(f.inv(f(x)), x, atol=1e-6))
        True
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, u: Tensor, w: Tensor, b: Tensor, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        dot = (w * u).sum(-1)
        self.w, self.b = w, b
        self.room = _LEAST + softplus(dot + _SHIFT)  # 1 + w'u
        along = (self.room - 1 - dot) / w.square().sum(-1).clamp_min(torch.finfo(w.dtype).tiny)
        self.u = u + along.unsqueeze(-1) * w

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value, shape ``[*, D]``, and the log-determinant, shape ``[*]``."""
        t = self._activation(x)
        return x + self.u * t.unsqueeze(-1), self._determinant(t).log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log-determinant at x, shape ``[*]``."""
        return self._determinant(self._activation(x)).log()

    def _call(self, x: Tensor) -> Tensor:
        return x + self.u * self._activation(x).unsqueeze(-1)

    def _activation(self, x: Tensor) -> Tensor:
        return ((self.w * x).sum(-1) + self.b).tanh()

    def _determinant(self, t: Tensor) -> Tensor:
        # 1 + w'u (1 - t^2) without the difference of 1 and 1 that is left where w'u is near -1.
        return t.square() + self.room * (1 - t) * (1 + t)

    def _inverse(self, y: Tensor) -> Tensor:
        target = (self.w * y).sum(-1) + self.b
        slope = self.room - 1
        with torch.no_grad():
            low, high = target - slope.abs(), target + slope.abs()
            for _ in range(_HALVINGS):
                middle = 0.5 * (low + high)
                above = middle + slope * middle.tanh() > target
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            root = 0.5 * (low + high)
            tanh = root.tanh()
            rate = self._determinant(tanh)
        # One Newton step: it polishes the root, and its derivatives are those of the root.
        a = root - (root + slope * tanh - target) / rate
        return y - self.u * a.tanh().unsqueeze(-1)


_LEAST = 0.05
_SHIFT = math.log(math.exp(1 - _LEAST) - 1)
_HALVINGS = 60
