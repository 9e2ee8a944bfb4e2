"""Peak resident memory of one epoch of batches and one evaluation pass over a 4 GiB `.npy` file.

    python benchmarks/memory.py [--gib 4] [--batch-size 128] [--binarize dynamic]

The file is temporary and sparse: of every 64 runs of 1024 rows one holds values, so it takes little of the disk. The
last line printed is the peak resident memory of the whole process in MiB.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import lowerbound.data


def write_array(path: Path, *, gib: float, run: int = 1024, every: int = 64) -> int:
    """Write a uint8 array ``[n, 28, 28]`` of the given size, one run of rows in so many not zero; return n."""
    n = int(gib * 2**30) // 784
    values = np.random.default_rng(0).integers(0, 256, (run, 784), dtype=np.uint8).tobytes()
    header = {"descr": "|u1", "fortran_order": False, "shape": (n, 28, 28)}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        start = stream.tell()
        stream.truncate(start + n * 784)
        for row in range(0, n - run, run * every):
            stream.seek(start + row * 784)
            stream.write(values)
    return n


def peak() -> float:
    """Return the peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--binarize", default="dynamic")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        n = write_array(path, gib=options.gib)
        print(f"{n} rows, {path.stat().st_size / 2**20:.0f} MiB; {peak():.0f} MiB resident before loading")
        start = time.perf_counter()
        train, test = lowerbound.data.load(path, binarize=options.binarize)
        print(f"load: {time.perf_counter() - start:.1f} s, {peak():.0f} MiB")
        for what, batches in (
            ("epoch", train.batches(options.batch_size, seed=0, epoch=0)),
            ("evaluation", test.evaluation_batches(options.batch_size)),
        ):
            start, count, total = time.perf_counter(), 0, torch.zeros((), dtype=torch.float64)
            for batch in batches:
                total += batch.sum(dtype=torch.float64)
                count += len(batch)
            seconds = time.perf_counter() - start
            mean = float(total) / (count * 784)
            print(f"{what}: {count} rows, mean {mean:.5f}, {seconds:.1f} s, {peak():.0f} MiB")
    print(f"{peak():.0f}")


if __name__ == "__main__":
    main()
