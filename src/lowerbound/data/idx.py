"""IDX, the format of MNIST's files: a magic number, the sizes of the axes, then bytes."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import torch
from torch import Tensor

from lowerbound.core.errors import DataError, explain

__all__ = ["read_idx"]

_KINDS = {1: "labels", 3: "images"}


def read_idx(path: str | os.PathLike[str], *, axes: int) -> Tensor:
    """Read a file of unsigned bytes in IDX format, raw or gzipped.

    Args:
        path: The file; gzipped if its name ends in ``.gz``.
        axes: How many axes it must have: 1 for labels, 3 for images.

    Returns:
        Its content, uint8, of the shape that the file states.

    Raises:
        DataError: if the file is damaged, holds another type or number of axes, or has another length than it states.
    """
    content = _content(Path(path))
    what = f"an IDX file of {_KINDS.get(axes, f'{axes} axes')} (magic number {0x800 + axes})"
    cure = "The file is damaged, or another file has its name: delete it and fetch it again."
    magic = int.from_bytes(content[:4], "big")
    if len(content) < 4 or magic != 0x800 + axes:
        other = next((kind for size, kind in _KINDS.items() if magic == 0x800 + size), None)
        got = f"magic number {magic}" + (f", which means {other}" if other else "") if content else "an empty file"
        raise DataError(explain(str(path), expected=what, got=got, cure=cure))
    start = 4 + 4 * axes
    sizes = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    length = start + math.prod(sizes)
    if len(content) != length:
        state = "truncated" if len(content) < length else "too long"
        got = f"{len(content)} bytes ({state})"
        raise DataError(
            explain(str(path), expected=f"{what} with {length} bytes for shape {sizes}", got=got, cure=cure)
        )
    if 0 in sizes:
        raise DataError(explain(str(path), expected=f"{what} with at least one row", got=f"shape {sizes}", cure=cure))
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(sizes).clone()


def _content(path: Path) -> bytes:
    """Return the bytes of a file, unzipped."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        cure = "The file is truncated or damaged: delete it and fetch it again."
        raise DataError(explain(str(path), expected="a whole file", got=error, cure=cure)) from error
