"""All latents of a program as one vector, which is how a critic sees them, and the moments of that vector."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lowerbound.core.errors import NodeError, explain
from lowerbound.net import Node, Program, Trace

__all__ = ["LOG_2PI", "Moments", "join", "location_and_scale", "log_standard_normal"]

LOG_2PI = math.log(2 * math.pi)
_LEAST_SCALE = 1e-6


class Moments(NamedTuple):
    """Where the latents of each row lie and how far they spread, each ``[*batch, D]``."""

    loc: Tensor
    scale: Tensor


def location_and_scale(trace: Trace, names: list[str], program: Program, draws: int) -> Moments:
    """Return the mean and the standard deviation of the named nodes, by what they know or by repeated draws.

    Args:
        trace: A run of the posterior.
        names: Its latents.
        program: The posterior, which is run once more if a node does not know its moments.
        draws: The number of draws that stand for them then.
    """
    nodes = [trace.node(name) for name in names]
    if all(node.moments is not None for node in nodes):
        parts = [_known_moments(node, trace.batch) for node in nodes]
        mean, variance = (torch.cat(part, -1) for part in zip(*parts, strict=True))
    else:
        variance, mean = torch.var_mean(join(program.run(particles=draws), names), 0)
    return Moments(mean, variance.sqrt().clamp_min(_LEAST_SCALE))


def _known_moments(node: Node, batch: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return a node's own mean and variance, each ``[*batch, size]``."""
    event = tuple(node.value.shape[1 + len(batch) :])
    found = node.moments() if node.moments is not None else ()
    for moment in found:
        if tuple(moment.shape) not in (batch + event, event):
            cure = "Leave moments out where they depend on other draws; repeated draws take their place."
            expected = f"shape {batch + event}"
            got = tuple(moment.shape)
            raise NodeError(explain(f"moments of node {node.name!r}", expected=expected, got=got, cure=cure))
    mean, variance = (_flat(moment.expand(batch + event), len(batch)) for moment in found)
    return mean, variance


def _flat(value: Tensor, lead: int) -> Tensor:
    """Return a value ``lead + event`` as ``lead + [size]``."""
    return value.unsqueeze(-1) if value.dim() == lead else value.flatten(lead)


def join(trace: Trace, names: list[str]) -> Tensor:
    """Return the named values side by side, shape ``[*lead, D]``."""
    parts = [_flat(trace[name].expand(*trace.lead, *_event(trace, name)), len(trace.lead)) for name in names]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _event(trace: Trace, name: str) -> tuple[int, ...]:
    node = trace.node(name)
    if node.distribution is not None:
        return tuple(node.distribution.event_shape)
    return tuple(node.value.shape[len(trace.lead) :])


def log_standard_normal(z: Tensor) -> Tensor:
    """Return log N(z; 0, I), shape ``[*]``, for ``[*, D]``."""
    return -0.5 * (z.square() + LOG_2PI).sum(-1)
