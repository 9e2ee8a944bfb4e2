"""The logistic distribution over a finite grid of intensities, as pixels have."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

__all__ = ["DiscretizedLogistic"]

Size = torch.Size | list[int] | tuple[int, ...]


class _Grid(constraints.Constraint):
    """The points 0, 1/(levels-1), ..., 1, to within the rounding of the value's type."""

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def check(self, value: Tensor) -> Tensor:
        steps = value * (self.levels - 1)
        tolerance = max(1e-3, self.levels * torch.finfo(steps.dtype).eps)
        return (value >= 0) & (value <= 1) & ((steps - steps.round()).abs() < tolerance)


class DiscretizedLogistic(Distribution):
    r"""A logistic variable rounded to `levels` equal steps on [0, 1]; the end steps take the tails.

    .. math:: P(x) = \sigma\left(\tfrac{x + h - \mu}{s}\right) - \sigma\left(\tfrac{x - h - \mu}{s}\right),
              \quad h = \tfrac{1}{2 (L - 1)}

    with the upper sigmoid 1 at x = 1 and the lower one 0 at x = 0, so that the L probabilities sum to 1 exactly.

    Args:
        loc: The location, shape ``[*batch]``, in units of the data.
        scale: The positive scale, broadcastable with `loc`.
        levels: The number L of grid points: 256 for 8-bit pixels.

    Source: Salimans et al., PixelCNN++ (2017); Kingma et al., Inverse Autoregressive Flow (2016).

    Example:
        >>> grid = torch.arange(256) / 255
        >>> float(DiscretizedLogistic(torch.tensor(0.3), 0.1).log_prob(grid).exp().sum().round(decimals=5))
        1.0
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    has_rsample = False

    def __init__(
        self, loc: Tensor, scale: Tensor | float, levels: int = 256, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The grid."""
        return _Grid(self.levels)

    @property
    def mean(self) -> Tensor:
        """The location clipped to [0, 1]: the mean of the variable before rounding, up to its tails."""
        return self.loc.clamp(0, 1)

    def expand(self, batch_shape: Size, _instance: Any = None) -> DiscretizedLogistic:
        """Return the same distribution with a larger batch shape."""
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return DiscretizedLogistic(loc, scale, self.levels, validate_args=False)

    def sample(self, sample_shape: Size = ()) -> Tensor:
        """Draw values on the grid, shape ``sample_shape + batch``."""
        with torch.no_grad():
            u = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
            u = u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps)
            value = self.loc + self.scale * torch.logit(u)
            return (value * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of grid values, in nats, shape ``[*batch]``."""
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 / (self.levels - 1)
        upper = (value + half - self.loc) / self.scale
        lower = (value - half - self.loc) / self.scale
        # log(sigmoid(u) - sigmoid(l)) = log sigmoid(u) + log sigmoid(-l) + log(1 - exp(l - u)), stable in both tails.
        width = (2 * half) / self.scale
        middle = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-width))
        log_prob = torch.where(value <= half, logsigmoid(upper), middle)
        return torch.where(value >= 1 - half, logsigmoid(-lower), log_prob)
