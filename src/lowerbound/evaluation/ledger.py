"""The values of the batches that are done, so that a measure that was interrupted goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.core.distributed import place, share
from lowerbound.core.errors import RunError
from lowerbound.core.files import read_tree, write_tree

__all__ = ["Ledger"]


class Ledger:
    """The values of every row that one measure has found so far, in memory and, if it has a path, in a file.

    With several processes the file is the first one's, and all begin with what it holds.

    Args:
        n: The number of rows that there will be.
        path: The file; None to keep nothing.
        key: What the values depend on; a file with another key is of another measurement, and is begun anew.
        seconds: The least time between two writings; `write` is always one.

    Attributes:
        done: The number of rows whose values are there, the first ones.

    Example:
        >>> ledger = Ledger(3)
        >>> ledger.add({"value": torch.tensor([1.0, 2.0])})
        >>> ledger.add({"value": torch.tensor([3.0])})
        >>> ledger.done, ledger.rows["value"]
        (3, array([1., 2., 3.]))
    """

    def __init__(self, n: int, path: Path | None = None, key: str = "", *, seconds: float = 15.0) -> None:
        self._n, self._path, self._key, self._seconds = n, path, key, seconds
        self._values: dict[str, Tensor] = {}
        self._written = time.monotonic()
        self.done = 0
        tree = share(self._read())
        if tree.get("key") == key:
            self.done, self._values = tree["done"], tree["rows"]

    @property
    def rows(self) -> dict[str, NDArray[np.float64]]:
        """The values by name, float64 ``[n]``; those of rows that are not done mean nothing."""
        return {name: values.numpy() for name, values in self._values.items()}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take down the values of the next rows, ``[b]`` by name."""
        # Arrays of full length: tensors kept from each batch would pin the heap between large temporaries.
        count = 0
        for name, value in values.items():
            count = len(value)
            whole = self._values.setdefault(name, torch.full((self._n,), float("nan"), dtype=torch.float64))
            whole[self.done : self.done + count] = value.double().cpu()
        self.done += count
        if time.monotonic() - self._written > self._seconds:
            self.write()

    def write(self) -> None:
        """Write the file, if there is to be one and anything to keep."""
        if self._path is not None and self.done and place().first:
            write_tree(self._path, {"key": self._key, "done": self.done, "rows": self._values})
            self._written = time.monotonic()

    def _read(self) -> dict[str, Any]:
        """Return what the file holds, nothing if there is none."""
        if self._path is None or not self._path.exists() or not place().first:
            return {}
        try:
            return read_tree(self._path)
        except RunError:
            return {}  # damaged: nothing is lost but time
