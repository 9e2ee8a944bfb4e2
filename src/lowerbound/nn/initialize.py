"""How the weights of linear and convolutional layers start."""

from __future__ import annotations

import math
from typing import TypeVar

from torch import nn

from lowerbound.core.checks import choice

__all__ = ["SCHEMES", "initialize"]

SCHEMES = ("glorot", "he", "lecun", "torch")

M = TypeVar("M", bound=nn.Module)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def initialize(module: M, scheme: str = "glorot") -> M:
    """Draw the weights of every linear and convolutional layer in a module; biases become zero.

    | scheme | weights | source |
    | --- | --- | --- |
    | ``glorot`` | uniform, variance 2 / (fan in + fan out) | Glorot and Bengio, 2010 |
    | ``he`` | normal, variance 2 / fan in | He et al., 2015 |
    | ``lecun`` | normal, variance 1 / fan in | LeCun et al., 1998 |
    | ``torch`` | what torch draws, variance 1 / (3 fan in), biases too | torch's default |

    Args:
        module: The module; it is changed in place.
        scheme: One of the names above.

    Returns:
        The module.

    Raises:
        ArgumentError: if the scheme is unknown.

    Example:
        >>> initialize(torch.nn.Linear(3, 2)).bias
        Parameter containing:
        tensor([0., 0.], requires_grad=True)
    """
    choice("init", scheme, SCHEMES)
    for layer in module.modules():
        if not isinstance(layer, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)) or scheme == "torch":
            continue
        if scheme == "glorot":
            nn.init.xavier_uniform_(layer.weight)
        else:
            fan_in: float = layer.weight[0].numel()
            if isinstance(layer, _TRANSPOSED):  # weights [in, out / groups, h, w]; an output sees 1 in stride^2 of them
                fan_in = layer.weight[:, 0].numel() / layer.groups / math.prod(layer.stride)
            nn.init.normal_(layer.weight, std=math.sqrt((2 if scheme == "he" else 1) / fan_in))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return module
