"""The pixels of a large folder of pictures, kept in the user's cache directory so that they are decoded once.

There is one file for each folder and size. It is written whole or not at all, and holds for as long as the names, the
sizes and the times of change of all pictures stay the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lowerbound.core.errors import RunError
from lowerbound.core.files import read_tree, user_cache, write_tree

__all__ = ["keep_decoded", "read_decoded"]

_FEWEST = 1000  # pictures; fewer are decoded in a moment
_FORMAT = 1


def read_decoded(
    path: Path, files: Sequence[Path], size: tuple[int, ...] | None
) -> tuple[Tensor, dict[str, int]] | None:
    """Return the pixels of a folder and what was done to them, None if they are not kept or no longer hold.

    Args:
        path: The folder.
        files: Its pictures.
        size: What was asked for.
    """
    if len(files) < _FEWEST:
        return None
    try:
        tree = read_tree(_place(path, size))
    except RunError:
        return None
    return (tree["rows"], tree["done"]) if tree.get("listing") == _listing(path, files) else None


def keep_decoded(
    path: Path, files: Sequence[Path], size: tuple[int, ...] | None, rows: Tensor, done: Mapping[str, int]
) -> None:
    """Keep the pixels of a folder, if it is a large one and the cache directory can be written."""
    if len(files) >= _FEWEST:
        tree = {"listing": _listing(path, files), "rows": rows, "done": dict(done)}
        with contextlib.suppress(RunError):
            write_tree(_place(path, size), tree)


def _place(path: Path, size: tuple[int, ...] | None) -> Path:
    """Return the file of a folder and a size."""
    return user_cache("images") / f"{_digest([str(path.resolve()), size])}.safetensors"


def _listing(path: Path, files: Sequence[Path]) -> str:
    """Return a digest of the pictures' names, sizes and times of change, and of what decodes them."""
    import PIL

    stats = [(str(file.relative_to(path)), file.stat()) for file in files]
    return _digest([_FORMAT, PIL.__version__, [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
