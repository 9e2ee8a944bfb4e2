"""What every likelihood is: from a decoder's output to a distribution over events."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lowerbound.core.checks import event_shape
from lowerbound.core.errors import ShapeError, explain
from lowerbound.nn.heads import widen

__all__ = ["LOG_BOUND", "Likelihood", "bounded_exp"]

# Logarithms of means, rates and scales stay within these bounds: wide enough never to bind in a healthy model.
LOG_BOUND = {"count": 20.0, "scale": 9.0}


class Likelihood(nn.Module):
    """From a decoder's output of shape ``[*, *event_shape]`` to p(x | z) over events of that shape.

    Args:
        shape: The event shape.

    Attributes:
        outputs: How many numbers it takes for each value of an event. If more than one, the decoder's output has shape
            ``[*, outputs, *event_shape]``.
        counts: Whether events hold counts.
        mixed: Whether values are columns of several types, which `see` standardises itself.
    """

    outputs = 1
    counts = False
    mixed = False

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = event_shape(shape)

    def forward(self, output: Tensor) -> Distribution:
        """Return the distribution with batch shape ``[*]`` and event shape ``event_shape``.

        Raises:
            ShapeError: if the output does not end in the shape that the likelihood takes.
        """
        shape = self.event_shape if self.outputs == 1 else (self.outputs, *self.event_shape)
        if output.shape[-len(shape) :] != shape:
            expected, cure = f"shape (..., {', '.join(map(str, shape))})", "Give the decoder the likelihood's outputs."
            raise ShapeError(explain("output of the decoder", expected=expected, got=tuple(output.shape), cure=cure))
        return Independent(self.values(widen(output)), len(self.event_shape), validate_args=False)

    def values(self, output: Tensor) -> Distribution:
        """Return the distribution of each single value, with batch shape ``[*, *event_shape]``."""
        raise NotImplementedError

    @property
    def seen_size(self) -> int:
        """How many numbers an encoder sees of a row."""
        return math.prod(self.event_shape)

    def see(self, x: Tensor) -> Tensor:
        """Return what an encoder is to see of rows or of their mean: by default the values themselves."""
        return x

    def standardize(self, center: Tensor, spread: Tensor) -> None:
        """Count outputs in units of the data, where the likelihood has such units; by default nothing.

        Args:
            center: The mean of the data, shape ``event_shape`` or ``[]``.
            spread: Their standard deviation, shape ``event_shape`` or ``[]``.
        """


def bounded_exp(log: Tensor) -> Tensor:
    """Return the exponential of a logarithm that is kept within bounds."""
    bound = LOG_BOUND["count"]
    return log.clamp(-bound, bound).exp()
