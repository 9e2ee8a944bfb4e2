"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from lowerbound.core.checks import choice, positive_int
from lowerbound.nn.initialize import initialize

__all__ = ["ACTIVATIONS", "MLP", "make_activation"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky-relu": lambda: nn.LeakyReLU(0.2),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def make_activation(name: str) -> nn.Module:
    """Return the activation module of a name.

    Raises:
        ArgumentError: if the name is unknown.
    """
    return ACTIVATIONS[choice("activation", name, ACTIVATIONS)]()


class MLP(nn.Sequential):
    r"""Linear layers with an activation between them: ``[*, in_features]`` to ``[*, out_features]``.

    Args:
        in_features: The size of the input.
        hidden: The sizes of the hidden layers, first to last; empty for a linear map.
        out_features: The size of the output; None to end with the last hidden layer and its activation.
        activate: The name of the activation.
        init: How the weights start, as in `initialize`.

    Raises:
        ArgumentError: if a size is not positive or a name is unknown.

    Example:
        >>> MLP(40, [500, 500], 784)(torch.zeros(7, 5, 40)).shape
        torch.Size([7, 5, 784])
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int | None,
        *,
        activate: str = "relu",
        init: str = "glorot",
    ) -> None:
        sizes = [positive_int("in_features", in_features), *(positive_int("hidden", size) for size in hidden)]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), make_activation(activate)]
        if out_features is not None:
            layers.append(nn.Linear(sizes[-1], positive_int("out_features", out_features)))
        super().__init__(*layers)
        self.out_features = sizes[-1] if out_features is None else out_features
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, shape ``[*, out_features]``."""
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return y
