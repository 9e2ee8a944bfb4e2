"""Settings of the arithmetic that hold inside a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["flushed_denormals"]


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
