"""What the columns of a table are: their names, kinds and levels; inferred, read from a file, and written to one."""

from __future__ import annotations

import json
import math
import os
import tomllib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.core.checks import choice
from lowerbound.core.errors import DataError, TrainingWarning, explain
from lowerbound.core.files import write_bytes

__all__ = ["Column", "decode", "encode", "infer", "read_schema", "write_schema"]

_KINDS = ("continuous", "binary", "categorical", "counts", "ordinal", "skip")
_LARGEST_COUNT = 100


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its name.
        kind: ``"continuous"``, ``"binary"``, ``"categorical"``, ``"counts"``, ``"ordinal"`` or ``"skip"``.
        levels: The values that the codes 0, 1, ... stand for; empty for numbers and for what is skipped.
    """

    name: str
    kind: str
    levels: tuple[Any, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return the column as plain values, which ``Column(**...)`` takes again."""
        return {"name": self.name, "kind": self.kind, "levels": list(self.levels)}


def infer(cells: Mapping[str, Sequence[Any]], given: Mapping[str, Any] | None = None) -> list[Column]:
    """Find out what the columns of a table are.

    The rules, in this order; None is a gap:

    1. What a schema says of a column holds.
    2. Dates, a column with one value only, and text of which more than half the cells differ (names, ids) are
       skipped, with a warning that names the column.
    3. Two distinct values, numbers or text, are ``binary``; other text is ``categorical``.
    4. Whole numbers from 0 to 100 are ``counts``; other numbers are ``continuous``.

    Only a schema, or an ordered type of a data frame, makes a column ``ordinal``.

    Args:
        cells: The cells of each column by its name: numbers, texts, truth values, None.
        given: A schema: by name a kind, or ``{"type": ..., "levels": [...]}``.

    Raises:
        DataError: if a column holds numbers and text, or gaps only, or contradicts the schema.

    Example:
        >>> infer({"age": [31.5, 44.0, 27.0], "drug": ["a", "b", "a"]})
        [Column(name='age', kind='continuous', levels=()), Column(name='drug', kind='binary', levels=('a', 'b'))]
    """
    wanted = dict(given or {})
    for name in wanted:
        if name not in cells:
            known = ", ".join(map(repr, list(cells)[:10])) + (", ..." if len(cells) > 10 else "")
            cure = f"The table has {known}."
            raise DataError(explain("schema", expected="columns of the table", got=repr(name), cure=cure))
    return [_column(name, values, wanted.get(name)) for name, values in cells.items()]


def read_schema(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a schema file, TOML: ``age = "continuous"``, ``stage = {type = "ordinal", levels = ["low", "high"]}``.

    Raises:
        DataError: if there is no such file, it is no TOML, or a type is unknown.
    """
    cure = 'Write one line a column, such as  age = "continuous"  or  id = "skip".'
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(explain(str(path), expected="a schema in TOML", got=error, cure=cure)) from error
    for name, entry in found.items():
        kind = entry.get("type") if isinstance(entry, dict) else entry
        if kind not in _KINDS:
            where = f"{path}, column {name!r}"
            raise DataError(explain(where, expected=", ".join(_KINDS), got=repr(kind), cure=cure))
    return found


def write_schema(path: str | os.PathLike[str], columns: Sequence[Column]) -> None:
    """Write a schema file that `read_schema` reads."""
    lines = []
    for column in columns:
        kind = json.dumps(column.kind)
        if column.levels:
            levels = ", ".join(json.dumps(level, ensure_ascii=False) for level in column.levels)
            kind = f"{{type = {kind}, levels = [{levels}]}}"
        lines.append(f"{json.dumps(column.name, ensure_ascii=False)} = {kind}\n")
    write_bytes(path, "".join(lines).encode())


def encode(cells: Mapping[str, Sequence[Any]], columns: Sequence[Column], *, missing: bool, source: str) -> Tensor:
    """Return rows of numbers, float32 ``[n, columns]``: levels as their codes, gaps as NaN; skipped columns left out.

    A level that the column does not have is a gap where there may be gaps, with a warning, and an error elsewhere.

    Raises:
        DataError: if a column is absent, or a cell is a gap where there may be none, or of another type.
    """
    parts = []
    for column in (c for c in columns if c.kind != "skip"):
        where = f"{source}, column {column.name!r}"
        if column.name not in cells:
            cure = "Give the table the columns that the run was trained on."
            raise DataError(explain(where, expected="such a column", got="none", cure=cure))
        code_of = _coder(column.levels)
        values, unseen = [], []
        for row, cell in enumerate(cells[column.name]):
            if cell is None:
                if not missing:
                    cure = "Fill the gap, drop the row, or let it be a gap by missing=True (--missing)."
                    raise DataError(explain(f"{where}, row {row}", expected="a value", got="a gap", cure=cure))
                values.append(math.nan)
            elif column.levels:
                values.append(code_of(cell))
                if math.isnan(values[-1]):
                    unseen.append(cell)
            else:
                values.append(_number(cell, column.kind, f"{where}, row {row}"))
        if unseen:
            names = ", ".join(sorted({repr(cell) for cell in unseen})[:5])
            if not missing:
                cure = "Repair the cells; a model that takes gaps (--missing) takes new levels for gaps."
                shown = ", ".join(map(repr, column.levels[:10]))
                raise DataError(explain(where, expected=f"one of the levels {shown}", got=names, cure=cure))
            warnings.warn(f"{where}: {names} not among its levels, taken as gaps", TrainingWarning, stacklevel=2)
        parts.append(np.asarray(values, dtype=np.float32))
    if not parts or not len(parts[0]):
        cure = "Give at least one row and a column that is not skipped."
        raise DataError(explain(source, expected="columns with values", got="none", cure=cure))
    return torch.from_numpy(np.stack(parts, axis=1))


def decode(rows: Tensor, columns: Sequence[Column]) -> dict[str, list[Any]]:
    """Return rows ``[n, columns]`` as cells by column name: levels for codes, integers for counts, None for gaps."""
    found: dict[str, list[Any]] = {}
    for column, values in zip((c for c in columns if c.kind != "skip"), rows.T.tolist(), strict=True):
        found[column.name] = [None if math.isnan(v) else _cell(v, column) for v in values]
    return found


def _cell(value: float, column: Column) -> Any:
    if column.levels:
        return column.levels[round(value)]
    return round(value) if column.kind == "counts" else float(str(np.float32(value)))


def _number(cell: Any, kind: str, where: str) -> float:
    value = float(cell) if isinstance(cell, (int, float)) else math.nan
    if not math.isfinite(value):
        cure = "Repair the cell, or give the column another type in a schema."
        raise DataError(explain(where, expected="a finite number", got=repr(cell), cure=cure))
    if kind == "counts" and (value < 0 or value != round(value)):
        cure = 'Make the column "continuous" in the schema.'
        raise DataError(explain(where, expected="a count", got=repr(cell), cure=cure))
    return value


def _coder(levels: Sequence[Any]) -> Callable[[Any], float]:
    """Return the function from a cell to the code of its level, NaN if it has none.

    Texts that differ are different levels, "1" and "01" too; spaces around them count only where levels differ by them.
    A number and the text of it are one level, as in a schema and a table, unless several levels are of that number.
    """
    exact = {_exact(level): float(code) for code, level in enumerate(levels)}
    stripped = _codes([level.strip() if isinstance(level, str) else None for level in levels])
    across = _codes([(isinstance(level, str), _key(level)) for level in levels])

    def code_of(cell: Any) -> float:
        if _exact(cell) in exact:
            return exact[_exact(cell)]
        text = isinstance(cell, str)
        found = stripped.get(cell.strip()) if text else None
        return across.get((not text, _key(cell)), math.nan) if found is None else found

    return code_of


def _codes(keys: Sequence[Any]) -> dict[Any, float]:
    """Return the code of each key, NaN for a key of several."""
    found: dict[Any, float] = {}
    for code, key in enumerate(keys):
        found[key] = math.nan if key in found else float(code)
    return found


def _exact(cell: Any) -> tuple[type, Any]:
    """Return what tells a text, a truth value or a number from all others; 1 and 1.0 are one number."""
    return (type(cell) if isinstance(cell, (str, bool)) else float), cell


def _key(cell: Any) -> str:
    """Return a text that is the same for a level in a schema, in a table and in a run."""
    try:
        return repr(float(cell)) if not isinstance(cell, bool) else str(cell)
    except ValueError:
        return str(cell).strip()


def _column(name: str, values: Sequence[Any], given: Any) -> Column:
    kind = given.get("type") if isinstance(given, dict) else given
    levels = tuple(given.get("levels", ())) if isinstance(given, dict) else ()
    where = f"column {name!r}"
    if kind == "skip":
        return Column(name, "skip")
    seen = [cell for cell in values if cell is not None]
    if not seen:
        cure = 'Drop it, or skip it in a schema: "skip".'
        raise DataError(explain(where, expected="a value", got="gaps in all rows", cure=cure))
    texts = [isinstance(cell, str) for cell in seen]
    if any(texts) and not all(texts):
        row = next(i for i, cell in enumerate(values) if cell is not None and isinstance(cell, str) != texts[0])
        got = f"numbers and text ({values[row]!r} in row {row})"
        cure = "Repair the cells, or skip the column in a schema."
        raise DataError(explain(where, expected="either numbers or text", got=got, cure=cure))
    distinct = sorted(set(seen))
    if kind is None:
        kind = _guess(where, seen, distinct)
    choice(f"type of {where}", kind, _KINDS)
    if kind in ("continuous", "counts"):
        for row, cell in enumerate(values):
            if cell is not None:
                _number(cell, kind, f"{where}, row {row}")
        return Column(name, kind)
    if kind == "skip":
        return Column(name, "skip")
    if not levels:
        if kind == "ordinal":
            cure = 'Name them from low to high: {type = "ordinal", levels = ["low", "high"]}.'
            raise DataError(explain(f"schema of {where}", expected="levels", got="none", cure=cure))
        levels = tuple(distinct)
    code_of = _coder(levels)
    absent = [cell for cell in distinct if math.isnan(code_of(cell))]
    if absent or len(levels) < 2 or (kind == "binary" and len(levels) != 2):
        got = f"{absent[0]!r} in the table" if absent else f"{len(levels)} levels"
        expected = "two levels" if kind == "binary" and not absent else "every level of the table, two or more"
        cure = "Name all levels of the column, or give it another type."
        raise DataError(explain(f"schema of {where}", expected=expected, got=got, cure=cure))
    return Column(name, kind, levels)


def _guess(where: str, seen: Sequence[Any], distinct: Sequence[Any]) -> str:
    """Apply the rules of `infer` to the values of a column; say why where it is skipped."""
    text = isinstance(seen[0], str)
    reason = None
    if len(distinct) == 1:
        reason = "it holds one value only"
    elif text and all(_is_date(cell) for cell in distinct):
        reason = "it holds dates"
    elif text and len(distinct) > 2 and len(distinct) > len(seen) / 2:
        reason = "more than half of its texts differ, as ids do"
    if reason:
        warnings.warn(f"{where} is skipped: {reason}; a schema can say otherwise", TrainingWarning, stacklevel=2)
        return "skip"
    if len(distinct) == 2:
        return "binary"
    if text:
        return "categorical"
    counts = all(cell == math.floor(cell) and 0 <= cell <= _LARGEST_COUNT for cell in distinct if math.isfinite(cell))
    return "counts" if counts else "continuous"


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text.strip())
    except ValueError:
        return False
    return True
