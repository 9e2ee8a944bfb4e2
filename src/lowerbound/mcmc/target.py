"""What chains move in: one vector a chain, whatever the shapes of the user's tensors are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lowerbound.core.errors import ArgumentError, NonFiniteError, ShapeError, explain

__all__ = ["LogProb", "Packed", "Position", "finite_start", "pack", "value_and_grad"]

LogProb = Callable[[Tensor], Tensor]
"""From positions ``[chains, *batch, D]`` to log-densities ``[chains, *batch]``; their constant may be unknown."""

Position = Tensor | Mapping[str, Tensor]


class Packed:
    """A log-density over named tensors as one over vectors; see `pack`.

    Attributes:
        position: The start as vectors, shape ``[chains, *batch, D]``.
    """

    def __init__(self, log_prob: Callable[[Any], Tensor], position: Position) -> None:
        self._named = log_prob
        self._single = isinstance(position, Tensor)
        values: dict[str, Tensor] = {"position": position} if isinstance(position, Tensor) else dict(position)
        _check_values(values)
        with torch.no_grad():
            lead = tuple(log_prob(position).shape)
        for name, value in values.items():
            if not lead or tuple(value.shape[: len(lead)]) != lead:
                cure = "The first axis counts chains; the log-density sums over the event axes and over nothing else."
                expected = f"a leading shape of at least one axis, as the log-density has it: {lead}"
                raise ShapeError(explain(f"position {name!r}", expected=expected, got=tuple(value.shape), cure=cure))
        self._events = {name: tuple(value.shape[len(lead) :]) for name, value in values.items()}
        self.position = self.flat(values)

    def log_prob(self, flat: Tensor) -> Tensor:
        """Return the log-density of vectors ``[chains, *batch, D]``, shape ``[chains, *batch]``."""
        values = self.unpack(flat)
        return self._named(values["position"] if self._single else values)

    def flat(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return tensors by name, each ``[*lead, *event]``, as vectors ``[*lead, D]``."""
        parts = [(values[name].detach(), len(event)) for name, event in self._events.items()]
        return torch.cat([v.reshape(*v.shape[: v.dim() - dims], -1) for v, dims in parts], -1)

    def unpack(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the tensors by name, each ``[*lead, *event]``, for vectors ``[*lead, D]``."""
        sizes = [math.prod(event) for event in self._events.values()]
        parts = flat.split(sizes, -1)
        return {
            name: part.reshape(*flat.shape[:-1], *event)
            for (name, event), part in zip(self._events.items(), parts, strict=True)
        }


def pack(log_prob: Callable[[Any], Tensor], position: Position) -> Packed:
    r"""Turn a log-density over tensors into one over vectors, which is what the kernels of this folder take.

    Args:
        log_prob: From a tensor, or a dict of tensors, to log-densities ``[chains, *batch]``. Every entry of that shape
            is a chain of its own, so many chains for many data run as one batch.
        position: Where the chains start: a tensor ``[chains, *batch, *event]``, or a dict of such tensors.

    Returns:
        The packed target: its `position`, its `log_prob`, and `unpack`, which undoes the packing.

    Raises:
        ArgumentError: if a tensor is not of floating point, or their types differ.
        ShapeError: if a tensor does not begin with the log-density's shape.

    Example:
        >>> start = {"w": torch.zeros(4, 3, 2), "b": torch.zeros(4, 3)}  # four chains for each of three data
        >>> packed = pack(lambda v: -(v["w"] ** 2).sum(-1) - v["b"] ** 2, start)
        >>> packed.position.shape, packed.unpack(packed.position)["w"].shape
        (torch.Size([4, 3, 3]), torch.Size([4, 3, 2]))
    """
    return Packed(log_prob, position)


def value_and_grad(log_prob: LogProb, position: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-densities ``[*lead]`` and their gradients ``[*lead, D]`` at positions ``[*lead, D]``."""
    with torch.enable_grad():
        leaf = position.detach().requires_grad_()
        value = log_prob(leaf)
        (grad,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), grad


def finite_start(value: Tensor, grad: Tensor) -> None:
    """Raise a `NonFiniteError` unless the log-density and its gradient are finite at the start of every chain."""
    good = value.isfinite() & grad.isfinite().all(-1)
    if not bool(good.all()):
        got = f"{int((~good).sum())} of {good.numel()} chains where it or its gradient is not"
        cure = "Start elsewhere, and inside the support; constrained values are transformed by lb.mcmc.LogJoint."
        raise NonFiniteError(explain("log-density at the start", expected="a finite value", got=got, cure=cure))


def _check_values(values: Mapping[str, Tensor]) -> None:
    types = {value.dtype for value in values.values()}
    if len(types) != 1 or not next(iter(types)).is_floating_point:
        cure = "Pass tensors of one floating type; a discrete variable cannot be moved by gradients."
        got = ", ".join(sorted(map(str, types))) or "none"
        raise ArgumentError(explain("position", expected="tensors of one floating type", got=got, cure=cure))
