r"""Which entries of a value are observed, and the log-probability of those alone.

.. math:: \log p(x_\mathrm{obs} \mid z) = \sum_{d :\, m_d} \log p(x_d \mid z)

is the marginal of what is observed wherever the entries are independent given their parents.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.core.errors import NodeError, explain
from lowerbound.net.supports import inside, peel

__all__ = ["check_mask", "masked_log_prob"]


def check_mask(
    name: str, distribution: Distribution, mask: Tensor, lead: tuple[int, ...], batch: tuple[int, ...]
) -> None:
    """Raise an error if a mask does not fit a node.

    With ``entries`` for the axes of an event over which log-probabilities are summed (all of them for a normal
    distribution with `event_dims`, none for a `MultivariateNormal`), a mask has shape ``lead + entries``,
    ``batch + entries`` or ``entries``; an axis of an event may have length 1.

    Args:
        name: The node.
        distribution: Its distribution, events included.
        mask: Boolean, True where the value is observed.
        lead: Particles + batch.
        batch: The batch shape.

    Raises:
        NodeError: if it is not boolean, or has another shape.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        cure = "Pass a comparison such as ~x.isnan(), or mask.bool()."
        expected = "a boolean tensor, True where observed"
        raise NodeError(explain(f"mask of node {name!r}", expected=expected, got=got, cure=cure))
    base, _ = peel(distribution)
    own = len(base.event_shape)
    event = tuple(distribution.event_shape)
    entries = event[: len(event) - own]
    for rows in (lead, batch, ()):
        if mask.dim() == len(rows) + len(entries) and tuple(mask.shape[: len(rows)]) == rows:
            found = tuple(mask.shape[len(rows) :])
            if all(size in (1, full) for size, full in zip(found, entries, strict=True)):
                return
    shapes = " or ".join(str(shape) for shape in dict.fromkeys((lead + entries, batch + entries, entries)))
    cure = "The last axes are the event's entries, the first the rows; reshape the mask."
    if own:
        cure = (
            f"{type(base).__name__} has no log-probability entry by entry: mask whole events, or take independent ones."
        )
    raise NodeError(explain(f"mask of node {name!r}", expected=f"shape {shapes}", got=tuple(mask.shape), cure=cure))


def masked_log_prob(name: str, distribution: Distribution, value: Tensor, mask: Tensor) -> Tensor:
    """Return the log-probability of the observed entries, before it is spread over ``lead``, in nats.

    Whatever stands where the mask is False, NaN included, changes neither the result nor a gradient.

    Args:
        name: The node.
        distribution: Its distribution, events included.
        value: Shape ``lead + event`` or ``batch + event``.
        mask: As `check_mask` allows.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> x = torch.tensor([[0.0, float("nan")], [0.0, 0.0]])
        >>> masked_log_prob("x", Independent(Normal(torch.zeros(2, 2), 1.0), 1), x, ~x.isnan())
        tensor([-0.9189, -1.8379])
    """
    base, dims = peel(distribution)
    observed = mask.reshape(mask.shape + (1,) * len(base.event_shape))
    # The value is mended before and the result after: a gradient through log_prob(NaN) would be NaN, where or not.
    log_prob: Tensor = base.log_prob(torch.where(observed, value, inside(name, base, value)))
    log_prob = torch.where(mask, log_prob, 0.0)
    return log_prob.sum(tuple(range(-dims, 0))) if dims else log_prob
