"""Randomness as a function of names: every draw is fixed by a seed and by what it is for.

A stream is named by words and counters, such as ``("noise", step)`` or ``("shuffle", epoch)``. The generator of a
stream is built anew from its name, so nothing about randomness has to be saved: a run that is resumed at step 700
asks for stream 700 and gets the same numbers. Streams with different names are independent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["even_normal", "generator", "reseed", "seeded", "stream_seed"]


def stream_seed(seed: int, *name: str | int) -> int:
    """Return the 63-bit seed of a named stream.

    The words of the name are hashed (SHA-256); an integer that ends the name is added to the hash, so that
    consecutive counters of one stream can never collide, even in the 32 bits that some generators keep. A name without
    a counter is the same stream as that name with counter 0.

    Args:
        seed: The user's seed.
        name: What the stream is for, such as ``"noise", step``.

    Example:
        >>> stream_seed(0, "noise", 8) - stream_seed(0, "noise", 7)
        1
    """
    *words, last = name
    counter = last if isinstance(last, int) else 0
    if not isinstance(last, int):
        words.append(last)
    text = "/".join(map(str, (seed, *words)))
    digest = hashlib.sha256(text.encode()).digest()
    return (int.from_bytes(digest[:8], "big") + counter) % 2**63


def generator(seed: int, *name: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh `torch.Generator` for a named stream.

    Example:
        >>> bool(torch.rand(3, generator=generator(0, "a")).equal(torch.rand(3, generator=generator(0, "a"))))
        True
    """
    return torch.Generator(device).manual_seed(stream_seed(seed, *name))


def reseed(seed: int, *name: str | int) -> None:
    """Point torch's global generators (the processor's and every accelerator's in use) at a named stream.

    `torch.distributions` draws from the global generators only. This is `torch.manual_seed` without its
    bookkeeping: it costs microseconds and may stand in a training loop.
    """
    value = stream_seed(seed, *name)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        for device_generator in torch.cuda.default_generators:
            device_generator.manual_seed(value)


@contextmanager
def seeded(seed: int, *name: str | int) -> Iterator[None]:
    """Run a block on a named stream and give the caller's global generators back untouched.

    Example:
        >>> with seeded(0, "example"):
        ...     a = torch.rand(2)
        >>> with seeded(0, "example"):
        ...     b = torch.rand(2)
        >>> bool(a.equal(b))
        True
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        reseed(seed, *name)
        yield


def even_normal(n: int, dims: int, *, seed: int = 0) -> torch.Tensor:
    """Return n standard normal points that lie evenly (scrambled Sobol), shape ``[n, dims]``, float32.

    Example:
        >>> even_normal(64, 3).mean(0).abs().max() < 0.05
        tensor(True)
    """
    points = torch.quasirandom.SobolEngine(dims, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    normal: torch.Tensor = torch.special.ndtri(points.clamp(1e-6, 1 - 1e-6)).float()
    return normal
