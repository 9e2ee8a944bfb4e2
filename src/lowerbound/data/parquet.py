"""Tables of numbers in a `.parquet`, read block by block by pyarrow; a large one is kept as an array on disk.

Rows are wanted one by one in random order, which Parquet cannot give: a single row costs a whole row group. A table
that would take more than a share of the machine's memory is therefore written once, block by block, as a `.npy` file
into the user's cache directory, and read from there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.core.errors import DataError, explain
from lowerbound.core.files import user_cache, writing
from lowerbound.data.store import Disk
from lowerbound.data.table import Table
from lowerbound.data.tables import ALLOW, given_labels, label_column, named

__all__ = ["read_parquet"]

_SHARE = 0.25  # of the machine's memory that the rows of a table may take
_BLOCK = 65_536  # rows that are read at once


def read_parquet(path: Path, labels: Any, *, missing: bool = False) -> Table:
    """Read a table of numeric columns from a Parquet file; needs pyarrow.

    Args:
        path: The file.
        labels: As in `read_csv`.
        missing: Whether nulls are gaps, which are NaN.

    Returns:
        The other columns as rows, shape ``[n, columns]``, and the labels.

    Raises:
        DataError: if pyarrow is missing, the file is damaged, or a column holds text, a value that is not finite, or
            a gap where there may be none.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        cure = "Run: pip install 'lowerbound[parquet]'."
        raise DataError(explain(str(path), expected="pyarrow, to read it", got="no such package", cure=cure)) from error
    try:
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            place = label_column(names, labels, path)
            columns = [i for i in range(len(names)) if i != place]
            for position in columns:
                _check_type(pa, path, names[position], file.schema_arrow.field(position).type)
            if not columns:
                cure = "Give at least one column of numbers."
                raise DataError(explain(str(path), expected="columns of numbers", got="none", cure=cure))
            kept: list[Any] = []
            blocks = _blocks(pa, file, path, columns, place, missing, kept)
            rows: Any
            if 4 * file.metadata.num_rows * len(columns) > _SHARE * _memory():
                rows = Disk(_on_disk(path, blocks, (file.metadata.num_rows, len(columns)), f"{place} {missing}"))
            else:
                rows = torch.from_numpy(np.concatenate([np.empty((0, len(columns)), np.float32), *blocks]))
    except (pa.ArrowInvalid, OSError) as error:
        cure = "The file is damaged or of another format: write it again."
        raise DataError(explain(str(path), expected="a Parquet file", got=error, cure=cure)) from error
    return Table(rows, kept if place >= 0 else given_labels(labels), record=named(names, place))


def _check_type(pa: Any, path: Path, name: str, kind: Any) -> None:
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        cure = "Drop the column, or name it as labels=..."
        raise DataError(explain(f"{path}, column {name!r}", expected="numbers", got=f"type {kind}", cure=cure))


def _blocks(
    pa: Any, file: Any, path: Path, columns: list[int], place: int, missing: bool, kept: list[Any]
) -> Iterator[NDArray[np.float32]]:
    """Yield the rows block by block, float32 ``[<= _BLOCK, columns]``, and add the labels to `kept` on the way."""
    first = 0
    for batch in file.iter_batches(batch_size=_BLOCK):
        block = np.empty((batch.num_rows, len(columns)), np.float32)
        for position, name in enumerate(batch.schema.names):
            column = batch.column(position)
            if column.null_count and (position == place or not missing):
                row = first + next(i for i, gap in enumerate(column.is_null().to_pylist()) if gap)
                cure = "Fill the gap, drop the row" + (f", {ALLOW}." if position != place else ".")
                where = f"{path}, row {row}, column {name!r}"
                raise DataError(explain(where, expected="a value", got="a gap", cure=cure))
            if position == place:
                kept += column.to_pylist()
                continue
            if column.null_count:
                column = column.cast(pa.float64())  # nulls of any type become NaN then
            block[:, columns.index(position)] = column.to_numpy(zero_copy_only=False)
        first += batch.num_rows
        yield block


def _on_disk(path: Path, blocks: Iterator[NDArray[np.float32]], shape: tuple[int, int], how: str) -> Path:
    """Return the file with the rows of a table in the cache directory; it is written if it is not there."""
    seen = path.stat()
    name = f"{path.resolve()} {seen.st_size} {seen.st_mtime_ns} {how}"
    target = user_cache("tables") / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.npy"
    if target.exists():
        for _ in blocks:  # the labels are wanted all the same
            pass
        return target
    with writing(target) as temporary, temporary.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(block.astype("<f4").tobytes())
    return target


def _memory() -> int:
    """Return the bytes of memory of the machine; where that is not known, eight gigabytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30
