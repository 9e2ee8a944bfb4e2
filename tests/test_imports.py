"""`import lowerbound` is light, and every public name is there."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

import lowerbound

LATE = {
    "PIL",
    "matplotlib",
    "mlflow",
    "onnx",
    "onnxruntime",
    "optuna",
    "pandas",
    "pyarrow",
    "sklearn",
    "starlette",
    "tensorboard",
    "typer",
    "uvicorn",
}


def loaded_by(statement: str) -> set[str]:
    """Return which of the late modules a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    return {name.partition(".")[0] for name in json.loads(output)} & LATE


def test_import_is_light() -> None:
    everything = "import lowerbound as lb; [getattr(lb, name) for name in lb.__all__ if name != 'sklearn']"
    assert loaded_by(everything) == set()


def test_late_import_would_be_seen() -> None:
    assert loaded_by("import PIL.Image") == {"PIL"}


MODULES = ["lowerbound", *(found.name for found in pkgutil.walk_packages(lowerbound.__path__, "lowerbound."))]


@pytest.mark.parametrize("name", MODULES)
def test_public_names_resolve(name: str) -> None:
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [])
    assert [word for word in public if not hasattr(module, word)] == []
    assert len(set(public)) == len(public)
