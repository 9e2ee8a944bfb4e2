"""What bounds make of log-weights ``[K, rows]``, written here with torch only."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Value = Callable[[Tensor], Tensor]


def elbo(log_weights: Tensor) -> Tensor:
    """Return the mean log-weight."""
    return log_weights.mean(0)


def iwae(log_weights: Tensor) -> Tensor:
    """Return the log of the mean weight."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def renyi(alpha: float) -> Value:
    """Return Rényi's bound of an order."""
    return lambda log_weights: iwae((1 - alpha) * log_weights) / (1 - alpha)


def mixed(share: float, alpha: float = 0.0) -> Value:
    """Return the mixture of the mean log-weight, with this share, and a bound of Rényi's."""
    return lambda log_weights: share * elbo(log_weights) + (1 - share) * renyi(alpha)(log_weights)


def split(groups: int, value: Value) -> Value:
    """Return the mean of a bound over consecutive groups of draws."""
    return lambda log_weights: torch.stack([value(part) for part in log_weights.chunk(groups)]).mean(0)
