"""`load`: every kind of file gives its rows and labels back, and every bad file is an error that names the place."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lowerbound.core.errors import ArgumentError, DataError
from lowerbound.data import SOURCES, Dataset, load, load_all
from lowerbound.data.store import Disk

GREY = np.random.default_rng(0).integers(0, 256, (30, 4, 3), dtype=np.uint8)


def whole(pair: tuple[Dataset, Dataset]) -> dict[tuple[float, ...], int | None]:
    """Return all rows of both splits with their labels."""
    return {
        tuple(data.rows([i]).flatten().tolist()): None if data.labels is None else int(data.labels[i])
        for data in pair
        for i in range(len(data))
    }


def wanted(rows: np.ndarray, labels=None) -> dict[tuple[float, ...], int | None]:
    flat = torch.from_numpy(rows.reshape(len(rows), -1).astype(np.float32)).tolist()
    return {tuple(row): None if labels is None else int(labels[i]) for i, row in enumerate(flat)}


# --- Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"mnist"}))
def test_built_in_sets_load_by_name_and_by_their_own_source(name):
    train, test = load(name, seed=2)
    again = load(train.source, seed=2)
    assert (train.split, test.split) == ("train", "test")
    assert [d.describe() for d in again] == [train.describe(), test.describe()]
    assert train.binarize == {"digits": "dynamic", "four-points": "none"}[name]
    assert load(name, binarize="threshold")[0].binarize == "threshold"


def test_built_in_names_take_no_labels():
    with pytest.raises(ArgumentError, match="None for digits"):
        load("digits", labels=[1, 2])


# --- Arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(GREY, id="uint8"),
        pytest.param(GREY > 100, id="bool"),
        pytest.param(GREY.astype(np.float64) - 7.5, id="float64"),
        pytest.param(GREY.astype(">f4"), id="big-endian"),
        pytest.param(GREY.astype(np.float16), id="float16"),
        pytest.param(GREY.astype(np.int64) - 100, id="int64"),
        pytest.param(GREY.astype(np.uint16), id="uint16"),
        pytest.param(np.asfortranarray(GREY), id="fortran"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_of_every_kind(tmp_path, rows, suffix):
    path = tmp_path / f"rows.{suffix}"
    np.save(path, rows) if suffix == "npy" else np.savez(path, data=rows, labels=np.arange(30))
    pair = load(path, test_fraction=0.2, seed=1)
    expected = rows.astype(np.float32) / np.float32(255) if rows.dtype == np.uint8 else rows
    assert whole(pair) == wanted(expected, range(30) if suffix == "npz" else None)
    assert [len(data) for data in pair] == [24, 6]
    assert pair[0].event_shape == (4, 3)
    record = pair[1].describe()
    assert (record["split_seed"], record["test_fraction"]) == (1, 0.2)
    assert (record["name"], record["source"]) == ("rows", str(path))


def test_labels_of_an_npy_come_from_a_file_or_from_the_caller(tmp_path):
    np.save(tmp_path / "rows.npy", GREY)
    np.save(tmp_path / "labels.npy", np.arange(30))
    names = np.array(["b", "a", "c"] * 10)
    for labels, expected in (
        (str(tmp_path / "labels.npy"), range(30)),
        (list(range(30)), range(30)),
        (torch.arange(30), range(30)),
        (np.arange(30.0), range(30)),
        (names, [1, 0, 2] * 10),
    ):
        pair = load(tmp_path / "rows.npy", labels=labels)
        assert whole(pair) == wanted(GREY.astype(np.float32) / np.float32(255), expected)
        assert pair[0].label_names == (("a", "b", "c") if labels is names else None)


def test_npz_labels_by_name(tmp_path):
    np.savez(tmp_path / "rows.npz", data=GREY, labels=np.zeros(30), kind=np.arange(30))
    assert whole(load(tmp_path / "rows.npz", labels="kind")) == wanted(
        GREY.astype(np.float32) / np.float32(255), range(30)
    )


def test_splits_are_disjoint_and_seeded(tmp_path):
    np.save(tmp_path / "rows.npy", GREY)
    sides = [{tuple(d.rows([i]).flatten().tolist()) for i in range(len(d))} for d in load(tmp_path / "rows.npy")]
    assert not sides[0] & sides[1]
    assert [len(side) for side in sides] == [27, 3]
    first, same, other = (load(tmp_path / "rows.npy", seed=seed)[1].describe()["sha256"] for seed in (0, 0, 1))
    assert first == same != other


# --- Tables -----------------------------------------------------------------------------------------------------------

TABLE = {
    "no header": ("1,2\n3,4\n5,6\n", None, [[1, 2], [3, 4], [5, 6]], None, None),
    "header": ("a,b\n1,2\n3,4\n5,6\n", None, [[1, 2], [3, 4], [5, 6]], None, None),
    "label column": ("a,label,b\n1,7,2\n3,8,4\n5,9,6\n", None, [[1, 2], [3, 4], [5, 6]], [7, 8, 9], None),
    "labels beyond integers": ("label,a\n99999999999999999999,1\n5,2\n", None, [[1], [2]], [1, 0], ("5", "9" * 20)),
    "text labels": ("labels,a\nx,1\ny,3\nx,5\n", None, [[1], [3], [5]], [0, 1, 0], ("x", "y")),
    "named column": ("0,1,kind\n1,2,u\n3,4,v\n5,6,u\n", "kind", [[1, 2], [3, 4], [5, 6]], [0, 1, 0], ("u", "v")),
    "numeric names": ("label,0,1\n1,2,3\n4,5,6\n", None, [[2, 3], [5, 6]], [1, 4], None),
    "blanks and quotes": ('"a","b"\r\n"1",-2e3\r\n\r\n 3 ,.5\r\n', None, [[1, -2000], [3, 0.5]], None, None),
    "byte order mark": ("\ufeffa,b\n1,2\n3,4\n", None, [[1, 2], [3, 4]], None, None),
    "labels given": ("1,2\n3,4\n", [8, 9], [[1, 2], [3, 4]], [8, 9], None),
}


@pytest.mark.parametrize("text, labels, rows, expected, names", TABLE.values(), ids=TABLE)
def test_csv(tmp_path, text, labels, rows, expected, names):
    (tmp_path / "t.csv").write_bytes(text.encode())
    pair = load(tmp_path / "t.csv", labels=labels)
    assert whole(pair) == wanted(np.array(rows), expected)
    assert pair[0].label_names == names


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    import pyarrow.parquet as pq

    columns = {"a": [1, 2, 3], "label": ["y", "x", "y"], "b": [0.5, 1.5, 2.5], "c": [True, False, True]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    pair = load(tmp_path / "t.parquet")
    assert whole(pair) == wanted(np.array([[1, 0.5, 1], [2, 1.5, 0], [3, 2.5, 1]]), [1, 0, 1])
    assert pair[0].label_names == ("x", "y")
    assert pair[0].event_shape == (3,)


# --- Pictures ---------------------------------------------------------------------------------------------------------


def draw(path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif"])  # the formats that keep grey values exactly
def test_a_folder_of_grey_pictures(tmp_path, suffix):
    for number, pixels in enumerate(GREY):
        draw(tmp_path / f"{number:02}.{suffix}", pixels)
    (tmp_path / "notes.txt").write_text("passed over")
    pair = load(tmp_path, binarize="none")
    expected = GREY.astype(np.float32) / np.float32(255)
    if pair[0].event_shape == (3, 4, 3):  # a GIF's palette counts as colour
        expected = np.repeat(expected[:, None], 3, axis=1)
    assert whole(pair) == wanted(expected)
    assert (pair[0].levels, pair[0].labels) == (256, None)
    assert load(tmp_path, binarize="threshold")[0].binary


def test_sub_folders_are_labels_and_colour_comes_first(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (6, 5, 2, 3), dtype=np.uint8)
    for number, pixels in enumerate(colour):
        draw(tmp_path / ("cat" if number < 3 else "ant") / f"{number}.png", pixels, "RGBA" if number == 4 else None)
    pair = load(tmp_path)
    expected = colour.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    assert whole(pair) == wanted(expected, [1, 1, 1, 0, 0, 0])
    assert (pair[0].event_shape, pair[0].label_names) == ((3, 5, 2), ("ant", "cat"))


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_pictures_are_read(tmp_path, suffix):
    for number in range(3):
        draw(tmp_path / f"{number}.{suffix}", np.full((8, 8, 3), 40 * number, dtype=np.uint8))
    rows = torch.cat([data.rows(range(len(data))) for data in load(tmp_path)])
    means = sorted(rows.flatten(1).mean(1).tolist())
    assert means == pytest.approx([0, 40 / 255, 80 / 255], abs=2.5 / 255)  # flat areas come back to 2 levels or so


# --- Errors -----------------------------------------------------------------------------------------------------------


def array(name, value, **arrays):
    def make(folder):
        np.save(folder / name, value) if name.endswith(".npy") else np.savez(folder / name, **arrays)

    return make


def text(name, content, encoding="utf-8"):
    return lambda folder: (folder / name).write_bytes(content.encode(encoding))


def cut(name, value, length):
    def make(folder):
        np.save(folder / name, value) if name.endswith(".npy") else np.savez_compressed(folder / name, data=value)
        (folder / name).write_bytes((folder / name).read_bytes()[:length])

    return make


ERRORS = {
    "missing": (lambda folder: None, "nothing.npy", {}, "no such file or folder. Known: digits, four-points, mnist"),
    "suffix": (text("rows.txt", "1,2"), "rows.txt", {}, r"\.npy, \.npz, \.csv, \.parquet or a folder .*'\.txt'"),
    "no suffix": (text("rows", "1,2"), "rows", {}, "got no suffix"),
    "npy empty": (text("rows.npy", ""), "rows.npy", {}, "a whole .npy array, got No data left"),
    "npy truncated": (cut("rows.npy", GREY, 200), "rows.npy", {}, "a whole .npy array"),
    "npy cut header": (cut("rows.npy", GREY, 20), "rows.npy", {}, "a whole .npy array"),
    "npy is text": (text("rows.npy", "1,2\n"), "rows.npy", {}, "a whole .npy array"),
    "npy is npz": (
        lambda folder: (np.savez(folder / "a.npz", data=GREY), (folder / "a.npz").rename(folder / "rows.npy")),
        "rows.npy",
        {},
        "a .npy array, got another kind of file",
    ),
    "npy objects": (
        array("rows.npy", np.array([[None], [1]])),
        "rows.npy",
        {},
        "whole .npy array, got .*Python objects.*Save numbers",
    ),
    "npy strings": (array("rows.npy", np.array([["a"]])), "rows.npy", {}, "real numbers, got dtype <U1"),
    "npy complex": (array("rows.npy", np.ones((2, 2)) * 1j), "rows.npy", {}, "real numbers, got dtype complex128"),
    "npy no rows": (array("rows.npy", np.zeros((0, 3))), "rows.npy", {}, r"n >= 1, got \[0, 3\]"),
    "npy one axis": (array("rows.npy", np.zeros(3)), "rows.npy", {}, r"shape \[n, ...\] with n >= 1, got \[3\]"),
    "npy scalar": (array("rows.npy", np.float32(3)), "rows.npy", {}, r"n >= 1, got \[\]"),
    "npy one row": (array("rows.npy", np.zeros((1, 3))), "rows.npy", {}, "two rows or more to split"),
    "npy nan": (
        array("rows.npy", np.array([[0, 1], [np.nan, 0], [np.inf, 0]])),
        "rows.npy",
        {},
        "finite values, got nan in row 1. Repair",
    ),
    "npy infinity": (array("rows.npy", np.array([[0], [-np.inf]])), "rows.npy", {}, "got -inf in row 1"),
    "binarise floats": (
        array("rows.npy", np.array([[0.5], [200.0]])),
        "rows.npy",
        {"binarize": "dynamic"},
        r"rows.npy: expected values in \[0, 1\] to binarise by 'dynamic', got 200 in row 1. Scale them",
    ),
    "labels too few": (array("rows.npy", GREY), "rows.npy", {"labels": [1, 2]}, r"shape \[30\], got shape \[2\]"),
    "labels one-hot": (
        array("rows.npy", GREY),
        "rows.npy",
        {"labels": np.eye(30)},
        r"shape \[30\], got shape \[30, 30\]",
    ),
    "labels fractions": (
        array("rows.npy", GREY),
        "rows.npy",
        {"labels": np.full(30, 0.5)},
        "integers or texts, got float64",
    ),
    "labels objects": (
        array("rows.npy", GREY),
        "rows.npy",
        {"labels": [None] * 30},
        "integers or texts, got object",
    ),
    "labels missing file": (array("rows.npy", GREY), "rows.npy", {"labels": "none.npy"}, "none.npy: .*No such file"),
    "npz without data": (array("t.npz", 0, rows=GREY), "t.npz", {}, "an array named 'data', got arrays rows"),
    "npz empty": (text("t.npz", ""), "t.npz", {}, "a whole file of NumPy's, got No data left"),
    "npz truncated": (cut("t.npz", GREY, 300), "t.npz", {}, "a whole file of NumPy's|a whole array"),
    "npz objects": (
        array("t.npz", 0, data=np.array([[None]])),
        "t.npz",
        {},
        "array 'data': expected a whole array, got Object arrays .*not done",
    ),
    "npz strings": (array("t.npz", 0, data=np.array([["a"]])), "t.npz", {}, "real numbers, got dtype <U1"),
    "npz labels length": (
        array("t.npz", 0, data=GREY, labels=np.arange(29)),
        "t.npz",
        {},
        r"labels of .*shape \[30\], got shape \[29\]",
    ),
    "npz labels name": (array("t.npz", 0, data=GREY), "t.npz", {"labels": "dat"}, "Did you mean 'data'"),
    "csv empty": (text("t.csv", ""), "t.csv", {}, "rows of numbers, got none"),
    "csv header only": (text("t.csv", "a,b\n"), "t.csv", {}, "rows of numbers, got none"),
    "csv labels only": (text("t.csv", "label\n1\n2\n"), "t.csv", {}, "rows of numbers, got none"),
    "csv text": (
        text("t.csv", "a,b\n1,2\n3,four\n"),
        "t.csv",
        {},
        "line 3, column 'b': expected a finite number, got 'four'",
    ),
    "csv text, no header": (text("t.csv", "1,2\nx,3\n"), "t.csv", {}, "line 2, column 1: .*got 'x'"),
    "csv text in line 1": (text("t.csv", "1,abc\n2,3\n"), "t.csv", {}, "line 1, column 2: .*got 'abc'"),
    "csv text after label": (text("t.csv", "label,b\n1,2\n3,x\n"), "t.csv", {}, "line 3, column 'b'"),
    "csv gap": (text("t.csv", "a,b\n1,\n3,4\n"), "t.csv", {}, "line 2, column 'b': .*got an empty cell"),
    "csv nan": (text("t.csv", "a,b\n1,2\n3,nan\n"), "t.csv", {}, "line 3, column 'b': .*got 'nan'"),
    "csv infinity": (text("t.csv", "1,inf\n-inf,2\n"), "t.csv", {}, "line 1, column 2: .*got 'inf'"),
    "csv two infinities": (text("t.csv", "1,2\n-inf,inf\n"), "t.csv", {}, "line 2, column 1: .*got '-inf'"),
    "csv short": (text("t.csv", "a,b\n1,2\n3\n"), "t.csv", {}, "line 3: expected 2 cells, got 1 cells"),
    "csv long": (text("t.csv", "a,b\n1,2\n3,4,5\n"), "t.csv", {}, "line 3: expected 2 cells, got 3 cells"),
    "csv index": (text("t.csv", ",a\n0,1\n1,2\n"), "t.csv", {}, "header: .*column 1. An index without a name"),
    "csv latin-1": (text("t.csv", "ä,b\n1,2\n", "latin-1"), "t.csv", {}, "a CSV file, .*UTF-8"),
    "csv label name": (text("t.csv", "kind,b\n1,2\n"), "t.csv", {"labels": "knd"}, "Did you mean 'kind'"),
    "csv label, no header": (text("t.csv", "1,2\n3,4\n"), "t.csv", {"labels": "a"}, "a column 'a', got none"),
    "parquet damaged": (text("t.parquet", "PAR1"), "t.parquet", {}, "a Parquet file"),
    "folder empty": (lambda folder: (folder / "p").mkdir(), "p", {}, "got no picture. Put pictures into it: .bmp"),
    "picture damaged": (
        lambda folder: (draw(folder / "p/a.png", GREY[0]), (folder / "p/b.png").write_bytes(b"x")),
        "p",
        {},
        "b.png: expected a picture, got cannot identify",
    ),
    "picture truncated": (
        lambda folder: (
            draw(folder / "p/a.png", np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)),
            (folder / "p/a.png").write_bytes((folder / "p/a.png").read_bytes()[:-500]),
        ),
        "p",
        {},
        "a.png: expected a picture, got .*truncated",
    ),
    "pictures damaged": (
        lambda folder: (
            draw(folder / "p/a.png", GREY[0]),
            *((folder / f"p/{name}.jpg").write_bytes(b"x") for name in "bcdefgh"),
        ),
        "p",
        {},
        r"expected pictures, got 7 damaged ones: \S*b.jpg; \S*c.jpg; .*f.jpg; \.\.\.\. Remove them",
    ),
    "pictures all damaged": (
        lambda folder: ((folder / "p").mkdir(), (folder / "p/b.png").write_bytes(b"")),
        "p",
        {},
        "b.png: expected a picture, got cannot identify",
    ),
    "picture of fractions": (
        lambda folder: (
            (folder / "p").mkdir(),
            Image.fromarray(np.ones((3, 4), dtype=np.float32)).save(folder / "p/a.png", format="tiff"),
        ),
        "p",
        {},
        "a.png: expected whole-numbered pixels, got mode F. Save it",
    ),
    "pictures mixed": (
        lambda folder: (draw(folder / "p/a.png", GREY[0]), draw(folder / "p/cat/b.png", GREY[0])),
        "p",
        {},
        "pictures or sub-folders of pictures, got a.png beside the folder cat",
    ),
    "pictures labels": (
        lambda folder: draw(folder / "p/a.png", GREY[0]),
        "p",
        {"labels": "kind"},
        "values for a folder, got 'kind'",
    ),
}


@pytest.mark.parametrize("make, name, options, match", ERRORS.values(), ids=ERRORS)
def test_bad_sources_are_named(tmp_path, make, name, options, match):
    make(tmp_path)
    with pytest.raises(DataError, match=match):
        load(tmp_path / name, **options)


PARQUET = {
    "gap": ({"a": [1.0, None, 3.0]}, {}, "row 1, column 'a': expected a value, got a gap"),
    "lists": ({"a": [1, 2], "b": [[1], [2]]}, {}, "column 'b': expected numbers, got type list.*Drop the column"),
    "nan": ({"a": [1.0, float("nan")]}, {}, "finite values, got nan in row 1"),
    "labels only": ({"label": [1, 2]}, {}, "columns of numbers, got none"),
    "label name": ({"kind": [1, 2]}, {"labels": "knd"}, "Did you mean 'kind'"),
}


@pytest.mark.parametrize("columns, options, match", PARQUET.values(), ids=PARQUET)
def test_bad_parquet_is_named(tmp_path, columns, options, match):
    pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=match):
        load(tmp_path / "t.parquet", **options)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'lowerbound\[parquet\]'"):
        load(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    "options, match", [({"binarize": "gray"}, "binarize"), ({"test_fraction": 1.5}, "test fraction")]
)
def test_bad_arguments_are_named(tmp_path, options, match):
    np.save(tmp_path / "rows.npy", GREY)
    with pytest.raises(ArgumentError, match=match):
        load(tmp_path / "rows.npy", **options)


def test_a_misspelt_name_is_guessed():
    with pytest.raises(DataError, match="Did you mean 'mnist'"):
        load("mnst")


def test_the_file_hears_which_rows_come_next(tmp_path, monkeypatch):
    np.save(tmp_path / "rows.npy", np.arange(33.0, dtype=np.float32).reshape(11, 3))
    told, taken = [], []
    expect, take = Disk.expect, Disk.take
    monkeypatch.setattr(Disk, "expect", lambda store, rows: (told.append(rows.tolist()), expect(store, rows)))
    monkeypatch.setattr(Disk, "take", lambda store, rows: (taken.append(rows.tolist()), take(store, rows))[1])
    batches = list(load_all(tmp_path / "rows.npy").batches(3, seed=0, epoch=0))
    assert len(batches) == len(taken) == 3
    assert told[:2] == taken[1:]


def test_a_system_that_cannot_read_ahead_reads_all_the_same(tmp_path, monkeypatch):
    rows = np.arange(33.0, dtype=np.float32).reshape(11, 3)
    np.save(tmp_path / "rows.npy", rows)
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    seen = torch.cat(list(load_all(tmp_path / "rows.npy").batches(1, seed=0, epoch=0)))
    assert sorted(seen.tolist()) == rows.tolist()
