"""Whether a table has text is told as from all its cells, and in little memory."""

from __future__ import annotations

import datetime
import decimal
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lowerbound.core.errors import DataError
from lowerbound.data import load_all
from lowerbound.data.cells import has_text, read_cells

DAY = datetime.date(2020, 1, 2)


def told_by_all_cells(path: Path, labels) -> bool:
    try:
        columns = read_cells(path).columns
    except DataError:
        return False
    beside = {labels} if isinstance(labels, str) else {"label", "labels"}
    return any(
        any(isinstance(cell, str) for cell in cells) and all(cell is None or isinstance(cell, str) for cell in cells)
        for name, cells in columns.items()
        if name not in beside
    )


CSV = {
    "numbers": ("a,b\n1,2\n3,4\n", None, False),
    "text": ("a,b\n1,x\n3,y\n", None, True),
    "text with a number": ("a,b\n1,x\n3,4\n", None, False),
    "text, a number in the last line": ("a,b\nu,x\nv,y\n3,4\n", None, False),
    "text with gaps": ("a,b\n1,\n3,x\n5,NA\n", None, True),
    "gaps alone": ("a,b\n1,?\n3,\n", None, False),
    "infinity is a number": ("a,b\n1,inf\n3,-inf\n", None, False),
    "blanks around a number": ("a,b\n1, x \n3, 4 \n", None, False),
    "labels": ("a,label\n1,x\n3,y\n", None, False),
    "labels of another name": ("a,kind\n1,x\n3,y\n", "kind", False),
    "text beside labels of another name": ("label,kind\nx,1\ny,3\n", "kind", True),
    "labels given": ("a,label\n1,x\n3,y\n", [0, 1], False),
    "no header": ("1,x\n3,y\n", None, True),
    "no header, numbers": ("1,2\n3,4\n", None, False),
    "no header, a number below": ("1,x\n3,4\n", None, False),
    "header alone": ("a,b\n", None, False),
    "nothing": ("", None, False),
    "a short line at the end": ("a,b\n1,x\n3\n", None, False),
    "a long line at the end": ("a,b\n1,x\n3,y,z\n", None, False),
    "two columns of one name": ("a,a\n1,x\n3,y\n", None, False),
    "a column without a name": (",b\n1,x\n3,y\n", None, False),
    "empty lines": ("a,b\n\n1,x\n\n3,y\n", None, True),
}


@pytest.mark.parametrize("text, labels, expected", CSV.values(), ids=CSV)
def test_csv_has_text_as_all_its_cells_say(tmp_path, text, labels, expected):
    (tmp_path / "t.csv").write_text(text)
    assert has_text(tmp_path / "t.csv", labels) is told_by_all_cells(tmp_path / "t.csv", labels) is expected


def test_csv_in_another_encoding_has_no_text(tmp_path):
    (tmp_path / "t.csv").write_bytes("a,b\n1,x\n3,é\n".encode("latin-1"))
    assert not has_text(tmp_path / "t.csv", None)


PARQUET = {
    "numbers": ({"a": [1.5, None]}, None, False),
    "whole numbers and truth values": ({"a": [1, 2], "b": [True, None]}, None, False),
    "text": ({"a": [1, 2], "b": ["x", None]}, None, True),
    "levels": ({"a": [1, 2], "b": ("dictionary", ["x", "y"])}, None, True),
    "levels that are numbers": ({"a": [1, 2], "b": ("dictionary", [3, 4])}, None, False),
    "large text": ({"a": ("large_string", ["x", "y"])}, None, True),
    "dates": ({"a": [1, 2], "b": [DAY, DAY]}, None, True),
    "times": ({"a": [1, 2], "b": [datetime.datetime(2020, 1, 2, 3), None]}, None, True),
    "decimals": ({"a": [decimal.Decimal("1.5"), decimal.Decimal("2.5")]}, None, False),
    "labels": ({"a": [1, 2], "label": ["x", "y"]}, None, False),
    "labels of another name": ({"a": [1, 2], "kind": ["x", "y"]}, "kind", False),
    "text beside labels of another name": ({"label": ["x", "y"], "kind": [1, 2]}, "kind", True),
    "lists": ({"a": [[1], [2]]}, None, False),
    "lists of text": ({"a": [["x"], ["y"]]}, None, False),
    "lists beside text": ({"a": [[1], [2]], "b": ["x", "y"]}, None, False),
    "bytes beside text": ({"a": [b"1", b"2"], "b": ["x", "y"]}, None, False),
}


@pytest.mark.parametrize("columns, labels, expected", PARQUET.values(), ids=PARQUET)
def test_parquet_has_text_as_all_its_cells_say(tmp_path, columns, labels, expected):
    pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    import pyarrow.parquet as pq

    def column(values):
        if isinstance(values, list):
            return pa.array(values)
        kind, cells = values
        return pa.array(cells).dictionary_encode() if kind == "dictionary" else pa.array(cells, kind)

    pq.write_table(pa.table({name: column(values) for name, values in columns.items()}), tmp_path / "t.parquet")
    path = tmp_path / "t.parquet"
    assert has_text(path, labels) is told_by_all_cells(path, labels) is expected


def test_damaged_parquet_has_no_text(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    assert not has_text(tmp_path / "t.parquet", None)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_gap_in_a_long_table_is_answered_in_little_memory(tmp_path, suffix):
    path, n = tmp_path / f"t{suffix}", 60_000
    if suffix == ".csv":
        path.write_text("a,b,c\n1,,\n" + "1,2,\n" * n)  # c stays a candidate to the end
    else:
        pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
        import pyarrow.parquet as pq

        pq.write_table(pa.table({name: [None, *np.arange(float(n))] for name in "abc"}), path)
        has_text(path, None)  # imports are no growth
    tracemalloc.start()
    try:
        assert not has_text(path, None)
        assert tracemalloc.get_traced_memory()[1] < 2**20  # all cells as objects: more than 4 MiB
    finally:
        tracemalloc.stop()
    with pytest.raises(DataError, match="a gap|an empty cell"):
        load_all(path)
