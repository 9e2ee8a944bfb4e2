"""Arrays in the user's cache directory: what takes long to decode, or more memory than there is, is written there once.

An array is a `.npy` file beside a `.json` file of facts about it, which is written last, so that an array with facts is
whole. Both hold for one state of what they were made from; those of another state are removed when new ones are there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.core.errors import DataError, RunError
from lowerbound.core.files import read_json, user_cache, write_json, writing
from lowerbound.data.store import Disk

__all__ = ["find", "keep", "large", "place"]

_SHARE = 0.25  # of the machine's memory that the rows of a source may take


def large(shape: tuple[int, ...], itemsize: int) -> bool:
    """Return whether an array is to be read from disk, since it would take more than a quarter of the memory."""
    return math.prod(shape) * itemsize > _SHARE * _memory()


def place(kind: str, source: Any, state: Any) -> Path:
    """Return the file of an array; it need not exist.

    Args:
        kind: The folder in the cache directory.
        source: What the array is made from, and how: plain values.
        state: What it depends on besides, such as sizes and times of change: plain values.
    """
    return user_cache(kind) / _digest(source) / f"{_digest(state)}.npy"


def find(path: Path) -> tuple[Disk, dict[str, Any]] | None:
    """Return the array at a place and its facts, None if it is not there or not whole."""
    try:
        facts: dict[str, Any] = read_json(path.with_suffix(".json"))
        return Disk(path), facts
    except (RunError, DataError):
        return None


def keep(
    path: Path, shape: tuple[int, ...], dtype: str, blocks: Iterable[NDArray[Any]], facts: Mapping[str, Any]
) -> tuple[Disk, dict[str, Any]]:
    """Write an array block by block; return it and its facts, in the order of their names.

    Args:
        path: Its place.
        shape: The shape of all blocks together, ``[n, *event_shape]``.
        dtype: How values are written, ``"|u1"`` or ``"<f4"``.
        blocks: The rows in order.
        facts: Plain values, looked at after the last block.

    Raises:
        RunError: if the cache directory cannot be written.
    """
    with writing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype).data)
    whole = dict(sorted(facts.items()))
    write_json(path.with_suffix(".json"), whole)
    for other in path.parent.iterdir():
        if other.suffix in (".npy", ".json") and other.stem != path.stem:
            other.unlink(missing_ok=True)
    return Disk(path), whole


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _memory() -> int:
    """Return the bytes of memory of the machine; where that is not known, eight gigabytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30
