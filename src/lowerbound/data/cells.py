"""The cells of a table by column: read from `.csv`, `.parquet` or a data frame, and written again."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lowerbound.core.checks import choice
from lowerbound.core.errors import DataError, explain
from lowerbound.core.files import writing
from lowerbound.data.tables import GAPS, check_names, is_header

__all__ = ["Cells", "frame_cells", "has_text", "is_frame", "read_cells", "write_cells"]


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
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        cure = "Run: pip install 'lowerbound[parquet]'."
        raise DataError(explain(str(path), expected="pyarrow, to read it", got="no such package", cure=cure)) from error
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        cure = "The file is damaged or of another format: write it again."
        raise DataError(explain(str(path), expected="a Parquet file", got=error, cure=cure)) from error
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
    """Whether a table has a column of text, labels aside, which holds no number at all."""
    try:
        found = read_cells(path).columns
    except DataError:
        return False
    beside = {labels} if isinstance(labels, str) else {"label", "labels"}
    columns = [cells for name, cells in found.items() if name not in beside]
    return any(
        any(isinstance(cell, str) for cell in cells) and all(cell is None or isinstance(cell, str) for cell in cells)
        for cells in columns
    )


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


def _read_csv(path: Path) -> Cells:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        cure = "Save it as text in UTF-8 with commas."
        raise DataError(explain(str(path), expected="a CSV file", got=error, cure=cure)) from error
    if not lines:
        cure = "Give at least one line of values."
        raise DataError(explain(str(path), expected="rows", got="none", cure=cure))
    width = len(lines[0][1])
    for number, cells in lines:
        if len(cells) != width:
            cure, got = "Give every line the same number of cells.", f"{len(cells)} cells"
            raise DataError(explain(f"{path}, line {number}", expected=f"{width} cells", got=got, cure=cure))
    names = [f"v{i}" for i in range(width)]
    if is_header(lines[0][1], None):
        names = [cell.strip() for cell in lines.pop(0)[1]]
        check_names(names, path)
    _check_unique(names, str(path))
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
