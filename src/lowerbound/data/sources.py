"""`load`: one function from what a user writes, a name or a path, to a train and a test split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lowerbound.core.checks import suggestion
from lowerbound.core.errors import ArgumentError, DataError, explain
from lowerbound.data.arrays import array_names, read_npy, read_npz
from lowerbound.data.binarize import check
from lowerbound.data.builtin import digits, four_points, mnist
from lowerbound.data.cells import column_names, frame_cells, has_text, is_frame, read_cells
from lowerbound.data.dataset import Dataset
from lowerbound.data.images import ImageSize, read_folder
from lowerbound.data.parquet import read_parquet
from lowerbound.data.schema import Column, encode, infer, read_schema
from lowerbound.data.table import encode_labels
from lowerbound.data.tables import read_csv

__all__ = ["SOURCES", "Schema", "has_labels", "load", "load_all"]

Schema = str | os.PathLike[str] | Sequence[Column]

SOURCES = ("digits", "four-points", "mnist")

_READERS = {".npy": read_npy, ".npz": read_npz, ".csv": read_csv, ".parquet": read_parquet}


def load(
    source: Any,
    *,
    binarize: str | None = None,
    seed: int = 0,
    test_fraction: float | None = None,
    labels: Any = None,
    missing: bool = False,
    schema: Schema | None = None,
    image_size: ImageSize | None = None,
) -> tuple[Dataset, Dataset]:
    """Load a built-in set, or a file or folder that is split at random.

    ============  ===================================================================  ======================
    Path          Content                                                              `labels` as a string
    ============  ===================================================================  ======================
    ``.npy``      an array ``[n, ...]``; its rows stay on disk until they are wanted   the path of a ``.npy``
    ``.npz``      an array ``data`` and, if there is one, ``labels``                   the name of an array
    ``.csv``      columns of numbers or mixed types, with or without a header          the name of a column
    ``.parquet``  columns of numbers or mixed types                                    the name of a column
    a data frame  of pandas or polars: columns of mixed types                          the name of a column
    a folder      pictures, brought to one size; sub-folders are labels                no use
    ============  ===================================================================  ======================

    Args:
        source: One of `SOURCES`, or a path. A folder that has the name of a built-in set is meant by ``./name``.
        binarize: The binarisation; None means ``"dynamic"`` for digits and mnist, and ``"none"`` for all others.
        seed: The seed of the split and of the binarisation.
        test_fraction: The share of rows in the test split, by default 0.2 of digits and 0.1 of a path. The mnist and
            four-points sets come split, and leave it unused.
        labels: Where the labels are, see the table; or the labels themselves, one for each row.
        missing: Whether values may be missing: NaN in arrays, empty cells (and ``?``, ``NA``, ``null`` and the like)
            in tables.
        schema: What the columns of a table are: a schema file, ``"infer"``, or the columns of another set. A table
            with a column of text, and a data frame, are inferred without being asked; a table of numbers is not.
        image_size: The size that the pictures of a folder are brought to, as in `lowerbound.data.images.read_folder`.

    Returns:
        The train and the test split.

    Raises:
        DataError: if there is nothing at the path or its content cannot be used; the message names the place.
        ArgumentError: if an argument has no meaning.

    Example:
        >>> train, test = load("digits", binarize="threshold")
        >>> train.binary, test.describe()["test_fraction"]
        (True, 0.2)
    """
    if binarize is not None:
        check(binarize)
    name = _name(source)
    if name in SOURCES and not is_frame(source):
        _refuse_schema(name, schema)
        _refuse_size(name, image_size)
        if labels is not None:
            cure = "Leave the argument away: the set has its labels."
            raise ArgumentError(explain("labels", expected=f"None for {name}", got="labels", cure=cure))
        _refuse_gaps(name, missing)
        return _built_in(name, binarize, seed, test_fraction)
    whole = _whole(source, binarize, seed, labels, missing, schema, image_size)
    return whole.split_off(0.1 if test_fraction is None else test_fraction, seed=seed, name="test")


def load_all(
    source: Any,
    *,
    binarize: str | None = None,
    seed: int = 0,
    labels: Any = None,
    missing: bool = False,
    schema: Schema | None = None,
    image_size: ImageSize | None = None,
) -> Dataset:
    """Load every row of a path, in order; of a built-in set, its test split.

    Args:
        source: As for `load`.
        binarize: As for `load`.
        seed: The seed of the binarisation.
        labels: As for `load`.
        missing: As for `load`.
        schema: As for `load`.
        image_size: As for `load`.

    Raises:
        DataError: if there is nothing at the path or its content cannot be used; the message names the place.
        ArgumentError: if an argument has no meaning.

    Example:
        >>> load_all("four-points").split
        'test'
    """
    name = _name(source)
    if name in SOURCES and not is_frame(source):
        return load(name, binarize=binarize, seed=seed, missing=missing, schema=schema, image_size=image_size)[1]
    return _whole(source, binarize, seed, labels, missing, schema, image_size)


def has_labels(source: str, labels: str) -> bool:
    """Whether there is a file with a column or an array of a name; rows in a `.npy` or a folder have no names.

    Raises:
        DataError: if it cannot be read.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        return False
    if path.suffix.lower() == ".npz":
        return labels in array_names(path)
    return path.suffix.lower() in (".csv", ".parquet") and labels in column_names(path, labels)


def _name(source: Any) -> str:
    return "data frame" if is_frame(source) else os.fspath(source)


def _refuse_schema(name: str, schema: Any) -> None:
    if schema is not None:
        cure = "A schema says what the columns of a table are: a .csv, a .parquet or a data frame."
        raise ArgumentError(explain("schema", expected=f"None for {name}", got="a schema", cure=cure))


def _refuse_gaps(name: str, missing: bool) -> None:
    if missing:
        cure = "Leave the argument away: the set has no gaps."
        raise ArgumentError(explain("missing", expected=f"False for {name}", got=missing, cure=cure))


def _refuse_size(name: str, image_size: ImageSize | None) -> None:
    if image_size is not None:
        cure = "Leave it out: only the pictures of a folder are brought to another size."
        raise ArgumentError(explain("image_size", expected=f"None for {name}", got=image_size, cure=cure))


def _whole(
    source: Any,
    binarize: str | None,
    seed: int,
    labels: Any,
    missing: bool,
    schema: Schema | None,
    image_size: ImageSize | None,
) -> Dataset:
    """Read a path or a data frame."""
    name = _name(source)
    if is_frame(source):
        _refuse_size(name, image_size)
        return _mixed(source, name, binarize, seed, labels, missing, schema)
    read = _reader(name)
    if read is not read_folder:
        _refuse_size(name, image_size)
    elif image_size is not None:
        read = partial(read_folder, image_size=image_size)
    if read not in (read_csv, read_parquet):
        _refuse_schema(name, schema)
    elif schema is not None:
        return _mixed(source, name, binarize, seed, labels, missing, schema)
    else:
        try:
            return _numeric(name, read, binarize, seed, labels, missing)
        except DataError:
            if not has_text(Path(name).expanduser(), labels):
                raise
        return _mixed(source, name, binarize, seed, labels, missing, schema)
    return _numeric(name, read, binarize, seed, labels, missing)


def _mixed(
    source: Any, name: str, binarize: str | None, seed: int, labels: Any, missing: bool, schema: Schema | None
) -> Dataset:
    """Read a table whose columns are of several types."""
    if binarize not in (None, "none"):
        cure = "Leave it out: columns of a table keep their values."
        raise ArgumentError(explain("binarize", expected=f"none for {name}", got=binarize, cure=cure))
    cells, ordered = frame_cells(source) if is_frame(source) else read_cells(Path(name).expanduser())
    own = labels if isinstance(labels, str) else next((n for n in ("label", "labels") if n in cells), None)
    if isinstance(labels, str) and labels not in cells:
        cure = suggestion(labels, list(cells)[:20])
        raise DataError(explain(name, expected=f"a column {labels!r}", got="none", cure=cure))
    kept: Any = labels
    if labels is None or isinstance(labels, str):
        kept = None if own is None else cells.pop(own)
    if isinstance(schema, (str, os.PathLike)) or schema is None:
        given = {} if schema in (None, "infer") else read_schema(schema)
        columns = infer(cells, {**ordered, **given})
    else:
        columns = list(schema)
    rows = encode(cells, columns, missing=missing, source=name)
    numbers, names = (None, None) if kept is None else encode_labels(kept, source=name)
    stem = name if is_frame(source) else Path(name).stem
    whole = Dataset(
        rows, name=stem, source=name, labels=numbers, label_names=names, seed=seed, missing=missing, schema=columns
    )
    return whole.with_record(labels=labels) if isinstance(labels, str) else whole


def _numeric(name: str, read: Any, binarize: str | None, seed: int, labels: Any, missing: bool) -> Dataset:
    """Read rows of numbers."""
    gaps = {"missing": missing} if read in (read_csv, read_parquet) else {}  # arrays say what is missing themselves
    table = read(Path(name).expanduser(), labels, **gaps)
    numbers, names = (None, None) if table.labels is None else encode_labels(table.labels, source=name)
    whole = Dataset(
        table.rows,
        name=Path(name).stem,
        source=name,
        labels=numbers,
        label_names=names,
        levels=table.levels,
        binarize=binarize or "none",
        seed=seed,
        missing=missing,
    )
    record = {**table.record, **({"labels": labels} if isinstance(labels, str) else {})}
    return whole.with_record(**record) if record else whole


def _built_in(name: str, binarize: str | None, seed: int, fraction: float | None) -> tuple[Dataset, Dataset]:
    if name == "digits":
        return digits(binarize=binarize or "dynamic", seed=seed, test_fraction=0.2 if fraction is None else fraction)
    if name == "mnist":
        return mnist(binarize=binarize or "dynamic", seed=seed)
    train, test = four_points()
    return train.with_binarize(binarize or "none"), test.with_binarize(binarize or "none")


def _reader(name: str) -> Any:
    """Return the function that reads a path."""
    path = Path(name).expanduser()
    if not path.exists():
        cure = suggestion(name, SOURCES)
        raise DataError(explain(name, expected="a built-in set or a path", got="no such file or folder", cure=cure))
    if path.is_dir():
        return read_folder
    if path.suffix.lower() not in _READERS:
        got = f"the suffix {path.suffix!r}" if path.suffix else "no suffix"
        cure = "Convert it, for example with numpy.save."
        raise DataError(explain(name, expected=f"{', '.join(_READERS)} or a folder of pictures", got=got, cure=cure))
    return _READERS[path.suffix.lower()]
