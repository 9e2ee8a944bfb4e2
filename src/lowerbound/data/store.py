"""Where rows lie: in a tensor, or in a `.npy` file from which they are read when they are wanted.

Both hand out fresh tensors of one of two types: uint8 (8-bit, few-level and boolean data, a quarter of the memory) or
float32 (all the rest).
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.core.errors import DataError, explain

__all__ = ["Disk", "Resident", "Store", "numbers"]

_CURE = "Save numbers: a uint8, bool, integer or floating-point array."


def numbers(array: NDArray[Any], *, source: str) -> Tensor:
    """Return an array as a tensor of bool, uint8 or float32, without a copy where that is possible.

    Raises:
        DataError: if it holds anything but real numbers.
    """
    if array.dtype.kind not in "buif":
        got = "objects" if array.dtype.kind == "O" else f"dtype {array.dtype}"
        raise DataError(explain(source, expected="real numbers", got=got, cure=_CURE))
    kept = array.dtype if array.dtype in (np.bool_, np.uint8) else np.dtype(np.float32)
    with np.errstate(over="ignore"):  # what overflows float32 becomes infinite and is reported as that
        array = np.ascontiguousarray(array, dtype=kept)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


class Store(Protocol):
    """Rows on some medium."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``[n, *event_shape]``."""
        ...

    @property
    def device(self) -> torch.device:
        """Where `take` and `span` put their tensors, and where it wants its indices."""
        ...

    @property
    def boolean(self) -> bool:
        """Whether the source held booleans."""
        ...

    def take(self, rows: Tensor) -> Tensor:
        """Return the rows of the given numbers, integers ``[B]``, as a fresh tensor ``[B, *event_shape]``."""
        ...

    def expect(self, rows: Tensor) -> None:
        """Hear which rows will be taken next."""
        ...

    def span(self, start: int, stop: int) -> Tensor:
        """Return the rows from `start` up to `stop` as a fresh tensor."""
        ...

    def to(self, device: torch.device | str) -> Store:
        """Return the store on another device."""
        ...


class Resident:
    """Rows in a tensor.

    Args:
        rows: Real numbers, shape ``[n, *event_shape]``. uint8 is kept, booleans become uint8, others float32.

    Raises:
        DataError: if the values are complex.
    """

    def __init__(self, rows: Tensor) -> None:
        if rows.is_complex():
            cure = "Pass real numbers, such as torch.view_as_real(rows)."
            raise DataError(explain("rows", expected="real numbers", got=rows.dtype, cure=cure))
        self.boolean = rows.dtype == torch.bool
        kept = torch.uint8 if rows.dtype in (torch.uint8, torch.bool) else torch.float32
        self._rows = rows.detach().to(kept).contiguous()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``[n, *event_shape]``."""
        return tuple(self._rows.shape)

    @property
    def device(self) -> torch.device:
        """Where the tensor lies."""
        return self._rows.device

    def take(self, rows: Tensor) -> Tensor:
        """Return the rows of the given numbers as a fresh tensor."""
        return self._rows.index_select(0, rows)

    def expect(self, rows: Tensor) -> None:
        """Do nothing: they are there."""

    def span(self, start: int, stop: int) -> Tensor:
        """Return the rows from `start` up to `stop` as a fresh tensor."""
        return self._rows[start:stop].clone()

    def to(self, device: torch.device | str) -> Resident:
        """Return the store on another device."""
        moved = Resident(self._rows.to(device))
        moved.boolean = self.boolean
        return moved


class Disk:
    """Rows that stay in a `.npy` file until they are asked for.

    The rows of a batch are read from the file one by one into a fresh array. A memory map would do the same by page
    faults, at six times the cost for rows in random order, and its pages would count as this process's memory for as
    long as the map stood; here nothing stays resident but the batch.

    Args:
        path: A `.npy` file in C order, shape ``[n, *event_shape]``.

    Raises:
        DataError: if it is damaged, or holds no real numbers; later, if it changed or went away.
    """

    device = torch.device("cpu")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(explain(str(path), expected="a whole .npy array", got=error, cure=_CURE)) from error
        if not isinstance(array, np.memmap):
            raise DataError(explain(str(path), expected="a .npy array", got="another kind of file", cure=_CURE))
        numbers(np.empty(0, array.dtype), source=str(path))  # refuses what is no number
        self.shape: tuple[int, ...] = array.shape
        self.boolean = array.dtype.kind == "b"
        self.contiguous = array.flags.c_contiguous
        self._dtype, self._offset = array.dtype, array.offset
        seen = self.path.stat()
        self._seen = seen.st_size, seen.st_mtime_ns
        self._stride = self._dtype.itemsize * math.prod(self.shape[1:])

    def take(self, rows: Tensor) -> Tensor:
        """Return the rows of the given numbers as a fresh tensor."""
        return self._read(_runs(rows), len(rows))

    def expect(self, rows: Tensor) -> None:
        """Let the system read rows from the medium in the background, where it can, so that `take` need not wait."""
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError), self.path.open("rb", buffering=0) as stream:  # `take` says what is wrong
                for first, length in _runs(rows):
                    start = self._offset + first * self._stride
                    os.posix_fadvise(stream.fileno(), start, length * self._stride, os.POSIX_FADV_WILLNEED)

    def span(self, start: int, stop: int) -> Tensor:
        """Return the rows from `start` up to `stop` as a fresh tensor."""
        stop = min(stop, self.shape[0])
        return self._read([(start, stop - start)], stop - start)

    def to(self, device: torch.device | str) -> Disk:
        """Return the store itself: its batches are moved by who takes them."""
        return self

    def _read(self, runs: Iterable[tuple[int, int]], total: int) -> Tensor:
        """Read runs of consecutive rows, each given by its first row and its length."""
        array = np.empty((total, *self.shape[1:]), self._dtype)
        view, at = array.reshape(-1).view(np.uint8).data, 0
        try:
            with self.path.open("rb", buffering=0) as stream:
                now = os.fstat(stream.fileno())
                if (now.st_size, now.st_mtime_ns) != self._seen:
                    raise OSError("it was written since")
                for first, length in runs:
                    stream.seek(self._offset + first * self._stride)
                    end = at + length * self._stride
                    while at < end:
                        if not (count := stream.readinto(view[at:end])):
                            raise OSError("it ends early")
                        at += count
        except OSError as error:
            cure = "Leave the file in place, unchanged, for as long as it is in use."
            raise DataError(explain(str(self.path), expected="the file as loaded", got=error, cure=cure)) from error
        values = numbers(array, source=str(self.path))
        return values.to(torch.uint8) if self.boolean else values


def _runs(rows: Tensor) -> Iterator[tuple[int, int]]:
    """Return the first row and the length of each run of neighbours in a list of row numbers, to be read at once."""
    listed = rows.numpy()
    starts = np.flatnonzero(np.diff(listed, prepend=listed[:1] - 2) != 1)
    return zip(listed[starts].tolist(), np.diff(np.append(starts, len(listed))).tolist(), strict=True)
