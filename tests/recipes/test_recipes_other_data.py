"""Other data than a run's own: scaled as those were, and with labels of their own alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
from lowerbound import runs
from lowerbound.core.errors import DataError

RANDOM = np.random.default_rng(0)


def trained_on(
    data: lb.data.Dataset, folder: Path, likelihood: str = "gaussian", options: dict | None = None
) -> lb.Run:
    """Return a run that has seen some data, for one epoch."""
    form = {"likelihood": likelihood, "likelihood_options": options or {}}
    model = lb.models.VAE(event_shape=data.event_shape, latent_dim=1, hidden=(4,), **form)
    lb.fit(lb.objectives.ELBO(model), data, epochs=1, out=folder / "run", progress=False)
    return runs.load(folder / "run")


def of_numbers(rows: np.ndarray, folder: Path, likelihood: str = "gaussian", options=None, levels=None) -> lb.Run:
    return trained_on(lb.data.Dataset(rows, levels=levels), folder, likelihood, options)


def read(run: lb.Run, rows: np.ndarray, folder: Path, suffix: str = "npy") -> torch.Tensor:
    path = folder / f"other.{suffix}"
    np.save(path, rows) if suffix == "npy" else np.savez(path, data=rows)
    data = runs.load_data(run, source=str(path))
    return data.rows(range(len(data)))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("levels", [2, 256])
def test_truth_values_stay_0_and_1(tmp_path, levels, suffix):
    run = of_numbers(RANDOM.integers(0, levels, (40, 3), dtype=np.uint8), tmp_path)
    rows = RANDOM.random((9, 3)) > 0.5
    assert read(run, rows, tmp_path, suffix).equal(torch.from_numpy(rows).float())


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_numbers_up_to_1_are_dark_beside_pixels(tmp_path, suffix):
    run = of_numbers(RANDOM.integers(0, 256, (40, 3), dtype=np.uint8), tmp_path)
    rows = np.array([[0, 1, 1]], dtype=np.uint8)
    torch.testing.assert_close(read(run, rows, tmp_path, suffix), torch.tensor([[0, 1 / 255, 1 / 255]]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_numbers_that_are_not_8_bit_stay_as_they_are(tmp_path, dtype):
    run = of_numbers(RANDOM.integers(0, 2, (40, 3), dtype=np.uint8), tmp_path)
    rows = np.array([[0, 1, 2]], dtype=dtype)
    assert read(run, rows, tmp_path).tolist() == [[0, 1, 2]]


def test_a_run_on_floats_takes_whole_numbers_as_ever(tmp_path):
    run = of_numbers(RANDOM.random((40, 3)), tmp_path)
    torch.testing.assert_close(read(run, np.array([[0, 1, 5]], np.uint8), tmp_path), torch.tensor([[0, 1, 5]]) / 255)
    assert read(run, np.array([[0, 1, 1]], np.uint8), tmp_path).tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("home", [False, True])
def test_labels_of_the_same_name_are_found(tmp_path, monkeypatch, home):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    lines = [f"{a:.4f},{b:.4f},{k}" for k, (a, b) in enumerate(RANDOM.normal(size=(40, 2)))]
    Path("own.csv").write_text("\n".join(["0,1,kind", *lines]))
    run = trained_on(lb.data.load("own.csv", labels="kind")[0], tmp_path)
    Path("other.csv").write_text("\n".join(["0,1,kind", *lines[:9]]))
    rows = runs.load_data(run, source="~/other.csv" if home else "other.csv")
    assert rows.labels.tolist() == list(range(9))


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_what_lacks_the_labels_of_the_run_has_none(tmp_path, kind):
    np.savez(tmp_path / "own.npz", data=RANDOM.random((40, 2, 2)), kind=np.arange(40))
    run = trained_on(lb.data.load(tmp_path / "own.npz", labels="kind")[0], tmp_path)
    np.savez(tmp_path / "other.npz", data=RANDOM.random((5, 2, 2)))
    source = grey(tmp_path, "a.png", [[0, 1], [2, 3]]) if kind == "folder" else str(tmp_path / "other.npz")
    assert runs.load_data(run, source=source).labels is None


def grey(folder: Path, name: str, pixels: list[list[int]]) -> str:
    (folder / "p").mkdir(exist_ok=True)
    Image.fromarray(np.array(pixels, np.uint8)).save(folder / "p" / name)
    return str(folder / "p")


LEVELS = {"bernoulli": (2, {}), "logistic": (17, {"levels": 17}), "logistic-mixture": (17, {"levels": 17})}


@pytest.mark.parametrize("likelihood", LEVELS)
def test_values_between_the_levels_of_a_likelihood_are_refused(tmp_path, likelihood):
    levels, options = LEVELS[likelihood]
    run = of_numbers(RANDOM.integers(0, 2, (40, 2, 2), dtype=np.uint8), tmp_path, likelihood, options, levels)
    source = grey(tmp_path, "a.png", [[0, 255], [255, 0]])
    assert runs.load_data(run, source=source).rows([0]).tolist() == [[[0, 1], [1, 0]]]
    grey(tmp_path, "b.png", [[0, 255], [255, 7]])
    np.save(tmp_path / "grey.npy", np.array([[[0, 1], [200, 2]]], np.uint8))
    for name in (source, str(tmp_path / "grey.npy")):
        match = f"{Path(name).name}: expected values of {levels} levels, .*, got 256 levels. Save them as uint8"
        with pytest.raises(DataError, match=match):
            runs.load_data(run, source=name)


def test_a_gaussian_takes_values_between_the_levels(tmp_path):
    run = of_numbers(RANDOM.integers(0, 2, (40, 2, 2), dtype=np.uint8), tmp_path)
    rows = runs.load_data(run, source=grey(tmp_path, "a.png", [[0, 255], [255, 51]])).rows([0])
    torch.testing.assert_close(rows, torch.tensor([[[0, 1], [1, 0.2]]]))
