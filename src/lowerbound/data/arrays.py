"""NumPy's files: `.npy`, whose rows stay on disk, and `.npz`, which is read into memory."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.core.checks import suggestion
from lowerbound.core.errors import DataError, explain
from lowerbound.data.store import Disk, numbers
from lowerbound.data.table import Table

__all__ = ["array_names", "read_npy", "read_npz"]


def read_npy(path: Path, labels: Any) -> Table:
    """Open a `.npy` file; an array in Fortran order, whose rows lie scattered, is read into memory instead.

    Args:
        path: The file, shape ``[n, *event_shape]``.
        labels: The path of a `.npy` file with labels, or the labels themselves, or None.

    Raises:
        DataError: if a file is damaged or holds no real numbers.
    """
    rows = Disk(path)
    if isinstance(labels, (str, os.PathLike)):
        labels = _read_array(Path(labels))
    return Table(rows if rows.contiguous else numbers(_read_array(path), source=str(path)), labels)


def read_npz(path: Path, labels: Any) -> Table:
    """Read the array ``data`` of a `.npz` file, and ``labels`` if it has them.

    Args:
        path: The file.
        labels: The name of the array of labels, or the labels themselves, or None, which means ``labels``.

    Raises:
        DataError: if the file is damaged, lacks an array or holds objects.
    """
    with path.open("rb") as stream:
        archive = _read(stream, path)
        known = getattr(archive, "files", None)
        if known is None or "data" not in known:
            got = "a single array" if known is None else f"arrays {', '.join(known) or '(none)'}"
            cure = "Save it with numpy.savez(path, data=rows, labels=labels)."
            raise DataError(explain(str(path), expected="an array named 'data'", got=got, cure=cure))
        if isinstance(labels, str) and labels not in known:
            cure = suggestion(labels, known)
            raise DataError(explain(str(path), expected="the array of labels", got=f"no array {labels!r}", cure=cure))
        name = labels if isinstance(labels, str) else "labels" if labels is None and "labels" in known else None
        rows = numbers(_member(archive, "data", path), source=str(path))
        return Table(rows, labels if name is None else _member(archive, name, path))


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays in a `.npz` file, none if it is of another form.

    Raises:
        DataError: if it is not there or damaged.
    """
    return list(getattr(_read_array(path), "files", []))


def _read(stream: Any, path: Path) -> Any:
    """Read what numpy finds in a stream, which stays open."""
    try:
        return np.load(stream, allow_pickle=False)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        cure = "Save it again with numpy.save or numpy.savez, without objects."
        raise DataError(explain(str(path), expected="a whole file of NumPy's", got=error, cure=cure)) from error


def _read_array(path: Path) -> Any:
    """Read a `.npy` file into memory."""
    try:
        with path.open("rb") as stream:
            return _read(stream, path)
    except OSError as error:
        cure = "Check the path."
        raise DataError(explain(str(path), expected="a .npy file", got=error.strerror, cure=cure)) from error


def _member(archive: Any, name: str, path: Path) -> NDArray[Any]:
    """Return one array of a `.npz` file."""
    try:
        array: NDArray[Any] = archive[name]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        cure = "Save numbers with numpy.savez(path, data=rows); objects would have to be unpickled, which is not done."
        raise DataError(explain(f"{path}, array {name!r}", expected="a whole array", got=error, cure=cure)) from error
    return array
