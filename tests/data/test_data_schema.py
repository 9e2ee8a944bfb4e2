"""What columns are taken for, what they become, and what is said of bad ones."""

from __future__ import annotations

import math
from contextlib import nullcontext
from datetime import date

import pytest
import torch

from lowerbound.core.errors import ArgumentError, DataError, TrainingWarning
from lowerbound.data import Column, decode, load, load_all, write_cells, write_schema
from lowerbound.data.cells import has_text
from lowerbound.data.schema import encode, infer, read_schema

ROWS = [
    f"{20 + i / 2},{'mf'[i % 2]},{['Oslo', 'Rome', 'Bonn'][i % 3]},{i % 4},{['low', 'high'][i % 2]}\n"
    for i in range(30)
]
TEXT = "age,sex,city,visits,stage\n" + "".join(ROWS)
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def table(tmp_path):
    (tmp_path / "t.csv").write_text(TEXT)
    return tmp_path / "t.csv"


def test_kinds_are_inferred_and_cells_come_back(table):
    found = load_all(table)
    assert [c.kind for c in found.schema] == ["continuous", "binary", "categorical", "counts", "binary"]
    assert found.columns[2] == ["categorical", 3]
    cells = decode(found.rows(range(30)), found.schema)
    lines = [",".join(map(str, row)) for row in zip(*cells.values(), strict=True)]
    expected = [line.strip().split(",", 1) for line in ROWS]
    assert lines == [f"{float(age)},{rest}" for age, rest in expected]


def test_a_schema_says_otherwise_and_is_written(table, tmp_path):
    schema = tmp_path / "s.toml"
    schema.write_text(
        'stage = {type = "ordinal", levels = ["low", "mid", "high"]}\nvisits = "continuous"\ncity = "skip"\n'
    )
    train, test = load(table, schema=schema)
    assert train.event_shape == (4,)
    assert [c.kind for c in test.schema] == ["continuous", "binary", "skip", "continuous", "ordinal"]
    assert load_all(table, schema=schema).rows([1])[0, -1] == 2
    write_schema(tmp_path / "again.toml", train.schema)
    assert infer_again(table, tmp_path / "again.toml") == train.schema


def infer_again(table, schema):
    return load_all(table, schema=schema).schema


def test_numbers_stay_numbers_unless_asked(tmp_path):
    (tmp_path / "n.csv").write_text("a,b\n1,2.5\n3,4\n2,0.5\n")
    assert load_all(tmp_path / "n.csv").schema is None
    assert [c.kind for c in load_all(tmp_path / "n.csv", schema="infer").schema] == ["counts", "continuous"]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_keep_the_order_of_their_categories(library):
    frames = pytest.importorskip(library)
    levels, cells = ["low", "mid", "high"], ["mid", "high", "low", None]
    if library == "pandas":
        stage = frames.Categorical(cells, categories=levels, ordered=True)
    else:
        stage = frames.Series(cells, dtype=frames.Enum(levels))
    found = load_all(frames.DataFrame({"stage": stage, "x": [0.5, 1.5, None, 2.5]}), missing=True)
    assert [(c.kind, c.levels) for c in found.schema] == [("ordinal", tuple(levels)), ("continuous", ())]
    assert found.rows(range(4))[:3, 0].tolist() == [1, 2, 0]
    assert found.rows([3])[0, 0].isnan()


def test_new_levels_are_gaps_where_there_may_be_gaps(table, tmp_path):
    (tmp_path / "new.csv").write_text(TEXT.replace("Bonn", "Lima"))
    schema = load_all(table).schema
    with pytest.raises(DataError, match="column 'city': expected one of the levels 'Bonn', .*got 'Lima'"):
        load_all(tmp_path / "new.csv", schema=schema)
    with pytest.warns(TrainingWarning, match="column 'city': 'Lima' not among its levels, taken as gaps"):
        rows = load_all(tmp_path / "new.csv", schema=schema, missing=True).rows(range(30))
    assert rows[:, 2].isnan().sum() == 10


@pytest.mark.parametrize(
    "cells, match",
    [
        ([f"p{i}" for i in range(10)], "column 'a' is skipped: more than half of its texts differ"),
        (["2020-01-01", "2020-01-02", "2020-01-02"], "column 'a' is skipped: it holds dates"),
        ([3.0, 3.0, 3.0], "column 'a' is skipped: it holds one value only"),
    ],
)
def test_what_is_skipped_is_said(cells, match):
    with pytest.warns(TrainingWarning, match=match):
        assert infer({"a": cells})[0].kind == "skip"


@pytest.mark.parametrize(
    "cells, given, match",
    [
        ([1, "x", 2], None, r"column 'a': expected either numbers or text, got numbers and text \('x' in row 1\)"),
        ([None, None], None, "column 'a': expected a value, got gaps in all rows"),
        ([1, -2, 3], "counts", "row 1: expected a count, got -2"),
        (["x", "y", "z"], "continuous", "row 0: expected a finite number, got 'x'"),
        (["x", "y", "z"], "binary", "schema of column 'a': expected two levels, got 3 levels"),
        (["x", "y"], "ordinal", "schema of column 'a': expected levels, got none"),
        (["x", "y"], {"type": "ordinal", "levels": ["x", "w"]}, "expected every level of the table.*got 'y'"),
        (["x", "y"], "ordnal", "type of column 'a'.*Did you mean 'ordinal'"),
    ],
)
def test_bad_columns_are_named(cells, given, match):
    with pytest.raises((DataError, ArgumentError), match=match):
        infer({"a": cells}, {} if given is None else {"a": given})


@pytest.mark.parametrize(
    "text, match",
    [
        ("not toml", "expected a schema in TOML"),
        ('a = "numbers"', "column 'a': expected continuous, .*got 'numbers'"),
        ("a = 3", "column 'a': expected continuous, .*got 3"),
    ],
)
def test_bad_schema_files_are_named(tmp_path, text, match):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(DataError, match=match):
        read_schema(tmp_path / "s.toml")


@pytest.mark.parametrize(
    "content, match",
    [
        (b"a,a\nx,1\ny,2\n", "expected a name for each column, got 'a' twice"),
        ("a,b\nx,é\ny,z\n".encode("latin-1"), "expected a CSV file, got .*utf-8"),
        (b"a,b\nx\n", "line 2: expected 2 cells, got 1 cells"),
        (b"a,b\n", "got a header only"),
        (b"", "expected rows, got none"),
        (b"a,b\nx,1\n,2\ny,3\n", "column 'a', row 1: expected a value, got a gap"),
    ],
)
def test_bad_tables_are_named(tmp_path, content, match):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=match):
        load_all(tmp_path / "t.csv", schema="infer")


def test_a_schema_of_another_table_is_named(table, tmp_path):
    (tmp_path / "s.toml").write_text('wheight = "continuous"\n')
    with pytest.raises(DataError, match="schema: expected columns of the table, got 'wheight'"):
        load_all(table, schema=tmp_path / "s.toml")
    (tmp_path / "less.csv").write_text("age,sex\n1.5,m\n2.5,f\n")
    with pytest.raises(DataError, match="column 'city': expected such a column, got none"):
        load_all(tmp_path / "less.csv", schema=load_all(table).schema)
    with pytest.raises(ArgumentError, match="schema: expected None for digits"):
        load("digits", schema="infer")


def test_one_row_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\nx,1\n")
    (tmp_path / "s.toml").write_text('a = {type = "binary", levels = ["x", "y"]}\nb = "counts"\n')
    with pytest.raises(DataError, match="expected two rows or more to split, got 1"):
        load(tmp_path / "t.csv", schema=tmp_path / "s.toml")


def test_a_very_wide_header_ends_with_an_error(tmp_path):
    (tmp_path / "t.csv").write_text(",".join(f"c{i}" for i in range(200_000)) + "\n")
    with pytest.raises(DataError, match="got a header only"):
        load_all(tmp_path / "t.csv", schema="infer")
    (tmp_path / "t.csv").write_text(",".join(f"c{i}" for i in range(200_000)) + "\n1\n")
    with pytest.raises(DataError, match=r"Known: c0, .*, \.\.\.\.$") as error:
        load_all(tmp_path / "t.csv", labels="kind")
    assert len(str(error.value)) < 1000


def test_gaps_have_no_level():
    found = decode(torch.tensor([[math.nan]]), infer({"a": ["x", "y"]}))
    assert found == {"a": [None]}


def test_texts_that_are_one_number_are_levels_of_their_own():
    cells = {"id": ["1", "01", "1.0", "1e0"] * 3, "size": [1.5, 2.5, 3.5] * 4}
    columns = infer(cells, {"id": "categorical"})
    rows = encode(cells, columns, missing=False, source="t")
    assert decode(rows, columns)["id"] == cells["id"]
    with pytest.raises(DataError, match=r"column 'id': expected one of the levels '01', '1', '1.0', '1e0', got 1\."):
        encode({**cells, "id": [1] * 12}, columns, missing=False, source="t")


@pytest.mark.parametrize("source", ["pandas", "polars", "parquet"])
def test_texts_of_numbers_come_back_from_frames_and_files(source, tmp_path):
    pytest.importorskip("pyarrow" if source == "parquet" else source)
    cells = {"code": ["1", "01", "1.0", " 1"] * 3, "size": [1.5, 2.5, 3.5, 4.5] * 3}
    if source == "parquet":
        write_cells(tmp_path / "t.parquet", cells)
    table = tmp_path / "t.parquet" if source == "parquet" else pytest.importorskip(source).DataFrame(cells)
    found = load_all(table)
    assert decode(found.rows(range(12)), found.schema) == cells


ALIKE = {
    "another text of a number": (["1", "2"], ["1", "01"], [0, None]),
    "texts that differ by spaces": (["a", " a"], ["a", " a", "a "], [0, 1, None]),
    "spaces around a text": (["a", "b"], [" b", "a"], [1, 0]),
    "numbers of one float": ([2**53, 2**53 + 1], [2**53 + 1, 2**53, 2**53 + 2], [1, 0, None]),
    "a whole number": ([1, 2.0], [1.0, 2], [0, 1]),
    "texts of numbers": ([1, 2.5], ["1", " 2.5", "01"], [0, 1, 0]),
    "truth values": ([True, 1, False], [1, True, "False"], [1, 0, 2]),
}


@pytest.mark.parametrize("case", ALIKE)
def test_a_cell_has_the_code_of_its_level_and_of_no_other(case):
    levels, cells, expected = ALIKE[case]
    columns = [Column("a", "categorical", tuple(levels))]
    new = pytest.warns(TrainingWarning, match="not among its levels") if None in expected else nullcontext()
    with new:
        codes = encode({"a": cells}, columns, missing=True, source="t")[:, 0].tolist()
    assert [None if math.isnan(code) else code for code in codes] == expected


def test_a_text_that_a_schema_lacks_is_named():
    with pytest.raises(DataError, match=r"expected every level of the table, two or more, got '1\.0' in the table"):
        infer({"a": ["1", "2", "1.0"]}, {"a": {"type": "categorical", "levels": ["1", "2"]}})


def test_a_number_is_the_level_of_its_text():
    cells = {"stage": [1, 2, 1, 2], "size": [1.5, 2.5, 3.5, 4.5]}
    columns = infer(cells, {"stage": {"type": "ordinal", "levels": ["2", "1"]}})
    assert encode(cells, columns, missing=False, source="t")[:, 0].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_a_long_table_with_a_gap_is_not_read_whole_to_say_so(tmp_path, monkeypatch):
    """Whether a column is text shows in the first lines, or in the types of a Parquet file."""
    pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    monkeypatch.setattr("lowerbound.data.sources.read_cells", lambda path: pytest.fail("the table was read whole"))
    parsed = []
    monkeypatch.setattr("lowerbound.data.cells._parsed", lambda cell: parsed.append(cell) or float(cell))
    (tmp_path / "t.csv").write_text("a,b\n" + "1.0,2.0\n" * 500 + "1.0,x\n")
    with pytest.raises(DataError, match="line 502"):
        load(tmp_path / "t.csv")
    assert len(parsed) == 2
    parquet.write_table(pa.table({"a": [1.0] * 500 + [None], "b": [2.0] * 501}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="row 500"):
        load(tmp_path / "t.parquet")


TEXTS = {
    "text": (["x", "y"], True),
    "text and gaps": (["x", None], True),
    "gaps and a number": ([None, 1.5], False),
    "dates": ([date(2020, 1, 2), date(2020, 1, 3)], True),
}


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_text_is_found(case, ending, tmp_path):
    cells, expected = TEXTS[case]
    write_cells(tmp_path / f"t.{ending}", {"a": cells, "b": [1.0, 2.0], "label": ["p", "q"]})
    assert has_text(tmp_path / f"t.{ending}", None) is expected
    assert has_text(tmp_path / f"t.{ending}", "b") is True  # the column of labels is one of the others then
