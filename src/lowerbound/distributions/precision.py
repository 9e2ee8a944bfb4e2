"""Gaussians and affine maps whose matrix products stay in full precision where networks run in half."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, Transform, constraints

__all__ = ["LowRankGaussian", "TriangularTransform", "full_precision"]


def full_precision(like: Tensor) -> torch.autocast:
    """Return a block in which automatic casting to half precision is off, on the device of a tensor."""
    return torch.autocast(like.device.type, enabled=False)


class LowRankGaussian(LowRankMultivariateNormal):
    r"""The Gaussian :math:`\mathcal{N}(\mu, W W^\top + \mathrm{diag}(d))`, computed in the precision of its parameters.

    Args:
        loc: The mean, shape ``[*, D]``.
        cov_factor: W, shape ``[*, D, rank]``.
        cov_diag: The positive d, shape ``[*, D]``.

    Example:
        >>> q = LowRankGaussian(torch.zeros(3, 5), torch.ones(3, 5, 2), torch.ones(3, 5))
        >>> q.rsample((7,)).shape
        torch.Size([7, 3, 5])
    """

    def __init__(self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor) -> None:
        with full_precision(loc):
            super().__init__(loc, cov_factor, cov_diag, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LowRankGaussian:
        """Return the same Gaussian with a larger batch shape."""
        new = LowRankGaussian.__new__(LowRankGaussian)
        expanded: LowRankGaussian = super().expand(torch.Size(batch_shape), new)  # type: ignore[no-untyped-call]
        return expanded

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws of shape ``sample_shape + [*, D]``."""
        with full_precision(self.loc):
            return super().rsample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of values ``[*, D]``, in nats."""
        with full_precision(self.loc):
            log_prob: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
            return log_prob


class TriangularTransform(Transform):
    r"""The map :math:`y = \mu + L x` with a lower triangular L whose diagonal is positive.

    Args:
        loc: The shift, shape ``[*, D]``.
        tril: L, shape ``[*, D, D]``.

    Example:
        >>> f = TriangularTransform(torch.zeros(2), torch.tensor([[2.0, 0.0], [1.0, 3.0]]))
        >>> f.inv(f(torch.tensor([1.0, -1.0])))
        tensor([ 1., -1.])
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, loc: Tensor, tril: Tensor, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.loc, self.tril = loc, tril

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log-determinant, shape ``[*]``."""
        return self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1).expand(x.shape[:-1])

    def _call(self, x: Tensor) -> Tensor:
        with full_precision(x):
            return self.loc + (self.tril @ x.unsqueeze(-1)).squeeze(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        with full_precision(y):
            x: Tensor = torch.linalg.solve_triangular(self.tril, (y - self.loc).unsqueeze(-1), upper=False)
            return x.squeeze(-1)
