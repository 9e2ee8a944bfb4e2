"""Tables of numbers in a `.csv`, one row a line; and what tables of all kinds share."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from lowerbound.core.checks import suggestion
from lowerbound.core.errors import DataError, explain
from lowerbound.data.table import Table

__all__ = ["ALLOW", "GAPS", "check_names", "given_labels", "is_header", "label_column", "named", "read_csv"]

GAPS = {"", "?", "na", "n/a", "nan", "none", "null"}  # cells, in small letters, that stand for a missing value
_MOST_NAMES = 10_000
ALLOW = "or let it be a gap by missing=True (--missing)"


def read_csv(path: Path, labels: Any, *, missing: bool = False) -> Table:
    """Read a table of numbers separated by commas.

    The first line is a header if none of its cells is a number, or if one of them is the name of the labels.

    Args:
        path: The file, in UTF-8.
        labels: The name of the column of labels, or the labels themselves, or None, which means a column named
            ``label`` or ``labels`` if there is one.
        missing: Whether cells may be empty, or hold ``?``, ``NA``, ``nan``, ``none`` or ``null``: gaps, which are NaN.

    Returns:
        The other columns as rows, shape ``[n, columns]``, and the labels.

    Raises:
        DataError: if a cell is empty or no finite number (and no gap where there may be gaps), or a line has more or
            fewer cells than the first; the message names the line and the column.
    """
    values, kept = array("f"), []
    names: list[str] | None = None
    width = place = -1
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream)
            for cells in lines:
                if not cells:
                    continue
                if width < 0:
                    width = len(cells)
                    if is_header(cells, labels):
                        names = [cell.strip() for cell in cells]
                        check_names(names, path)
                    place = label_column(names, labels, path)
                    if names is not None:
                        continue
                if len(cells) != width:
                    cure = "Give every line the same number of cells."
                    raise DataError(_at(path, lines.line_num, f"{width} cells", f"{len(cells)} cells", cure))
                if place >= 0:
                    kept.append(cells.pop(place).strip())
                gaps = [missing and cell.strip().lower() in GAPS for cell in cells]
                _append(values, cells, gaps, [path, lines.line_num, names, place])
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        cure = "Save it as text in UTF-8 with commas."
        raise DataError(explain(str(path), expected="a CSV file", got=error, cure=cure)) from error
    columns = width - (place >= 0)
    if columns < 1 or not values:
        cure = "Give at least one line of numbers."
        raise DataError(explain(str(path), expected="rows of numbers", got="none", cure=cure))
    return Table(
        torch.frombuffer(values, dtype=torch.float32).clone().reshape(-1, columns),
        kept if place >= 0 else given_labels(labels),
        record=named(names, place),
    )


def named(names: Sequence[str] | None, place: int) -> dict[str, list[str]]:
    """Return the names of the columns that are no labels, for the record; tables of very many columns have none."""
    if names is None or len(names) > _MOST_NAMES:
        return {}
    return {"columns": [name for i, name in enumerate(names) if i != place]}


def given_labels(labels: Any) -> Any:
    """Return labels that came as values; None if they were to be a column."""
    return None if isinstance(labels, str) else labels


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def is_header(cells: Sequence[str], labels: Any) -> bool:
    """Say whether a line holds names: some columns may be called 0, 1, 2, but then the labels have their name."""
    known = {labels} if isinstance(labels, str) else {"label", "labels"}
    return any(cell.strip() in known for cell in cells) or not any(_is_number(cell) for cell in cells)


def check_names(names: Sequence[str], path: Path) -> None:
    """Raise an error if a column has no name."""
    if "" in names:
        cure = "An index without a name is no data: write the table without it (pandas: to_csv(path, index=False))."
        got = f"none for column {names.index('') + 1}"
        raise DataError(explain(f"{path}, header", expected="a name for each column", got=got, cure=cure))


def label_column(names: Sequence[str] | None, labels: Any, path: Path) -> int:
    """Return the position of the column of labels, or -1."""
    if isinstance(labels, str):
        if names is None or labels not in names:
            cure = suggestion(labels, names) if names else "Write the names of the columns into the first line."
            raise DataError(explain(str(path), expected=f"a column {labels!r}", got="none", cure=cure))
        return list(names).index(labels)
    if labels is None and names is not None:
        return next((names.index(name) for name in ("label", "labels") if name in names), -1)
    return -1


def _append(values: array[float], cells: Sequence[str], gaps: Sequence[bool], where: Sequence[Any]) -> None:
    """Add one line of cells to the values, gaps as NaN, or raise the error that names the cell at fault."""
    try:
        row = [0.0 if gap else float(cell) for cell, gap in zip(cells, gaps, strict=True)]
    except ValueError:
        row = [math.nan]
    if not math.isfinite(sum(row)) and not all(map(math.isfinite, row)):  # the sum alone tells of most rows
        _blame(cells, gaps, *where)
    values.extend([math.nan if gap else value for value, gap in zip(row, gaps, strict=True)] if any(gaps) else row)


def _blame(
    cells: Sequence[str], gaps: Sequence[bool], path: Path, line: int, names: Sequence[str] | None, place: int
) -> NoReturn:
    """Raise the error that names the first cell which is neither a finite number nor a gap."""
    at, cell = next(
        (i, c)
        for i, (c, gap) in enumerate(zip(cells, gaps, strict=True))
        if not gap and not (_is_number(c) and math.isfinite(float(c)))
    )
    column = at + (0 <= place <= at)
    what = f"column {names[column]!r}" if names else f"column {column + 1}"
    got = repr(cell) if cell.strip() else "an empty cell"
    cure = "Repair the cell or drop the line; a column of labels is called 'label' or named as labels=..."
    if cell.strip().lower() in GAPS:
        cure = f"Fill the gap, drop the line, {ALLOW}."
    raise DataError(_at(path, line, "a finite number", got, cure, what))


def _at(path: Path, line: int, expected: str, got: str, cure: str, column: str = "") -> str:
    what = f"{path}, line {line}" + (f", {column}" if column else "")
    return explain(what, expected=expected, got=got, cure=cure)
