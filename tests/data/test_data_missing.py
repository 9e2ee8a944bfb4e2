"""Values that are missing: NaN in arrays, empty cells in tables; refused unless asked for."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lowerbound.core.errors import ArgumentError, DataError
from lowerbound.data import Dataset, load, load_all

NAN = math.nan
X = torch.tensor([[NAN, 5.0, 1.0], [2.0, NAN, 1.0], [4.0, 9.0, NAN], [NAN, 1.0, 1.0]])
TABLE = "a,b,label\n,5,0\n2,NA,1\n4,9,0\n?,1,1\n"


def write(folder: Path, name: str) -> Path:
    """Write X, without its last column, in a form of file."""
    path, rows = folder / name, X[:, :2].numpy()
    if path.suffix == ".csv":
        path.write_text(TABLE)
    elif path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".npz":
        np.savez(path, data=rows, labels=np.array([0, 1, 0, 1]))
    else:
        pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
        import pyarrow.parquet as pq

        whole = [None, 2, 4, None]  # integers with nulls
        pq.write_table(pa.table({"a": whole, "b": [5.0, None, 9.0, 1.0], "label": [0, 1, 0, 1]}), path)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.npy", "t.npz", "t.parquet"])
def test_gaps_are_nan_where_they_are_asked_for(tmp_path, name):
    data = load_all(write(tmp_path, name), missing=True)
    torch.testing.assert_close(data.rows(range(4)), X[:, :2], rtol=0, atol=0, equal_nan=True)
    assert data.missing
    assert data.describe()["missing"] is True
    if name != "t.npy":
        assert data.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "name, message",
    [
        ("t.csv", r"t\.csv, line 2, column 'a': expected a finite number, got an empty cell\. Fill the gap.*--missing"),
        ("t.npy", r"expected finite values, got nan in row 0\..*missing=True \(--missing\)"),
        ("t.npz", r"expected finite values, got nan in row 0\..*missing=True \(--missing\)"),
        ("t.parquet", r"row 0, column 'a': expected a value, got a gap\. Fill the gap.*missing=True \(--missing\)"),
    ],
)
def test_gaps_are_refused_by_default_and_the_option_is_named(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        load_all(write(tmp_path, name))


@pytest.mark.parametrize("cell", ["", " ", "?", "NA", "n/a", "NaN", "None", "null"])
def test_cells_that_stand_for_a_gap(tmp_path, cell):
    path = tmp_path / "t.csv"
    path.write_text(f"a,b\n1,{cell}\n3,4\n")
    assert load_all(path, missing=True).rows([0]).isnan().tolist() == [[False, True]]


@pytest.mark.parametrize("cell", ["four", "inf", "-", "1e999", "1,5"])
def test_other_cells_are_refused_among_gaps_too(tmp_path, cell):
    path = tmp_path / "t.csv"
    path.write_text(f"a,b\n,2\n3,{cell}\n")
    with pytest.raises(DataError, match="line 3"):
        load_all(path, missing=True)


def test_infinity_is_no_gap():
    with pytest.raises(DataError, match=r"expected finite values or NaN, got inf in row 1\. .*NaN stands for a gap"):
        Dataset(torch.tensor([[NAN, 1.0], [math.inf, 1.0]]), missing=True)


def test_labels_have_no_gaps(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1.0, 2.0], "label": [0, None]}), path)
    with pytest.raises(
        DataError, match=r"row 1, column 'label': expected a value, got a gap\. Fill the gap, drop the row"
    ):
        load_all(path, missing=True)


def test_moments_and_range_are_those_of_what_is_there():
    data = Dataset(X, missing=True)
    mean, std = data.moments()
    torch.testing.assert_close(mean, torch.tensor([3.0, 5.0, 1.0]))
    torch.testing.assert_close(std, torch.tensor([1.0, (32 / 3) ** 0.5, 0.0]))
    assert data.range == (1.0, 9.0)
    assert not data.binary
    shifted = Dataset(1e4 + X, missing=True).moments()  # float32 sums of squares would lose every digit
    torch.testing.assert_close(shifted[0], 1e4 + mean)
    torch.testing.assert_close(shifted[1], std, rtol=0, atol=1e-3)
    assert Dataset(torch.tensor([[NAN, 1.0], [0.0, NAN]]), missing=True).binary


def test_moments_of_many_blocks_whose_first_has_only_gaps():
    rows = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0)) * 2 + 5
    rows[:2000, 0] = NAN
    data = Dataset(rows, missing=True)
    data.__class__ = type("Small", (Dataset,), {"_block": 500})
    mean, std = data.moments()
    seen = rows[2000:, 0]
    torch.testing.assert_close(mean[0], seen.mean())
    torch.testing.assert_close(std[0], seen.std(correction=0))
    torch.testing.assert_close(mean[1], rows[:, 1].mean())


def test_column_of_gaps_only_is_refused():
    with pytest.raises(
        DataError, match=r"value 1 of data: expected a row that holds it, got gaps in all rows.*column out"
    ):
        Dataset(torch.tensor([[0.0, NAN], [1.0, NAN]]), missing=True).moments()


@pytest.mark.parametrize("binarize", ["threshold", "dynamic", "static"])
def test_binarisation_keeps_gaps_and_gives_the_others_the_bits_of_whole_rows(binarize):
    whole = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
    gaps = torch.rand(50, 6, generator=torch.Generator().manual_seed(1)) < 0.3
    found = Dataset(torch.where(gaps, NAN, whole), binarize=binarize, missing=True)
    wanted = torch.where(gaps, NAN, Dataset(whole, binarize=binarize).rows(range(50)))
    torch.testing.assert_close(found.rows(range(50)), wanted, rtol=0, atol=0, equal_nan=True)
    assert found.binary
    (batch,) = found.batches(50, seed=0, epoch=0)
    assert int(batch.isnan().sum()) == int(gaps.sum())


def test_splits_keep_the_option_and_the_hash_of_complete_data_does_not_change(tmp_path):
    train, test = load(write(tmp_path, "t.npy"), missing=True, test_fraction=0.5)
    assert train.missing
    assert test.missing
    rows = torch.rand(5, 2)
    plain, open_ = Dataset(rows).describe(), Dataset(rows, missing=True).describe()
    assert plain["sha256"] == open_["sha256"]
    assert "missing" not in plain


def test_built_in_sets_have_no_gaps():
    with pytest.raises(ArgumentError, match="missing: expected False for digits, got True.*the set has no gaps"):
        load("digits", missing=True)
