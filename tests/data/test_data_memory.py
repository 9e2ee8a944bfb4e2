"""A `.npy` file larger than the memory allowed: a scan, an epoch, an evaluation and a hash leave nothing resident."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("resource")  # peak memory is not to be had everywhere

SCRIPT = """
import resource, sys, torch, lowerbound.data
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / (1024 if sys.platform == "darwin" else 1)
warm = lowerbound.data.load("four-points")[0]   # imports and first allocations are no growth
list(warm.batches(128, seed=0, epoch=0)), warm.describe()
before = peak()
train, test = lowerbound.data.load(sys.argv[1], binarize="threshold")
rows = sum(len(batch) for batch in train.batches(256, seed=0, epoch=0))
rows += sum(len(batch) for batch in test.evaluation_batches(256))
print(rows, test.describe()["n"], peak() - before)
"""


def test_a_large_file_does_not_stay_resident(tmp_path):
    path, n = tmp_path / "rows.npy", 75_000
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, 4096))  # 293 MiB, sparse
    del file
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    rows, test_rows, growth = output.stdout.split()
    assert int(rows) == (67_500 // 256) * 256 + 7_500
    assert int(test_rows) == 7_500
    # The blocks of a scan and the batches hold 2^21 to 2^22 values: 16 MiB of float32, and a few times that in passing.
    assert float(growth) < 150
