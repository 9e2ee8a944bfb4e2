"""Parquet tables: small ones in memory, large ones from an array on disk, with the same rows."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.core.errors import DataError
from lowerbound.data import cached as cached_arrays
from lowerbound.data import load_all
from lowerbound.data import parquet as module

pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
pq = pytest.importorskip("pyarrow.parquet")

N = 50


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A table of three columns and labels, in blocks of seven rows, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_BLOCK", 7)

    def write(name="t.parquet", **changed):
        random = np.random.default_rng(0)
        columns = {"a": random.normal(size=N), "b": np.arange(N), "c": random.random(N) > 0.5}
        columns = {**columns, "label": [f"k{i % 3}" for i in range(N)], **changed}
        pq.write_table(pa.table(columns), tmp_path / name, row_group_size=11)
        return tmp_path / name

    return write


def small_machine(monkeypatch):
    monkeypatch.setattr(cached_arrays, "_memory", lambda: 1000)


def cached(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.npy"))


def test_large_table_has_the_rows_of_a_small_one(table, tmp_path, monkeypatch):
    resident = load_all(table())
    assert not cached(tmp_path)
    small_machine(monkeypatch)
    streamed = load_all(table())
    assert len(cached(tmp_path)) == 1
    assert streamed.rows(range(N)).equal(resident.rows(range(N)))
    assert streamed.labels.equal(resident.labels)
    assert streamed.describe() == resident.describe()
    for epoch in (0, 1):
        pairs = zip(*(d.batches(8, seed=3, epoch=epoch) for d in (streamed, resident)), strict=True)
        assert all(a.equal(b) for a, b in pairs)


def test_large_table_trains_as_a_small_one_does(table, tmp_path, monkeypatch):
    weights = []
    for large in (False, True):
        if large:
            small_machine(monkeypatch)
        torch.manual_seed(0)
        model = lb.models.VAE(event_shape=(3,), latent_dim=2, hidden=(4,), likelihood="gaussian")
        lb.fit(lb.objectives.ELBO(model), load_all(table()), epochs=2, batch_size=8, progress=False)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert weights[0].equal(weights[1])


def test_it_is_converted_once_and_again_when_it_changes(table, tmp_path, monkeypatch):
    small_machine(monkeypatch)
    path = table()
    load_all(path)
    (first,) = cached(tmp_path)
    before = first.stat().st_mtime_ns
    load_all(path)
    assert [file.stat().st_mtime_ns for file in cached(tmp_path)] == [before]
    table(a=np.zeros(N))
    os.utime(path, ns=(1, 1))
    assert load_all(path).rows(range(N))[:, 0].abs().max() == 0
    assert len(cached(tmp_path)) == 1  # one of a table


@pytest.mark.parametrize("large", [False, True])
def test_gap_is_named_by_its_row_in_the_table(large, table, tmp_path, monkeypatch):
    if large:
        small_machine(monkeypatch)
    values = [float(i) for i in range(N)]
    values[23] = None
    path = table(b=values)
    with pytest.raises(DataError, match=r"row 23, column 'b': expected a value, got a gap. .*missing=True"):
        load_all(path)
    assert not cached(tmp_path)
    rows = load_all(path, missing=True).rows(range(N))
    assert rows.isnan().nonzero().tolist() == [[23, 1]]


@pytest.mark.parametrize("change", ["longer", "touched", "truncated", "replaced"])
def test_array_that_changes_under_a_running_job_is_not_trained_on(change, tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    data = load_all(path)
    batches = data.batches(8, seed=0, epoch=0)
    next(batches)
    if change == "longer":
        with path.open("ab") as file:
            file.write(b"more")
    elif change == "touched":
        os.utime(path, ns=(1, 1))
    elif change == "truncated":
        os.truncate(path, 300)
    else:
        np.save(tmp_path / "other.npy", np.zeros((40, 3), np.float32))
        os.utime(tmp_path / "other.npy", ns=(1, 1))
        (tmp_path / "other.npy").replace(path)
    with pytest.raises(
        DataError, match=r"rows.npy: expected the file as loaded, got it was written since. Leave the file"
    ):
        next(batches)
