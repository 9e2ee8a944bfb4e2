"""Everything that the how-to pages tell a reader to run, runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs/how-to"


def table(names):
    assert len(Path("filled.csv").read_text().splitlines()) == 201
    assert names["scores"].held_out == 20


def export(names):
    assert names["x"].shape == (5, 8, 8)
    assert names["z"].shape == (5, 8)
    assert "iwae-100" in Path("digits-model/README.md").read_text()


def experiments(names):
    assert len(list(Path("search/trials").iterdir())) == 4
    assert Path("runs/logged/mlflow.json").exists()


def images(names):
    assert names["images"].shape == (16, 3, 16, 16)
    measures = json.loads(Path("runs/shapes/scores.json").read_text())["measures"]
    assert 0 < measures["iwae-100"]["bits_per_dim"] < 8
    assert "bits/dim" in Path("runs/shapes/report.html").read_text()
    assert len(Path("latents.csv").read_text().splitlines()) == 121


CHECKS = {"your-own-table.md": table, "images.md": images, "export.md": export, "experiments.md": experiments}
NEEDS = {"export.md": ["onnxruntime"], "experiments.md": ["optuna", "mlflow", "tensorboard"]}


@pytest.mark.filterwarnings("ignore:column 'id' is skipped")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what MLflow stands on
@pytest.mark.parametrize("page", CHECKS)
def test_a_page_runs_in_order(page, lowerbound, tmp_path, monkeypatch):
    for package in NEEDS.get(page, []):
        pytest.importorskip(package, reason=f"{package} belongs to an extra that is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    names: dict[str, object] = {}
    printed = ""  # of which blocks of text show a part
    for kind, code in re.findall(r"```(\w+)\n(.*?)```", (PAGES / page).read_text(), re.DOTALL):
        if kind == "python":
            exec(compile(code, page, "exec"), names)
            continue
        if kind == "text":
            assert code in printed
            continue
        for line in code.strip().splitlines():
            program, *arguments = shlex.split(line)
            assert program == "lowerbound"
            status, out, error = lowerbound(*arguments)
            printed += out
            assert status == 0, f"{line}\n{error}"
    CHECKS[page](names)
