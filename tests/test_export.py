"""Exported encoders and decoders: other programs run them to the model's own numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound import export as exporting
from lowerbound import runs
from lowerbound.core.errors import ArgumentError, RunError
from lowerbound.export import export
from lowerbound.recipes import RECIPES, train

# How far a file's answers may be from the model's, relative to those above 1.
NEAR = 1e-5


def people(folder):
    """Write a table of mixed types with gaps."""
    generator = np.random.default_rng(0)
    lines = ["height,smoker,city,visits"]
    for i in range(80):
        height = "" if i % 9 == 0 else f"{generator.normal(170, 9):.1f}"
        lines.append(f"{height},{'yes' if i % 3 else 'no'},{'ABC'[i % 3]},{generator.poisson(3)}")
    path = folder / "people.csv"
    path.write_text("\n".join(lines))
    return str(path)


def recipe(name, folder):
    small = {"hidden": [8]} if name not in ("conv-vae", "sbn") else {}
    if name == "mixed":
        changed = {"data": people(folder), "missing": True, "latent_dim": 2, "model_options": small}
        return RECIPES["vae"].changed(**changed, training={"epochs": 1})
    return RECIPES[name].changed(latent_dim=3, model_options=small, training={"epochs": 1, "batch_size": 512})


NAMES = [*RECIPES, "mixed"]
QUICK = ("vae", "avb", "mixed")


@pytest.fixture(scope="module", params=[pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES])
def run(request, tmp_path_factory):
    """A run of one epoch, and rows of its data."""
    folder = tmp_path_factory.mktemp(request.param)
    train(recipe(request.param, folder), out=folder / "run", progress=False)
    loaded = runs.load(folder / "run")
    return folder / "run", loaded.model, next(iter(runs.load_data(loaded).evaluation_batches(7)))


def near(found, expected) -> bool:
    expected = expected.numpy()
    return bool(np.all(np.abs(found - expected) <= NEAR * np.maximum(1, np.abs(expected))))


@torch.no_grad()
def truth(model, x):
    z = model.encode(x).mean
    p = model.decode(z)
    return z, p.mode if getattr(model.generator.likelihood, "mixed", False) else p.mean


def test_onnxruntime_gives_the_models_numbers(run, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    path, model, x = run
    folder = export(path, out=tmp_path / "made")
    encode, decode = (
        ort.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("encode", "decode")
    )
    z, row = truth(model, x)
    (found_z,) = encode.run(["z"], {"x": x.numpy()})
    (found_row,) = decode.run(["x"], {"z": z.numpy()})
    assert near(found_z, z)
    assert near(found_row, row)
    assert encode.run(None, {"x": x.numpy()})[0].tobytes() == found_z.tobytes()
    one = encode.run(None, {"x": x[:1].numpy()})[0]
    assert one.shape == (1, model.latent_dim)
    assert np.isfinite(found_z).all()


def test_torch_alone_gives_the_models_numbers(run, tmp_path):
    path, model, x = run
    folder = export(path, out=tmp_path / "made", format="torch")
    encode, decode = (torch.export.load(str(folder / f"{name}.pt2")).module() for name in ("encode", "decode"))
    z, row = truth(model, x)
    assert near(encode(x).detach().numpy(), z)
    assert near(decode(z).detach().numpy(), row)


# --- The card ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    train(recipe("vae", folder), out=folder, progress=False)
    return folder


def test_card_says_what_it_is_and_how_good(digits):
    before = (export(digits, format="torch") / "README.md").read_text()
    assert "It was not evaluated" in before
    runs.evaluate_run(digits, ["iwae-5"], limit=50)
    card = (export(digits, format="torch") / "README.md").read_text()
    found = lb.evaluation.Scores.read(digits).measures["iwae-5"]
    assert f"| iwae-5 | {found['value']:.3f} ± {found['stderr']:.3f} | lower bound | 50 |" in card
    for words in (
        "# VAE with latents of size 3, trained on digits",
        "rows `x`, float32 `[rows, 8, 8]`, to latents `z`, `[rows, 3]`: the means of q(z | x).",
        "A row holds 0 and 1, binarised (dynamic) from 17 grey levels, divided by 16.",
        runs.load(digits).config["data"]["sha256"],
        'torch.export.load("encode.pt2")',
    ):
        assert words in card


def test_code_on_the_card_runs(digits, tmp_path, monkeypatch):
    folder = export(digits, out=tmp_path / "made", format="torch")
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(folder)
    names = {"rows": torch.zeros(2, 8, 8)}
    exec(code, names)  # the card's own lines
    assert names["x"].shape == (2, 8, 8)


def test_card_lists_the_columns_of_a_table(tmp_path):
    train(recipe("mixed", tmp_path), out=tmp_path / "run", progress=False)
    card = (export(tmp_path / "run", format="torch") / "README.md").read_text()
    assert "| 0 | height | continuous |  |" in card
    assert "| 2 | city | categorical | A, B, C |" in card
    assert "means of numbers, and the most probable of levels" in card


def test_card_says_when_means_are_estimates(tmp_path):
    train(recipe("avb", tmp_path), out=tmp_path / "run", progress=False)
    assert "estimated by evenly spread draws" in (export(tmp_path / "run", format="torch") / "README.md").read_text()


# --- The command, and what is wrong -----------------------------------------------------------------------------------


def test_file_that_disagrees_is_not_kept(digits, tmp_path, monkeypatch):
    for wrong in (3e-5, math.nan):
        monkeypatch.setattr(exporting, "_run_onnx", lambda path, x, wrong=wrong: encoded(digits, x) + wrong)
        monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: _Nothing())
        with pytest.raises(RunError, match=r"encode.onnx: expected the model's answers to 1e-05, got a difference"):
            export(digits, out=tmp_path / "made")
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


class _Nothing:
    def save(self, path, **options):
        Path(path).write_bytes(b"nothing")


@torch.no_grad()
def encoded(run, x):
    return runs.load(run).model.encode(x).mean.numpy()


def test_what_cannot_be_exported(digits, tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match=r"format: expected one of the known names, got 'onx'. Did you mean 'onnx'"):
        export(digits, format="onx")
    with pytest.raises(RunError, match="expected a run folder, got no such folder"):
        export(tmp_path / "none", format="torch")

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(exporting.importlib, "import_module", missing)
    with pytest.raises(
        ArgumentError, match=r"expected the package onnx, got none. Install it: pip install 'lowerbound\[onnx\]'"
    ):
        export(digits)
