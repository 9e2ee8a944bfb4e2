"""A multilayer perceptron of several inputs, each with leading axes of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lowerbound.core.checks import positive_int
from lowerbound.nn.initialize import initialize
from lowerbound.nn.mlp import MLP, make_activation

__all__ = ["JointMLP"]

# Inputs of so many numbers, the last one aside, cost less when they are multiplied anew for every draw than one more
# pass over the layer's output does.
_NARROW = 48


class JointMLP(nn.Module):
    r"""An MLP of the concatenation of its inputs, whose leading axes are broadcast against each other.

    The first layer is computed input by input, :math:`\sum_i W_i x_i + b`, so that rows ``[B, n]`` that go with K draws
    ``[K, B, m]`` are multiplied once and not K times; narrow inputs are joined, which is faster than a sum of products.

    Args:
        in_features: The size of each input.
        hidden: The sizes of the hidden layers; empty for a linear map.
        out_features: The size of the output.
        activate: The name of the activation.
        init: How the weights start, as in `initialize`.

    Example:
        >>> net = JointMLP([4, 2], [16], 1)
        >>> net(torch.zeros(5, 4), torch.zeros(3, 5, 2)).shape
        torch.Size([3, 5, 1])
    """

    def __init__(
        self,
        in_features: Sequence[int],
        hidden: Sequence[int],
        out_features: int,
        *,
        activate: str = "relu",
        init: str = "glorot",
    ) -> None:
        super().__init__()
        self.sizes = [positive_int("in_features", size) for size in in_features]
        widths = [*(positive_int("hidden", size) for size in hidden), positive_int("out_features", out_features)]
        self.first = initialize(nn.Linear(sum(self.sizes), widths[0]), init)
        rest: list[nn.Module] = (
            [] if len(widths) == 1 else list(MLP(widths[0], widths[1:-1], widths[-1], activate=activate, init=init))
        )
        self.rest = nn.Sequential(*([make_activation(activate), *rest] if rest else []))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output, shape ``[*, out_features]``, for inputs ``[*, in_features[i]]``."""
        if sum(self.sizes[:-1]) <= _NARROW:
            leads = [x.shape[:-1] for x in inputs]
            # What is exported must not be bound to a number of rows, as a comparison would bind it.
            if torch.compiler.is_compiling() or any(lead != leads[0] for lead in leads):
                lead = torch.broadcast_shapes(*leads)
                inputs = tuple(x.expand(*lead, -1) for x in inputs)
            h = self.first(torch.cat(inputs, -1))
        else:
            weights = self.first.weight.split(self.sizes, 1)
            h = linear(inputs[-1], weights[-1], self.first.bias)
            for x, weight in zip(inputs[:-1], weights[:-1], strict=True):
                h = h + linear(x, weight)
        output: Tensor = self.rest(h)
        return output
