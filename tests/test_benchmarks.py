"""The benchmarks run: each prints a table whose numbers are numbers. How large they are is no matter of tests."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

TABLES = {  # arguments: rows and columns of text in front of the numbers
    ("speed.py", "--job", "mlp"): (5, 1),
    ("speed.py", "--job", "iwae"): (5, 1),
    ("speed.py", "--job", "conv"): (5, 1),
    ("speed_avb.py",): (4, 1),
    ("speed_ais.py",): (3, 1),
    ("initialization.py",): (12, 2),
    ("initialization.py", "--model", "conv-vae", "--init", "glorot", "--inputs", "raw", "centred"): (2, 2),
    ("adversarial.py",): (2, 1),
    ("adversarial_mnist.py",): (3, 1),
    ("adversarial_mnist.py", "--network", "conv", "--posterior", "vae", "avb-ac"): (2, 1),
    ("memory.py",): (5, 1),
    ("streaming.py",): (4 if hasattr(os, "posix_fadvise") else 2, 1),
    ("peers.py", "--job", "mlp", "--contender", "lowerbound, float32", "products alone"): (2, 2),
    ("evaluation.py",): (4, 1),
    ("logistic_truth.py",): (31, 1),
    ("tables.py",): (18, 3),
    ("scale_out.py",): (4, 1),
}


@pytest.mark.parametrize("command", TABLES, ids=" ".join)
def test_quick_form_prints_a_table_of_numbers(command: tuple[str, ...], tmp_path: Path) -> None:
    script, *arguments = command
    run = [sys.executable, str(BENCHMARKS / script), "--quick", "--threads", "1", *arguments]
    result = subprocess.run(run, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = [line.strip("| ").split(" | ") for line in result.stdout.splitlines() if line.startswith("|")]
    header, rule, *rows = lines
    count, names = TABLES[command]
    assert len(rows) == count
    assert all(set(cell) <= set("-:") for cell in rule)
    assert all(len(row) == len(header) for row in rows)
    assert all(math.isfinite(float(cell)) for row in rows for cell in row[names:])
    assert len({tuple(row[:names]) for row in rows}) == count
