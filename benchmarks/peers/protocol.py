"""What every peer's program does: it trains a job for some steps and prints one line of JSON."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

STARTED = float(os.environ.get("LAUNCHED", time.time()))  # when the program was launched
UNTIL = float(os.environ.get("UNTIL", "-inf"))  # the cost at which a program ends, if it is to get there
WARMUP = 10
BATCH = {"mlp": 128, "iwae": 20, "conv": 100, "avb": 512, "ais": 20}
SECONDS = 20.0  # a round is not longer
LAST = 100  # steps whose mean cost is to be below that


class Enough(Exception):  # noqa: N818 (no error)
    """The steps are done."""


class Watch:
    """Hears the cost of every step, or of some steps together, and tells the time."""

    def __init__(self, steps: int, chunk: int) -> None:
        self.steps, self.chunk, self.warmup = steps, chunk, max(WARMUP, chunk)
        self.costs: list[float] = []
        self.last: deque[float] = deque(maxlen=max(1, LAST // chunk))
        self.first = self.begun = self.ended = self.reached = 0.0

    def __call__(self, cost: Any) -> None:
        """Hear a cost, in nats a row."""
        self.costs.append(float(cost))  # waits until the step is done
        now, done = time.perf_counter(), len(self.costs) * self.chunk
        if done == self.chunk:
            self.first = time.time() - STARTED
        if done <= self.warmup:
            self.begun = now
            return
        self.ended, self.made = now, done - self.warmup
        if math.isfinite(UNTIL):
            self.last.append(self.costs[-1])
            if len(self.last) == self.last.maxlen and sum(self.last) / len(self.last) < UNTIL:
                self.reached = time.time() - STARTED
                raise Enough
        elif now - self.begun > SECONDS:
            raise Enough
        if self.made >= self.steps:
            raise Enough


def main(train: Callable[[str, Any, int], Any], *, chunk: int = 1) -> None:
    """Run ``PROGRAM JOB ROWS.npy STEPS``.

    Args:
        train: From a job, its rows and a number of steps to an iterator that makes `chunk` steps each time it is asked
            and yields their mean cost in nats a row; or to a function that trains and calls what it is given with it.
        chunk: The number of steps between two yields.
    """
    import numpy as np

    job, path, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    watch = Watch(steps, chunk)
    try:
        running = train(job, np.load(path), steps + watch.warmup)
        if callable(running):
            running(watch)
        else:
            for cost in running:
                watch(cost)
    except Enough:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    costs, part = watch.costs, max(1, len(watch.costs) // 3)
    falls = all(map(math.isfinite, costs)) and sum(costs[-part:]) < sum(costs[:part])
    found = {
        "ms": 1000 * (watch.ended - watch.begun) / watch.made,
        "start": watch.first,
        "peak": peak,
        "falls": falls,
        "reached": watch.reached,
        "steps": len(costs) * chunk,
    }
    print(json.dumps(found))
