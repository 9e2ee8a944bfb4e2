"""What holds for every test, the examples in docstrings included."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

import lowerbound as lb


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Start every test from the same random numbers, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (what other libraries draw from)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def names_in_examples(doctest_namespace: dict[str, Any]) -> None:
    """Let the examples in docstrings use `torch` and `lb` without importing them."""
    doctest_namespace.update(torch=torch, lb=lb)
