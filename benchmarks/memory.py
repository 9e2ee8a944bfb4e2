"""Peak resident memory of loading, identifying, training on and evaluating a 4 GiB `.npy` file whose rows stay on disk.

    python benchmarks/memory.py [--gib 4] [--batch-size 128] [--steps 5000] [--binarize dynamic] [--quick]

The file is temporary and sparse: of every 64 runs of 1024 rows one holds values, so it takes little of the disk. Every
row of the training split is read for the hash that identifies the data, and every row of the test split is evaluated;
`lowerbound.fit` draws its batches from the whole training split and is stopped after so many steps (0 for the epoch).
The last line is the peak of the process in MiB; the exit status is 1 if it exceeds the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.training import Callback

LIMIT = 1024  # MiB


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
    """Return the peak resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage, it does not count the process that started this one
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return float(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Enough(Exception):  # noqa: N818 (no error)
    """The steps are done."""


class Stop(Callback):
    """A callback of `lowerbound.fit` that ends the run after some steps, or never."""

    def __init__(self, steps: int) -> None:
        self._steps, self.done = steps, 0

    def step(self, *, epoch: int, batch: int, sums: dict[str, Tensor]) -> None:
        """Count."""
        self.done = batch
        if batch == self._steps:
            raise Enough


@contextlib.contextmanager
def stage(name: str, rows: int) -> Iterator[None]:
    """Time a block and print its line of the table."""
    start = time.perf_counter()
    yield
    print(f"| {name} | {rows} | {time.perf_counter() - start:.1f} | {peak():.0f} |", flush=True)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5000, help="steps of training; 0 for a whole epoch")
    parser.add_argument("--binarize", default="dynamic")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="1/64 GiB and 100 steps, to see that it runs")
    options = parser.parse_args()
    gib, steps = (1 / 64, 100) if options.quick else (options.gib, options.steps)
    torch.set_num_threads(options.threads)

    model = lb.models.VAE(event_shape=(28, 28), latent_dim=2, hidden=(32,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        n = write_array(path, gib=gib)
        print(
            f"{path.stat().st_size / 2**20:.0f} MiB, {n} rows, batch {options.batch_size}; torch {torch.__version__}\n"
        )
        print("| stage | rows | seconds | peak MiB |")
        print("| --- | ---: | ---: | ---: |")
        with stage("import", 0):
            pass
        with stage("load", n):
            train, test = lb.data.load(path, binarize=options.binarize)
        with stage("describe (hash)", len(train)):
            train.describe()
        stop = Stop(steps)
        total = min(steps or len(train), len(train) // options.batch_size)
        with stage(f"fit, {total} steps", total * options.batch_size), contextlib.suppress(Enough):
            lb.fit(
                lb.objectives.ELBO(model),
                train,
                epochs=1,
                batch_size=options.batch_size,
                progress=False,
                callbacks=[stop],
            )
        if stop.done != total:
            raise RuntimeError(f"{stop.done} steps instead of {total}")
        with stage("evaluate", len(test)):
            lb.evaluate(model, test, "elbo")
    print(f"\npeak: {peak():.0f} MiB")
    if peak() > LIMIT:
        sys.exit(f"more than {LIMIT} MiB")


if __name__ == "__main__":
    main()
