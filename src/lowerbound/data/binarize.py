"""Binarisation: grey values in [0, 1] become 0 or 1, by a threshold or by Bernoulli draws that nothing can shift.

The noise of a draw is a hash of (key, row, pixel) instead of the next numbers of a generator. A row therefore gets the
same bits in whatever batch, order, split or device it turns up, and any row can be drawn without drawing the rows
before it.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, arange, int16

from lowerbound.core.checks import choice

__all__ = ["BINARIZE", "Binarize", "bernoulli_", "check", "noise", "threshold_"]

Binarize = Literal["none", "threshold", "dynamic", "static"]
BINARIZE: tuple[Binarize, ...] = get_args(Binarize)

# SplitMix64's increment and multipliers as signed 64-bit integers.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def check(kind: str) -> Binarize:
    """Return the name of a binarisation, checked.

    Raises:
        ArgumentError: if there is none of that name.
    """
    return choice("binarize", kind, BINARIZE)  # type: ignore[return-value]


def threshold_(x: Tensor) -> Tensor:
    """Replace every value by 1 if it exceeds 1/2 and by 0 otherwise; for 8-bit pixels k/255 that is k > 127.5.

    Args:
        x: Values in [0, 1], changed in place, any shape.

    Example:
        >>> import torch
        >>> threshold_(torch.tensor([127 / 255, 128 / 255, 0.5]))
        tensor([0., 1., 0.])
    """
    return x.gt_(0.5)


def bernoulli_(x: Tensor, *, key: int, rows: Tensor) -> Tensor:
    """Replace every value p by a draw from Bernoulli(p).

    A draw compares p with 16 random bits, so p is rounded to the nearest multiple of 2^-16: an error of at most
    2^-17, with 0 and 1 exact.

    Args:
        x: Probabilities, changed in place, shape ``[B, *event_shape]``, contiguous.
        key: What the noise is for, a 64-bit integer.
        rows: The number of each row in its source, int64, shape ``[B]``, on the device of `x`.

    Returns:
        The tensor `x`, now of zeros and ones.

    Example:
        >>> import torch
        >>> bernoulli_(torch.tensor([[0.0, 1.0, 1.0]]), key=7, rows=torch.tensor([12]))
        tensor([[0., 1., 1.]])
    """
    values = x.view(len(x), -1)
    # The bits are uniform on -32768 ... 32767, and round(65536 p) of those integers lie below 65536 p - 32768.5.
    values.mul_(65536).sub_(32768.5).gt_(noise(key, rows, values.shape[1]))
    return x


def noise(key: int, rows: Tensor, width: int) -> Tensor:
    """Return 16 random bits for each value of some rows, a pure function of (key, row, column).

    Each row starts a SplitMix64 sequence at a hash of (key, row); each of its 64-bit numbers serves four columns.

    Args:
        key: A 64-bit integer.
        rows: Row numbers, int64, shape ``[B]``.
        width: Values in a row.

    Returns:
        Uniform integers from -32768 to 32767, int16, shape ``[B, width]``, equal on every device.

    Reference:
        Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

    Example:
        >>> import torch
        >>> both = noise(1, torch.tensor([5, 9]), 6)
        >>> bool(both[1].equal(noise(1, torch.tensor([9]), 6)[0]))
        True
    """
    start = _mix_(rows * _GAMMA + key)
    steps = arange(1, (width + 3) // 4 + 1, device=rows.device).mul_(_GAMMA)
    return _mix_(start.unsqueeze(1) + steps).view(int16)[:, :width]


def _mix_(z: Tensor) -> Tensor:
    """Hash 64-bit integers in place (the finaliser of SplitMix64); the masks turn torch's shifts into logical ones."""
    z.bitwise_xor_((z >> 30).bitwise_and_(2**34 - 1)).mul_(_FIRST)
    z.bitwise_xor_((z >> 27).bitwise_and_(2**37 - 1)).mul_(_SECOND)
    return z.bitwise_xor_((z >> 31).bitwise_and_(2**33 - 1))
