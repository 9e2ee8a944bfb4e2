"""Everything that the how-to pages tell a reader to run, runs."""

from __future__ import annotations

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


CHECKS = {"your-own-table.md": table, "export.md": export, "experiments.md": experiments}
NEEDS = {"export.md": ["onnxruntime"], "experiments.md": ["optuna", "mlflow", "tensorboard"]}


@pytest.mark.filterwarnings("ignore:column 'id' is skipped")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what MLflow stands on
@pytest.mark.parametrize("page", CHECKS)
def test_a_page_runs_in_order(page, lowerbound, tmp_path, monkeypatch):
    for package in NEEDS.get(page, []):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    names: dict[str, object] = {}
    for kind, code in re.findall(r"```(\w+)\n(.*?)```", (PAGES / page).read_text(), re.DOTALL):
        if kind == "python":
            exec(compile(code, page, "exec"), names)
            continue
        for line in code.strip().splitlines():
            program, *arguments = shlex.split(line)
            assert program == "lowerbound"
            status, _, error = lowerbound(*arguments)
            assert status == 0, f"{line}\n{error}"
    CHECKS[page](names)
