"""A table with gaps, from training to imputation, as it is typed."""

from __future__ import annotations

import numpy as np
import pytest

from lowerbound.runs import load, load_data

SMALL = ["--hidden", "8", "--latent-dim", "2", "--epochs", "2", "--quiet"]


@pytest.fixture
def table(tmp_path):
    """Two columns that hang together, a third of whose cells are empty."""
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 1)) * [1.0, 20.0] + [0.0, 300.0] + random.normal(size=(60, 2)) * [0.1, 2.0]
    gaps = random.random(x.shape) < 0.3
    lines = [
        ",".join("" if gap else f"{v:.6g}" for v, gap in zip(*row, strict=True)) for row in zip(x, gaps, strict=True)
    ]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["a,b", *lines]) + "\n")
    return path, x, gaps


def test_a_table_with_gaps_goes_all_the_way(lowerbound, table, tmp_path):
    path, x, gaps = table
    run = tmp_path / "run"
    assert lowerbound("train", "iwae", "--data", path, "--missing", "--out", run, *SMALL)[0] == 0
    assert lowerbound("evaluate", run, "--measure", "elbo", "--measure", "iwae-2", "--quiet")[0] == 0
    assert lowerbound("report", run)[0] == 0
    for command in ("encode", "reconstruct", "impute"):
        out = tmp_path / f"{command}.npy"
        assert lowerbound(command, run, path, "--out", out)[0] == 0
        assert np.isfinite(np.load(out)).all()
    filled = np.load(tmp_path / "impute.npy")
    np.testing.assert_allclose(filled[~gaps], x[~gaps], rtol=1e-5)
    assert (np.abs(filled[gaps[:, 1], 1] - 300) < 60).all()  # in units of the data
    loaded = load(run)
    assert loaded.model.missing
    assert loaded.config["recipe"]["missing"]
    assert load_data(loaded, "train").missing


def test_completions_go_into_an_archive(lowerbound, table, tmp_path):
    path, x, gaps = table
    run, out = tmp_path / "run", tmp_path / "filled.npz"
    assert lowerbound("train", "vae", "--data", path, "--missing", "--out", run, *SMALL)[0] == 0
    status, text, _ = lowerbound("impute", run, path, "--out", out, "--draws", 4, "--particles", 50)
    assert status == 0
    assert "effective particles a row: median" in text
    with np.load(out) as arrays:
        assert arrays["draws"].shape == (4, 60, 2)
        assert len(np.unique(arrays["draws"][:, gaps])) > gaps.sum()
        np.testing.assert_allclose(arrays["draws"][2][~gaps], x[~gaps], rtol=1e-5)
    again = tmp_path / "again.npz"
    lowerbound("impute", run, path, "--out", again, "--draws", 4, "--particles", 50)
    assert again.read_bytes() == out.read_bytes()
    status, _, error = lowerbound("impute", run, path, "--out", tmp_path / "filled.csv", "--draws", 4)
    assert (status, "--draws needs a .npz" in error) == (2, True)


def test_counts_may_be_missing_too(lowerbound, tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text("a,b\n" + "1,\n,3\n4,2\n0,0\n" * 5)
    options = ["--likelihood", "poisson", "--missing", "--out", tmp_path / "run"]
    assert lowerbound("train", "vae", "--data", path, *options, *SMALL)[0] == 0
    path.write_text("a,b\n" + "1,\n,3.5\n4,2\n0,0\n" * 5)
    status, _, error = lowerbound("train", "vae", "--data", path, *options[:-1], tmp_path / "other", *SMALL)
    assert (status, "expected counts, got 3.5 in row" in error) == (2, True)


def test_gaps_and_models_that_do_not_take_them(lowerbound, table, tmp_path):
    path, _, _ = table
    status, _, error = lowerbound("train", "vae", "--data", path, "--out", tmp_path / "run", *SMALL)
    assert (status, "an empty cell" in error, "--missing" in error) == (2, True, True)
    status, _, error = lowerbound("train", "avb", "--data", path, "--missing", "--out", tmp_path / "run", *SMALL)
    assert (status, "missing: expected an argument of ImplicitVAE" in error) == (2, True)
    status, _, error = lowerbound("train", "vae", "--data", "digits", "--missing", "--out", tmp_path / "run", *SMALL)
    assert (status, "missing: expected False for digits" in error) == (2, True)
    status, _, _ = lowerbound("train", "vae", "--data", "four-points", "--out", tmp_path / "run", *SMALL)
    status, _, error = lowerbound("impute", tmp_path / "run", path, "--out", tmp_path / "x.npy")
    assert (status, "expected a model that takes gaps" in error) == (2, True)
