"""Whether what one distribution draws lies where another one has mass or density."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.distributions import Distribution, constraints

__all__ = ["support_mismatch"]


def support_mismatch(q: Distribution, p: Distribution) -> str | None:
    """Return why draws of q cannot be scored by p, as a cure begins, or None if they can or it cannot be told.

    Supports are compared and not values: a normal q may draw positive values for a long time.

    Args:
        q: What draws, such as a posterior.
        p: What scores, such as a prior; its support may be larger.

    Example:
        >>> from torch.distributions import Beta, Bernoulli, Gamma, LogNormal, Normal
        >>> support_mismatch(LogNormal(0.0, 1.0), Gamma(2.0, 1.0)), support_mismatch(Beta(2.0, 1.0), Normal(0.0, 1.0))
        (None, None)
        >>> support_mismatch(Normal(0.0, 1.0), Gamma(2.0, 1.0))
        "Take a posterior inside the prior's support, or transform a wider one's draws."
        >>> support_mismatch(Bernoulli(0.5), Normal(0.0, 1.0))
        'A probability and a density cannot be compared: take two discrete distributions or two continuous ones.'
    """
    ours, theirs = _scalar(q), _scalar(p)
    if ours is None or theirs is None:
        return None
    if ours.is_discrete != theirs.is_discrete:
        return "A probability and a density cannot be compared: take two discrete distributions or two continuous ones."
    if ours.event_dim == theirs.event_dim == 0:
        inside = _bound(ours, "lower_bound", -math.inf) >= _bound(theirs, "lower_bound", -math.inf)
        inside = inside & (_bound(ours, "upper_bound", math.inf) <= _bound(theirs, "upper_bound", math.inf))
        return (
            None
            if bool(inside.all())
            else "Take a posterior inside the prior's support, or transform a wider one's draws."
        )
    if type(ours) is type(theirs) or ours.is_discrete:
        return None
    return "Densities on different surfaces cannot be compared: take two distributions over the same kind of event."


def _scalar(distribution: Distribution) -> Any:
    """Return the constraint on one event's elements; None if it is not known or not torch's own."""
    try:
        support: Any = distribution.support
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        known = isinstance(support.is_discrete, bool) and isinstance(support.event_dim, int)
    except (AttributeError, NotImplementedError):
        return None
    return support if known and type(support).__module__ == constraints.__name__ else None


def _bound(support: Any, name: str, default: float) -> torch.Tensor:
    """Return a bound of a constraint on scalars."""
    if isinstance(support, type(constraints.boolean)):
        default = 0.0 if name == "lower_bound" else 1.0
    return torch.as_tensor(getattr(support, name, default))
