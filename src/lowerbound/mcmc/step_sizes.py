"""Step sizes of the stochastic-gradient samplers: a number, or a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from lowerbound.core.checks import number
from lowerbound.core.errors import ArgumentError, explain

__all__ = ["StepInfo", "StepSize", "check_step_size", "step_size_at"]

StepSize = float | Callable[[int], float]
"""A positive number, or a function from the number of steps made so far to one."""


class StepInfo(NamedTuple):
    """What is to be known of a step of a stochastic-gradient sampler.

    Attributes:
        log_prob: The (minibatch) log-density where the step began, shape ``[chains, *batch]``.
    """

    log_prob: Tensor


def check_step_size(value: StepSize) -> StepSize:
    """Return a step size if it is a function or a positive number, else raise an `ArgumentError`."""
    return value if callable(value) else number("step_size", value, low=0.0, open_low=True)


def step_size_at(value: StepSize, steps: int) -> float:
    """Return the step size after a number of steps.

    Raises:
        ArgumentError: if a schedule returns no positive number.
    """
    if not callable(value):
        return value
    found = value(steps)
    if not (isinstance(found, (int, float)) and found > 0):
        cure = "A schedule returns positive numbers, such as lambda t: 0.1 * (1 + t) ** -0.55."
        raise ArgumentError(explain(f"step_size({steps})", expected="a positive number", got=repr(found), cure=cure))
    return float(found)
