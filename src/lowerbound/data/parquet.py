"""Tables of numbers in a `.parquet`, read block by block by pyarrow; a large one is kept as an array on disk.

Rows are wanted one by one in random order, which Parquet cannot give: a single row costs a whole row group. A table
that would take more than a share of the machine's memory is therefore written once, block by block, as a `.npy` file
into the user's cache directory, and read from there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.core.errors import DataError, explain
from lowerbound.data.cached import find, keep, large, place
from lowerbound.data.store import Disk
from lowerbound.data.table import Table
from lowerbound.data.tables import ALLOW, given_labels, label_column, named

__all__ = ["opened", "read_parquet"]

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
    with opened(path) as file:
        import pyarrow as pa

        names = list(file.schema_arrow.names)
        at = label_column(names, labels, path)
        columns = [i for i in range(len(names)) if i != at]
        for position in columns:
            _check_type(pa, path, names[position], file.schema_arrow.field(position).type)
        if not columns:
            cure = "Give at least one column of numbers."
            raise DataError(explain(str(path), expected="columns of numbers", got="none", cure=cure))
        kept = _labels(file, path, names[at]) if at >= 0 else given_labels(labels)
        shape = file.metadata.num_rows, len(columns)
        blocks = _blocks(pa, file, path, columns, missing)
        rows: Tensor | Disk
        if large(shape, 4):
            array = place("tables", [str(path.resolve()), at, missing], _state(path))
            rows, _ = find(array) or keep(array, shape, "<f4", blocks, {})
        else:
            rows = torch.from_numpy(np.concatenate([np.empty((0, len(columns)), np.float32), *blocks]))
    return Table(rows, kept, record=named(names, at))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a Parquet file by pyarrow.

    Raises:
        DataError: if pyarrow is missing, or the file is damaged, be it while it is read.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        cure = "Run: pip install 'lowerbound[parquet]'."
        raise DataError(explain(str(path), expected="pyarrow, to read it", got="no such package", cure=cure)) from error
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    cure = "The file is damaged or of another format: write it again."
    return DataError(explain(str(path), expected="a Parquet file", got=error, cure=cure))


def _check_type(pa: Any, path: Path, name: str, kind: Any) -> None:
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        cure = "Drop the column, or name it as labels=..."
        raise DataError(explain(f"{path}, column {name!r}", expected="numbers", got=f"type {kind}", cure=cure))


def _labels(file: Any, path: Path, name: str) -> list[Any]:
    """Return the column of labels."""
    kept: list[Any] = []
    for batch in file.iter_batches(batch_size=_BLOCK, columns=[name]):
        _check_gaps(path, len(kept), name, batch.column(0), "Fill the gap, drop the row.")
        kept += batch.column(0).to_pylist()
    return kept


def _blocks(pa: Any, file: Any, path: Path, columns: list[int], missing: bool) -> Iterator[NDArray[np.float32]]:
    """Yield the rows block by block, float32 ``[<= _BLOCK, columns]``."""
    first, batches = 0, file.iter_batches(batch_size=_BLOCK)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error
        if batch is None:
            return
        block = np.empty((batch.num_rows, len(columns)), np.float32)
        for i, position in enumerate(columns):
            column = batch.column(position)
            if not missing:
                _check_gaps(path, first, batch.schema.names[position], column, f"Fill the gap, drop the row, {ALLOW}.")
            if column.null_count:
                column = column.cast(pa.float64())  # nulls of any type become NaN then
            block[:, i] = column.to_numpy(zero_copy_only=False)
        first += batch.num_rows
        yield block


def _check_gaps(path: Path, first: int, name: str, column: Any, cure: str) -> None:
    """Raise an error that names the first row without a value in a column of a block that begins with row `first`."""
    if column.null_count:
        row = first + column.is_null().to_pylist().index(True)
        raise DataError(explain(f"{path}, row {row}, column {name!r}", expected="a value", got="a gap", cure=cure))


def _state(path: Path) -> list[int]:
    """Return what tells whether a file is the same as before."""
    seen = path.stat()
    return [seen.st_size, seen.st_mtime_ns]
