"""Milliseconds a training step whose rows come from memory, from a file that is in the system's cache, and from disk.

    python benchmarks/streaming.py [--gib 2] [--rounds 5] [--steps 300] [--threads 2] [--quick]

The network is that of the job `mlp` in `speed.py`. The file is temporary and full of noise, so it needs its room on the
disk. "cold" drops it from the system's cache before each round, which only Linux can do; "not told" does too, and does
not say ahead of time which rows come next.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from speed import JOBS
from torch import Tensor

import lowerbound as lb
from lowerbound.data import Dataset
from lowerbound.data.store import Disk
from lowerbound.training import Callback

WARMUP = 20
EXPECT = Disk.expect


def write(path: Path, gib: float) -> None:
    """Write a uint8 array ``[n, 28, 28]`` of noise."""
    random, n, block = np.random.default_rng(0), int(gib * 2**30) // 784, 2**14
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (n, 28, 28)})
        for start in range(0, n, block):
            stream.write(random.integers(0, 256, (min(block, n - start), 784), dtype=np.uint8).data)


def forget(path: Path) -> None:
    """Drop a file from the system's cache."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def remember(path: Path) -> None:
    """Read a file into the system's cache."""
    with path.open("rb") as stream:
        while stream.read(2**24):
            pass


class Enough(Exception):  # noqa: N818 (no error)
    """The steps are done."""


class Steps(Callback):
    """A callback of `lowerbound.fit` that times some steps behind a warm-up, and ends the run."""

    def __init__(self, steps: int, ready: Callable[[], None]) -> None:
        self._steps, self._ready, self._from, self.milliseconds = steps, ready, 0.0, 0.0

    def step(self, *, epoch: int, batch: int, sums: dict[str, Tensor]) -> None:
        """Get ready after the warm-up, and stop after the steps."""
        if batch == WARMUP:
            self._ready()
            self._from = time.perf_counter()
        elif batch == WARMUP + self._steps:
            self.milliseconds = 1000 * (time.perf_counter() - self._from) / self._steps
            raise Enough


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="timed steps of a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="1/64 GiB, one round of five steps, to see that it runs")
    options = parser.parse_args()
    gib, rounds, steps = (1 / 64, 1, 5) if options.quick else (options.gib, options.rounds, options.steps)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        write(path, gib)
        streamed = lb.data.load_all(path, binarize="dynamic")
        resident = Dataset(np.load(path), name="rows", levels=256, binarize="dynamic")
        ways: dict[str, tuple[Dataset, Callable[[], None]]] = {
            "in memory": (resident, lambda: None),
            "on disk, warm": (streamed, lambda: remember(path)),
        }
        if hasattr(os, "posix_fadvise"):
            ways |= {name: (streamed, lambda: forget(path)) for name in ("on disk, cold", "on disk, cold, not told")}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for data in (resident, streamed):
            data.describe()  # the hash of all rows is no part of a step
        for turn in range(rounds):
            order = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
            for name in order:
                data, ready = ways[name]
                clock = Steps(steps, ready)
                Disk.expect = EXPECT if "not told" not in name else lambda store, rows: None  # type: ignore[assignment,method-assign]
                with contextlib.suppress(Enough):
                    JOBS["mlp"].fit(data, clock, seed=turn)
                times[name].append(clock.milliseconds)
    print(f"{gib:g} GiB, {len(streamed)} rows; {options.threads} threads, {rounds} rounds of {steps} steps")
    print("\n| rows | ms a step | fastest | slowest | this / in memory |\n| --- | ---: | ---: | ---: | ---: |")
    base = statistics.median(times["in memory"])
    for name, found in times.items():
        middle = statistics.median(found)
        print(f"| {name} | {middle:.2f} | {min(found):.2f} | {max(found):.2f} | {middle / base:.2f} |", flush=True)


if __name__ == "__main__":
    main()
