"""The cells of a table by column: read from `.csv`, `.parquet` or a data frame, and written again."""

from __future__ import annotations

import contextlib
import csv
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lowerbound.core.checks import choice
from lowerbound.core.errors import DataError, explain
from lowerbound.core.files import writing
from lowerbound.data.parquet import opened
from lowerbound.data.tables import GAPS, check_names, is_header

__all__ = ["Cells", "column_names", "frame_cells", "has_text", "is_frame", "read_cells", "write_cells"]

_TEXT = ("string", "large_string", "string_view", "date", "time")  # pyarrow's names of types whose cells are text
_NO_CELLS = ("list", "large_list", "fixed_size", "struct", "map", "binary", "large_binary")  # `_own` refuses these


class Cells(NamedTuple):
    """A table.

    Attributes:
        columns: The cells of each column by its name: numbers, texts, truth values; None is a gap.
        ordered: The levels of columns whose type in a data frame is ordered.
    """

    columns: dict[str, list[Any]]
    ordered: dict[str, Any]


def read_cells(path: Path) -> Cells:
    """Read a `.csv` or a `.parquet`.

    Raises:
        DataError: if it cannot be read, a line has another number of cells, or two columns have one name.
    """
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    with opened(path) as file:
        table = file.read()
    _check_unique(table.column_names, str(path))
    return Cells({name: _plain(table.column(name).to_pylist()) for name in table.column_names}, {})


def is_frame(source: Any) -> bool:
    """Whether something is a data frame of pandas or polars."""
    return hasattr(source, "columns") and hasattr(source, "dtypes")


def frame_cells(frame: Any) -> Cells:
    """Return the cells of a data frame of pandas or polars; ordered categories keep their order."""
    names = [str(name) for name in frame.columns]
    _check_unique(names, "data frame")
    columns, ordered = {}, {}
    for name, own in zip(names, frame.columns, strict=True):
        series = frame[own]
        columns[name] = _plain(series.to_list())
        kind = series.dtype
        if getattr(kind, "ordered", False) or type(kind).__name__ == "Enum":
            ordered[name] = {"type": "ordinal", "levels": list(kind.categories)}
    return Cells(columns, ordered)


def has_text(path: Path, labels: Any) -> bool:
    """Whether a table has a column of text, labels aside, which holds no number at all; the table is not kept."""
    beside = {labels} if isinstance(labels, str) else {"label", "labels"}
    try:
        return (_csv_has_text if path.suffix.lower() == ".csv" else _parquet_has_text)(path, beside)
    except DataError:
        return False


def column_names(path: Path, labels: Any = None) -> list[str]:
    """Return the names of the columns of a `.csv` or a `.parquet`; v0, v1, ... where a line of names is missing.

    Args:
        path: The file.
        labels: The name of the labels, which tells a line of names where others of them are numbers.

    Raises:
        DataError: if it cannot be read, or two columns have one name.
    """
    if path.suffix.lower() == ".csv":
        with _lines(path) as lines:
            return _names(next(lines)[1], path, labels)[0]
    with opened(path) as file:
        names: list[str] = file.schema_arrow.names
    return names


def _csv_has_text(path: Path, beside: set[str]) -> bool:
    with _lines(path) as lines:
        _, first = next(lines)
        names, headed = _names(first, path)
        seen = dict.fromkeys((i for i, name in enumerate(names) if name not in beside), False)
        for _, cells in lines if headed else itertools.chain([(0, first)], lines):
            for i in [*seen] if len(cells) == len(names) else []:
                cell = _parsed(cells[i])
                if isinstance(cell, str):
                    seen[i] = True
                elif cell is not None:
                    del seen[i]
            if not seen or len(cells) != len(names):
                return False
    return any(seen.values())


def _parquet_has_text(path: Path, beside: set[str]) -> bool:
    with opened(path) as file:
        schema = file.schema_arrow
        kinds = [(name, str(kind)) for name, kind in zip(schema.names, schema.types, strict=True)]
    if any(kind.startswith(_NO_CELLS) for _, kind in kinds):
        return False
    kept = [kind for name, kind in kinds if name not in beside]
    # Dates are cells of text: see `_own`.
    return any(kind.startswith(_TEXT) or ("dictionary" in kind and "string" in kind) for kind in kept)


def write_cells(path: str | os.PathLike[str], columns: Mapping[str, Sequence[Any]]) -> None:
    """Write a table as `.csv` or, with pyarrow, as `.parquet`; None is an empty cell or a null."""
    target = Path(path)
    choice("out", target.suffix.lower(), (".csv", ".parquet"))
    with writing(target) as temporary:
        if target.suffix.lower() == ".csv":
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(zip(*columns.values(), strict=True))
            return
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            cure = "Run: pip install 'lowerbound[parquet]', or write a .csv."
            raise DataError(explain(str(target), expected="pyarrow", got="no such package", cure=cure)) from error
        pq.write_table(pa.table({name: list(cells) for name, cells in columns.items()}), temporary)


@contextlib.contextmanager
def _lines(path: Path) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """Open a CSV file and yield its lines with their numbers, at least one; empty ones are left out."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            lines = ((reader.line_num, cells) for cells in reader if cells)
            first = next(lines, None)
            if first is None:
                cure = "Give at least one line of values."
                raise DataError(explain(str(path), expected="rows", got="none", cure=cure))
            yield itertools.chain([first], lines)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        cure = "Save it as text in UTF-8 with commas."
        raise DataError(explain(str(path), expected="a CSV file", got=error, cure=cure)) from error


def _names(first: list[str], path: Path, labels: Any = None) -> tuple[list[str], bool]:
    """Return the names of columns from the first line of a CSV file, and whether they stand in it."""
    headed = is_header(first, labels)
    names = [cell.strip() for cell in first] if headed else [f"v{i}" for i in range(len(first))]
    if headed:
        check_names(names, path)
    _check_unique(names, str(path))
    return names, headed


def _read_csv(path: Path) -> Cells:
    with _lines(path) as stream:
        lines = list(stream)
    width = len(lines[0][1])
    for number, cells in lines:
        if len(cells) != width:
            cure, got = "Give every line the same number of cells.", f"{len(cells)} cells"
            raise DataError(explain(f"{path}, line {number}", expected=f"{width} cells", got=got, cure=cure))
    names, headed = _names(lines[0][1], path)
    lines = lines[headed:]
    if not lines:
        cure = "Give at least one line of values."
        raise DataError(explain(str(path), expected="rows", got="a header only", cure=cure))
    rows = [cells for _, cells in lines]
    return Cells({name: [_parsed(row[i]) for row in rows] for i, name in enumerate(names)}, {})


def _parsed(cell: str) -> Any:
    text = cell.strip()
    if text.lower() in GAPS:
        return None
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _plain(values: Sequence[Any]) -> list[Any]:
    """Return cells as Python's own values; dates become text."""
    return [_own(value) for value in values]


def _own(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if hasattr(value, "__float__"):  # a decimal
        return float(value)
    cure = "Drop the column, or turn its cells into numbers or text."
    raise DataError(explain("cell of a table", expected="a number or text", got=repr(value), cure=cure))


def _check_unique(names: Sequence[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            cure = "Rename one of the columns."
            raise DataError(explain(where, expected="a name for each column", got=f"{name!r} twice", cure=cure))
        seen.add(name)
