"""Options of what a name chooses, checked against the signature of its constructor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lowerbound.core.errors import ArgumentError, explain

__all__ = ["checked_options", "option_names"]


def option_names(make: Callable[..., Any]) -> list[str]:
    """Return the keyword-only arguments of a constructor that are left open, without how weights start.

    Those of a flow that is bound to it count too.

    Example:
        >>> option_names(lb.nn.POSTERIORS["low-rank"]), option_names(lb.nn.POSTERIORS["planar"])
        (['rank'], ['covariance', 'context', 'transforms'])
    """
    bound = make.keywords if isinstance(make, partial) else {}
    names = [
        name
        for name, parameter in inspect.signature(make).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in {"init", *bound}
    ]
    return names + (option_names(bound["flow"]) if "flow" in bound else [])


def checked_options(
    what: str, name: str, make: Callable[..., Any], options: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return options as a dictionary.

    Args:
        what: What is chosen, such as ``"posterior"``.
        name: The name that was chosen.
        make: Its constructor.
        options: The options.

    Raises:
        ArgumentError: if the constructor has no argument of a name.
    """
    known = option_names(make)
    for option in options or {}:
        if option not in known:
            cure = f"Leave it out, or choose another {what}."
            expected = f"an option of {name} ({', '.join(known) or 'it has none'})"
            raise ArgumentError(explain(f"{what} option", expected=expected, got=repr(option), cure=cure))
    return dict(options or {})
