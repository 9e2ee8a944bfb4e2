"""What tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

MNIST = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """The folder with MNIST's four files; the test is skipped where there is none, and nothing is downloaded."""
    data = os.environ.get("LOWERBOUND_DATA")
    if not data:
        pytest.skip("MNIST: LOWERBOUND_DATA is not set")
    folder = Path(data) / "mnist"
    missing = [name for name in MNIST if not any((folder / f"{name}{end}").is_file() for end in ("", ".gz"))]
    if missing:
        pytest.skip(f"MNIST: {', '.join(missing)} missing in $LOWERBOUND_DATA/mnist")
    return folder
