"""``lowerbound doctor``."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import statistics
import time
from typing import Any

import torch
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from lowerbound.cli.options import AsJson, show
from lowerbound.core.versions import version
from lowerbound.data.fetch import cache_folder, mnist_folder

__all__ = ["doctor"]

# extra: the module that shows whether it is installed
_EXTRAS = {
    "arviz": "arviz",
    "explorer": "starlette",
    "mlflow": "mlflow",
    "onnx": "onnxruntime",
    "parquet": "pyarrow",
    "tensorboard": "tensorboard",
    "tune": "optuna",
}
_PACKAGES = ("lowerbound", "torch", "numpy", "scikit-learn", "zuko", "safetensors", "matplotlib")


def doctor(as_json: AsJson = False) -> None:
    """Show what the program finds on this machine: versions, devices, precision, data, extras."""
    found = {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "processor": _processor(),
        "accelerators": _accelerators(),
        "compiler": _compiler(),
        "data": _data(),
        "extras": {extra: _installed(extra, module) for extra, module in _EXTRAS.items()},
    }
    table = Table("", "what is found", box=SIMPLE, show_header=False)
    for name, value in found.items():
        table.add_row(name, Text(_text(value)))
    show(table, found, as_json=as_json)


def _installed(extra: str, module: str) -> str:
    there = importlib.util.find_spec(module) is not None
    return "installed" if there else f"pip install 'lowerbound[{extra}]'"


def _processor() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": f"matrix products take {_bfloat16():.2f} of their time in float32, measured now",
    }


def _bfloat16() -> float:
    """Return the time of a matrix product in bfloat16, divided by that in float32."""
    times = []
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.randn(512, 512).to(dtype)
        taken = []
        for _ in range(10):
            clock = time.perf_counter()
            a @ a
            taken.append(time.perf_counter() - clock)
        times.append(statistics.median(taken))
    return times[0] / times[1]


def _accelerators() -> list[str]:
    found = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [*found, *(["mps"] if torch.backends.mps.is_available() else [])]


def _compiler() -> str:
    """Return whether `--compile on` can work here."""
    names = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    return found or "none found: --compile on needs one for C++, such as g++"


def _data() -> dict[str, str]:
    mnist, cache = mnist_folder(), cache_folder()
    parent = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return {
        "LOWERBOUND_DATA": os.environ.get("LOWERBOUND_DATA") or "not set",
        "digits, four-points": "come with the library",
        "mnist": str(mnist) if mnist is not None else "not here: downloaded when it is asked for",
        "downloads": str(cache) if os.access(parent, os.W_OK) else f"{cache}: cannot be written",
    }


def _text(value: Any) -> str:
    """Return a value in one line for each of its parts."""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {one}" for key, one in value.items())
    if isinstance(value, list):
        return "\n".join(value) or "none: everything runs on the processor"
    return str(value)
