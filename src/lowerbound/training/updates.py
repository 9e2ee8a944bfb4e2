"""The updates of torch's optimizers as plain arithmetic, which a compiler can put together with what is around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer, RMSprop

__all__ = ["Update", "update_of"]

Rates = Callable[[dict[str, Any], int], list[float]]
Move = Callable[[Tensor, Tensor, list[Tensor], Tensor, dict[str, Any]], None]


class Update(NamedTuple):
    """How an optimizer moves a weight.

    Attributes:
        parts: What it keeps of each weight besides the number of steps, by torch's name: tensors like the weight.
        rates: From the options of a group and the number of the step, from 1, to the numbers that `move` takes.
        move: Changes a weight in place, given its gradient, its parts (changed too), the rates, float64, and the group.
    """

    parts: tuple[str, ...]
    rates: Rates
    move: Move

    def kept(self, optimizer: Optimizer, weight: nn.Parameter) -> list[Tensor]:
        """Return what an optimizer keeps of a weight, its number of steps last; it is made if there is none."""
        state = optimizer.state[weight]
        if not state:
            state.update({name: torch.zeros_like(weight.detach()) for name in self.parts}, step=torch.zeros(()))
        return [*(state[name] for name in self.parts), state["step"]]

    def rates_of(self, optimizer: Optimizer, steps: Tensor) -> Tensor:
        """Return the rates of the step that follows so many, float64; on the processor nothing is waited for."""
        return torch.tensor(self.rates(optimizer.param_groups[0], int(steps) + 1), dtype=torch.float64)


def update_of(optimizer: Optimizer) -> Update | None:
    """Return the update of an optimizer, None if it is of another kind or has options of another kind.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> update_of(Adam([weight])).parts, update_of(Adam([weight], amsgrad=True))
        (('exp_avg', 'exp_avg_sq'), None)
    """
    if type(optimizer) not in _UPDATES or len(optimizer.param_groups) != 1:
        return None
    (group,) = optimizer.param_groups
    others = ("amsgrad", "maximize", "differentiable", "momentum", "centered")
    if any(group.get(name) for name in others) or isinstance(group["lr"], Tensor):
        return None
    return _UPDATES[type(optimizer)]


def _adam_rates(group: dict[str, Any], step: int) -> list[float]:
    first, second = group["betas"]
    size, correction = group["lr"] / (1 - first**step), (1 - second**step) ** -0.5
    return [size, correction, group["eps"], 1 - first, 1 - second, _decay_rate(group)]


def _adam(weight: Tensor, gradient: Tensor, parts: list[Tensor], rates: Tensor, group: dict[str, Any]) -> None:
    mean, square = parts
    size, correction, epsilon, first, second, decay = rates.unbind()
    gradient = _decayed(weight, gradient, decay, group)
    mean.add_((gradient - mean) * first)
    square.add_((gradient * gradient - square) * second)
    weight.sub_(size * mean / (square.sqrt() * correction + epsilon))


def _rmsprop_rates(group: dict[str, Any], step: int) -> list[float]:
    return [group["lr"], group["eps"], 1 - group["alpha"], _decay_rate(group)]


def _rmsprop(weight: Tensor, gradient: Tensor, parts: list[Tensor], rates: Tensor, group: dict[str, Any]) -> None:
    (square,) = parts
    size, epsilon, second, decay = rates.unbind()
    gradient = _decayed(weight, gradient, decay, group)
    square.add_((gradient * gradient - square) * second)
    weight.sub_(size * gradient / (square.sqrt() + epsilon))


def _decay_rate(group: dict[str, Any]) -> float:
    return float(group["weight_decay"] * (group["lr"] if group.get("decoupled_weight_decay") else 1.0))


def _decayed(weight: Tensor, gradient: Tensor, rate: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the gradient with the weight's decay in it, or let the weight decay by itself."""
    if not group["weight_decay"]:
        return gradient
    if not group.get("decoupled_weight_decay"):
        return gradient + rate * weight
    weight.mul_(1 - rate)
    return gradient


_UPDATES: dict[type[Optimizer], Update] = {
    Adam: Update(("exp_avg", "exp_avg_sq"), _adam_rates, _adam),
    AdamW: Update(("exp_avg", "exp_avg_sq"), _adam_rates, _adam),
    RMSprop: Update(("square_avg",), _rmsprop_rates, _rmsprop),
}
