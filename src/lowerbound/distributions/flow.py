"""Normalizing flows: a Gaussian base and a chain of invertible maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, Transform, constraints

from lowerbound.core.lazy import lazy
from lowerbound.core.random import even_normal

__all__ = ["Flow", "standard_normal"]


class Flow(Distribution):
    r"""A variable :math:`z = T_n \circ \dots \circ T_1(u)` whose base u has a density.

    .. math:: \log q(z) = \log q_0(u) - \sum_i \log \left| \det \frac{\partial T_i}{\partial u_{i-1}} \right|

    A draw and its density come from one pass through the maps; the density of a given value needs their inverses.
    The mean and the variance are those of 64 evenly spread (quasi-random) points of the base, the same for every row
    of parameters: functions of the parameters, and estimates.

    Args:
        base: A Gaussian with event shape ``[D]``, such as ``Independent(Normal(loc, scale), 1)``.
        transforms: The maps in the order in which a draw goes through them, each from ``[*, D]`` to ``[*, D]``, or of
            single numbers.

    Source: Rezende and Mohamed, Variational Inference with Normalizing Flows (2015).

    Example:
        >>> from torch.distributions import AffineTransform, Independent, Normal
        >>> base = Independent(Normal(torch.zeros(5, 2), 1.0), 1)
        >>> q = Flow(base, [AffineTransform(1.0, 2.0 * torch.ones(2), event_dim=1)])
        >>> z, log_q = q.rsample_and_log_prob((3,))
        >>> z.shape, bool(torch.allclose(log_q, q.log_prob(z)))
        (torch.Size([3, 5, 2]), True)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, base: Distribution, transforms: Sequence[Transform]) -> None:
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self.base, self.transforms = base, list(transforms)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Flow:
        """Return the same flow with a larger batch shape."""
        return Flow(self.base.expand(torch.Size(batch_shape)), self.transforms)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws of shape ``sample_shape + batch_shape + [D]``, through which gradients flow."""
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Return draws, and their log-densities in nats of shape ``sample_shape + batch_shape``, from one pass."""
        base = self.base.rsample(torch.Size(sample_shape))
        value, log_det = self._push(base)
        return value, self.base.log_prob(base) - log_det

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of values, shape ``[*, D]``, in nats, by way of the inverse maps."""
        log_det: Tensor | float = 0.0
        for transform in reversed(self.transforms):
            value, part = _call_and_log_det(transform.inv, value)
            log_det = log_det + part
        return self.base.log_prob(value) + log_det

    @property
    def mean(self) -> Tensor:
        """The mean of evenly spread draws, shape ``batch_shape + [D]``."""
        return self._moments[0]

    @property
    def variance(self) -> Tensor:
        """The variance of evenly spread draws, shape ``batch_shape + [D]``."""
        return self._moments[1]

    def _push(self, value: Tensor) -> tuple[Tensor, Tensor | float]:
        log_det: Tensor | float = 0.0
        for transform in self.transforms:
            value, part = _call_and_log_det(transform, value)
            log_det = log_det + part
        return value, log_det

    @lazy
    def _moments(self) -> tuple[Tensor, Tensor]:
        loc, scale = self.base.mean, self.base.stddev
        points = _points(self.event_shape.numel()).to(loc)
        value, _ = self._push(loc + scale * points.reshape(_POINTS, *[1] * len(self.batch_shape), -1))
        variance, mean = torch.var_mean(value, 0)
        return mean, variance


_POINTS = 64


@cache
def _points(dims: int) -> Tensor:
    """Return the points of the base, in pairs of z and -z, so that maps that are linear add no error."""
    points = even_normal(_POINTS // 2, dims)
    return torch.cat([points, -points])


def standard_normal(like: Tensor) -> Independent[Normal]:
    """Return the standard normal over vectors of the shape and the type of a tensor, ``[*batch, D]``."""
    loc, scale = torch.zeros_like(like), torch.ones_like(like)
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


def _call_and_log_det(transform: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a map's value and its log-determinant, from one pass where the map has one (zuko's, and planar ones)."""
    if hasattr(transform, "call_and_ladj"):
        y, log_det = transform.call_and_ladj(x)
    else:
        y = transform(x)
        log_det = transform.log_abs_det_jacobian(x, y)
    return y, log_det if transform.domain.event_dim else log_det.sum(-1)
