"""Other data than a run's own: scaled as those were, and with labels of their own alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lowerbound as lb
from lowerbound import runs

RANDOM = np.random.default_rng(0)


def trained_on(
    data: lb.data.Dataset, folder: Path, likelihood: str = "gaussian", options: dict | None = None
) -> lb.Run:
    """Return a run that has seen some data, for one epoch."""
    form = {"likelihood": likelihood, "likelihood_options": options or {}}
    model = lb.models.VAE(event_shape=data.event_shape, latent_dim=1, hidden=(4,), **form)
    lb.fit(lb.objectives.ELBO(model), data, epochs=1, out=folder / "run", progress=False)
    return runs.load(folder / "run")


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
