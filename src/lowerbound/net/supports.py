"""What the parameters and the support of a distribution say: checks on demand, and a value that is surely inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints, transform_to

from lowerbound.core.errors import NodeError, explain

__all__ = ["check_parameters", "check_support", "inside", "peel"]


def peel(distribution: Distribution) -> tuple[Distribution, int]:
    """Return what an `Independent` holds, and over how many of its last batch axes log-probabilities are summed.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> peel(Independent(Independent(Normal(torch.zeros(7, 5, 3), 1.0), 1), 1))
        (Normal(loc: torch.Size([7, 5, 3]), scale: torch.Size([7, 5, 3])), 2)
    """
    dims = 0
    while isinstance(distribution, Independent):
        dims += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    return distribution, dims


def check_parameters(name: str, distribution: Distribution) -> None:
    """Raise a `NodeError` if a parameter of a node's distribution does not satisfy its constraint."""
    base, _ = peel(distribution)
    for parameter, constraint in base.arg_constraints.items():
        if constraints.is_dependent(constraint) or parameter not in base.__dict__:
            continue
        value: Any = getattr(base, parameter)
        if not bool(torch.as_tensor(constraint.check(value)).all()):
            kind = type(base).__name__
            cure = "Look for NaN or infinity in the network's output and for a scale that is not positive."
            raise NodeError(
                explain(
                    f"node {name!r}", expected=f"{parameter} of {kind} in {constraint}", got=_span(value), cure=cure
                )
            )


def check_support(name: str, distribution: Distribution, value: Tensor, mask: Tensor | None = None) -> None:
    """Raise a `NodeError` if a value is not in the support of a node's distribution, or is not finite.

    Args:
        name: The node.
        distribution: Its distribution, events included.
        value: Shape ``lead + event``.
        mask: As for `masked_log_prob`; what is not observed is not looked at.
    """
    base, _ = peel(distribution)
    try:
        support: Any = base.support
    except NotImplementedError:
        return
    own = len(base.event_shape)
    good = torch.as_tensor(support.check(value), device=value.device) & _all(torch.isfinite(value), own)
    if bool((good if mask is None else good | ~mask).all()):
        return
    cure = "Choose a distribution whose support holds the data, or transform the data."
    if type(base).__name__ == "Bernoulli":
        cure = (
            "A Bernoulli likelihood takes only 0 and 1: binarise the data (binarize='dynamic' or 'threshold'), or take "
            "a Gaussian or logistic likelihood."
        )
    if mask is None and bool(value.isnan().any()):
        cure = "Fill the gaps, or say where they are with bn.sample(..., mask=...): missing=True of lb.models.VAE does."
    seen = value if mask is None else value.expand(torch.broadcast_shapes(value.shape, mask.shape + (1,) * own))
    shown = seen if mask is None else seen[mask.reshape(mask.shape + (1,) * own).expand(seen.shape)]
    expected = f"values in the support of {type(base).__name__}"
    raise NodeError(explain(f"value of node {name!r}", expected=expected, got=_span(shown), cure=cure))


def inside(name: str, distribution: Distribution, value: Tensor) -> Tensor:
    """Return a value in the support of a node's distribution, of a shape that broadcasts with `value`.

    Raises:
        NodeError: if the distribution's support is not known.

    Example:
        >>> from torch.distributions import Poisson, Uniform
        >>> x = torch.zeros(2)
        >>> inside("x", Uniform(torch.tensor([2.0, 4.0]), 6.0), x), inside("x", Poisson(3.0), x)
        (tensor([4., 5.]), tensor(0.))
    """
    try:
        support: Any = distribution.support
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        if support is constraints.real:
            return value.new_zeros(())
        if not support.is_discrete:
            zeros = torch.zeros_like(value) if support.event_dim else value.new_zeros(())
            found: Tensor = transform_to(support)(zeros)
            return found
        if support.event_dim:  # counts that add up to a total, which is one for a one-hot vector
            first = torch.zeros_like(value)
            first[..., 0] = getattr(support, "upper_bound", 1)
            return first
        return torch.as_tensor(getattr(support, "lower_bound", 0), dtype=value.dtype, device=value.device)
    except NotImplementedError as error:
        kind = type(distribution).__name__
        cure = "Give the distribution a support of torch.distributions.constraints."
        raise NodeError(
            explain(f"masked node {name!r}", expected="a known support", got=f"none of {kind}", cure=cure)
        ) from error


def _all(values: Tensor, dims: int) -> Tensor:
    return values.flatten(values.dim() - dims).all(-1) if dims else values


def _span(value: Tensor) -> str:
    finite = value[torch.isfinite(value)]
    if finite.numel() < value.numel():
        return f"{value.numel() - finite.numel()} of {value.numel()} values that are not finite"
    return f"values from {float(value.min()):.4g} to {float(value.max()):.4g}"
