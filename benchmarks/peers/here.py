"""The contenders of this environment: ``fit PRECISION [compiled]``, or one of `speed.py`'s loops, by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from protocol import main

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from speed import JOBS as VAE_JOBS
from speed_ais import JOBS as AIS_JOBS
from speed_avb import JOBS as AVB_JOBS
from torch import Tensor

from lowerbound.training import Callback

CONTENDER = sys.argv[4]


class Costs(Callback):
    """Hands the cost of each step to the benchmark; what it does with it may end the run."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell, self._before = tell, 0.0

    def step(self, *, epoch: int, batch: int, sums: dict[str, Tensor]) -> None:
        total = float(next(iter(sums.values())))
        self._tell((self._before if batch > 1 else 0.0) - total)  # bounds, which rise
        self._before = total


def fit(job: Any, rows: Tensor, steps: int, tell: Callable[[float], None]) -> None:
    """Train by `lowerbound.fit`."""
    _, precision, *ways = CONTENDER.split()
    epochs = -(-steps // (len(rows) // job.batch_size))
    job.fit(job.dataset(rows), Costs(tell), precision=precision, compile="compiled" in ways, epochs=epochs)


def loop(job: Any, rows: Tensor, steps: int) -> Iterator[Tensor]:
    """Train by a loop over one long epoch, for each starts with new weights."""
    epochs = -(-steps // (len(rows) // job.batch_size))
    yield from job.loops()[CONTENDER](torch.cat([rows] * epochs))


def train(name: str, rows: Any, steps: int) -> Any:
    """Return the costs of a loop, or a function that tells them."""
    job, tensor = {**VAE_JOBS, **AVB_JOBS, **AIS_JOBS}[name], torch.from_numpy(rows)
    torch.manual_seed(0)
    if CONTENDER.startswith("fit "):
        return lambda tell: fit(job, tensor, steps, tell)
    return loop(job, tensor, steps)


if __name__ == "__main__":
    main(train)
