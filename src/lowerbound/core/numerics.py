"""Settings of the arithmetic that hold inside a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributions import Distribution

__all__ = ["flushed_denormals", "unvalidated"]


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat denormal numbers (below 1e-38 in float32) as zero inside the block; blocks may stand in one another.

    Processors compute with denormals in microcode, up to a hundred times slower. Adam's second moments and the tails
    of importance weights are full of them.
    """
    outside = float(torch.full((), 1e-39).mul(1.0)) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(outside)


@contextmanager
def unvalidated() -> Iterator[None]:
    """Let distributions that are made inside the block take any number: what comes out is NaN or infinite then.

    For Markov chains, which must be able to reject a proposal that has overflowed, beside others that have not.

    Example:
        >>> with unvalidated():
        ...     torch.distributions.Normal(0.0, -1.0).log_prob(torch.zeros(()))
        tensor(nan)
    """
    before = bool(Distribution._validate_args)
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
