"""Where rows lie: in a tensor, or in a `.npy` file that is mapped only while rows are copied out of it.

Both hand out fresh tensors of one of two types: uint8 (8-bit, few-level and boolean data, a quarter of the memory) or
float32 (all the rest).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lowerbound.core.errors import DataError, explain

__all__ = ["Mapped", "Resident", "Store"]

_CURE = "Save numbers: numpy.save(path, array) with a uint8, bool, integer or floating-point array."


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
        """Return the rows of the given numbers, int64 ``[B]``, as a fresh tensor ``[B, *event_shape]``."""
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
        return tuple(self._rows.shape)

    @property
    def device(self) -> torch.device:
        return self._rows.device

    def take(self, rows: Tensor) -> Tensor:
        return self._rows.index_select(0, rows)

    def span(self, start: int, stop: int) -> Tensor:
        return self._rows[start:stop].clone()

    def to(self, device: torch.device | str) -> Resident:
        moved = Resident(self._rows.to(device))
        moved.boolean = self.boolean
        return moved


class Mapped:
    """Rows in a memory-mapped `.npy` file.

    A process counts the pages of a map as its own for as long as the map stands. So the map is opened anew for every
    copy and closed after it, and what is resident is never more than the rows of one batch.

    Args:
        path: A `.npy` file, C-contiguous, shape ``[n, *event_shape]``.

    Raises:
        DataError: if it is damaged, or holds no real numbers.
    """

    device = torch.device("cpu")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(explain(str(path), expected="a whole .npy array", got=error, cure=_CURE)) from error
        if not isinstance(array, np.memmap) or array.dtype.kind not in "buif":
            got = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else "another kind of file"
            raise DataError(explain(str(path), expected="a .npy array of real numbers", got=got, cure=_CURE))
        self.shape: tuple[int, ...] = array.shape
        self.boolean = array.dtype.kind == "b"
        self.contiguous = array.flags.c_contiguous
        self._dtype, self._offset = array.dtype, array.offset

    def take(self, rows: Tensor) -> Tensor:
        return self._copy(rows.numpy())

    def span(self, start: int, stop: int) -> Tensor:
        return self._copy(slice(start, stop))

    def to(self, device: torch.device | str) -> Mapped:
        """Return the store itself: its batches are moved by who takes them."""
        return self

    def _copy(self, rows: np.ndarray | slice) -> Tensor:  # type: ignore[type-arg]
        """Open the map, copy rows as uint8 or float32, and close the map by dropping its last reference."""
        try:
            array = np.memmap(self.path, self._dtype, mode="r", offset=self._offset, shape=self.shape)
        except (ValueError, OSError) as error:
            cure = "Leave the file in place, unchanged, for as long as it is in use."
            raise DataError(explain(str(self.path), expected="the file that was loaded", got=error, cure=cure)) from error
        kept = np.uint8 if self._dtype.kind == "b" or self._dtype == np.uint8 else np.float32
        with np.errstate(over="ignore"):  # what overflows float32 becomes infinite and is reported as that
            return torch.from_numpy(np.asarray(array[rows]).astype(kept, copy=True))
