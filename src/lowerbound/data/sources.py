"""`load`: one function from what a user writes, a name or a path, to a train and a test split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lowerbound.core.checks import suggestion
from lowerbound.core.errors import ArgumentError, DataError, explain
from lowerbound.data.arrays import read_npy, read_npz
from lowerbound.data.binarize import check
from lowerbound.data.builtin import digits, four_points, mnist
from lowerbound.data.dataset import Dataset
from lowerbound.data.images import read_folder
from lowerbound.data.table import encode_labels
from lowerbound.data.tables import read_csv, read_parquet

__all__ = ["SOURCES", "load", "load_all"]

SOURCES = ("digits", "four-points", "mnist")

_READERS = {".npy": read_npy, ".npz": read_npz, ".csv": read_csv, ".parquet": read_parquet}


def load(
    source: str | os.PathLike[str],
    *,
    binarize: str | None = None,
    seed: int = 0,
    test_fraction: float | None = None,
    labels: Any = None,
    missing: bool = False,
) -> tuple[Dataset, Dataset]:
    """Load a built-in set, or a file or folder that is split at random.

    ============  ===================================================================  ======================
    Path          Content                                                              `labels` as a string
    ============  ===================================================================  ======================
    ``.npy``      an array ``[n, ...]``; its rows stay on disk until they are wanted   the path of a ``.npy``
    ``.npz``      an array ``data`` and, if there is one, ``labels``                   the name of an array
    ``.csv``      columns of numbers, with or without a header                         the name of a column
    ``.parquet``  columns of numbers                                                   the name of a column
    a folder      pictures of one size; sub-folders are labels                         no use
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
    name = os.fspath(source)
    if binarize is not None:
        check(binarize)
    if name in SOURCES:
        if labels is not None:
            cure = "Leave the argument away: the set has its labels."
            raise ArgumentError(explain("labels", expected=f"None for {name}", got="labels", cure=cure))
        _refuse_gaps(name, missing)
        return _built_in(name, binarize, seed, test_fraction)
    whole = _whole(name, binarize=binarize, seed=seed, labels=labels, missing=missing)
    return whole.split_off(0.1 if test_fraction is None else test_fraction, seed=seed, name="test")


def load_all(
    source: str | os.PathLike[str],
    *,
    binarize: str | None = None,
    seed: int = 0,
    labels: Any = None,
    missing: bool = False,
) -> Dataset:
    """Load every row of a path, in order; of a built-in set, its test split.

    Args:
        source: As for `load`.
        binarize: As for `load`.
        seed: The seed of the binarisation.
        labels: As for `load`.
        missing: As for `load`.

    Raises:
        DataError: if there is nothing at the path or its content cannot be used; the message names the place.
        ArgumentError: if an argument has no meaning.

    Example:
        >>> load_all("four-points").split
        'test'
    """
    name = os.fspath(source)
    if name in SOURCES:
        return load(name, binarize=binarize, seed=seed, missing=missing)[1]
    return _whole(name, binarize=binarize, seed=seed, labels=labels, missing=missing)


def _refuse_gaps(name: str, missing: bool) -> None:
    if missing:
        cure = "Leave the argument away: the set has no gaps."
        raise ArgumentError(explain("missing", expected=f"False for {name}", got=missing, cure=cure))


def _whole(name: str, *, binarize: str | None, seed: int, labels: Any, missing: bool) -> Dataset:
    """Read a path."""
    read = _reader(name)
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
    return whole.with_record(labels=labels) if isinstance(labels, str) else whole


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
