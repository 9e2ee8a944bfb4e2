"""Leading axes for networks that take exactly one: convolutions and batch normalisation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lowerbound.core.errors import ShapeError, explain

__all__ = ["fold_particles"]


def fold_particles(net: Callable[[Tensor], Tensor], x: Tensor, event_dims: int) -> Tensor:
    """Apply a network that takes one batch axis to a tensor with any leading axes, such as ``[K, B]``.

    Args:
        net: From ``[N, *event]`` to ``[N, *out]``.
        x: Its input, shape ``[*lead, *event]``.
        event_dims: The number of axes of an event of `x`.

    Returns:
        The output, shape ``[*lead, *out]``.

    Raises:
        ShapeError: if `x` has fewer axes than an event.

    Example:
        >>> conv = torch.nn.Conv2d(1, 3, 3, padding=1)
        >>> fold_particles(conv, torch.zeros(5, 2, 1, 8, 8), event_dims=3).shape
        torch.Size([5, 2, 3, 8, 8])
    """
    split = x.dim() - event_dims
    if split < 0:
        cure = "Give the input its event axes, or lower event_dims."
        raise ShapeError(explain("x", expected=f"at least {event_dims} axes", got=tuple(x.shape), cure=cure))
    y = net(x.reshape(-1, *x.shape[split:]))
    return y.reshape(*x.shape[:split], *y.shape[1:])
