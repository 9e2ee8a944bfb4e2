"""Checks of arguments at the library's boundary; each raises an error that names the cure."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

from lowerbound.core.errors import ArgumentError, explain

__all__ = ["choice", "event_shape", "number", "positive_int", "suggestion"]


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return a sentence that lists the known words, 50 at most, with the nearest one first if there is one.

    Example:
        >>> suggestion("elbow", ["elbo", "iwae"])
        "Did you mean 'elbo'? Known: elbo, iwae."
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return (
        f"Did you mean {near[0]!r}? " if near else ""
    ) + f"Known: {', '.join(names[:50])}{', ...' if len(names) > 50 else ''}."


def choice(argument: str, value: str, known: Iterable[str]) -> str:
    """Return `value` if it is one of the `known` words.

    Raises:
        ArgumentError: if it is not; the message lists the known words and the nearest one.
    """
    names = list(known)
    if value not in names:
        cure = suggestion(str(value), names)
        raise ArgumentError(explain(argument, expected="one of the known names", got=repr(value), cure=cure))
    return value


def positive_int(argument: str, value: int) -> int:
    """Return `value` if it is an integer of at least one.

    Raises:
        ArgumentError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        cure = f"Pass {argument}=1 or more."
        raise ArgumentError(explain(argument, expected="a positive integer", got=repr(value), cure=cure))
    return value


def number(
    argument: str, value: float, *, low: float = -math.inf, high: float = math.inf, open_low: bool = False
) -> float:
    """Return `value` as a float if it is finite and between `low` and `high`.

    Raises:
        ArgumentError: if it is not a finite number in that range.
    """
    inside = isinstance(value, (int, float)) and math.isfinite(value) and low <= value <= high
    if not inside or (open_low and value == low):
        span = "a finite number"
        span += f" {'above' if open_low else 'of at least'} {low:g}" if low > -math.inf else ""
        span += f" and at most {high:g}" if high < math.inf else ""
        raise ArgumentError(explain(argument, expected=span, got=repr(value), cure="Change it."))
    return float(value)


def event_shape(value: Iterable[int] | int) -> tuple[int, ...]:
    """Return an event shape as a tuple of positive sizes; a bare integer means one axis.

    Raises:
        ArgumentError: if it is empty or a size is not a positive integer.

    Example:
        >>> event_shape([28, 28])
        (28, 28)
    """
    shape = (value,) if isinstance(value, int) else tuple(value)
    if not shape or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in shape):
        cure = "Pass the shape of one row of the data, such as (28, 28) or (64,)."
        raise ArgumentError(explain("event_shape", expected="positive sizes", got=value, cure=cure))
    return shape
