"""What every peer's program does: it trains a job for some steps and prints one line of JSON."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

STARTED = float(os.environ.get("LAUNCHED", time.time()))  # when the program was launched
WARMUP = 10
BATCH = {"mlp": 128, "iwae": 20, "avb": 512}
SECONDS = 20.0  # a round is not longer


def main(train: Callable[[str, Any, int], Iterator[Any]], *, chunk: int = 1) -> None:
    """Run ``PROGRAM JOB ROWS.npy STEPS``.

    Args:
        train: From a job, its rows and a number of steps to an iterator that makes `chunk` steps each time it is asked
            and yields the loss.
        chunk: The number of steps between two yields.
    """
    import numpy as np

    job, path, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    losses, first, begun, made = [], 0.0, 0.0, 0
    for done, loss in enumerate(train(job, np.load(path), steps + max(WARMUP, chunk)), start=1):
        losses.append(float(loss))
        if done * chunk == chunk:
            first = time.time() - STARTED
        if done * chunk <= max(WARMUP, chunk):
            begun = time.perf_counter()
        else:
            made = done * chunk - max(WARMUP, chunk)
            if time.perf_counter() - begun > SECONDS or made >= steps:
                break
    taken = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    falls = math.isfinite(losses[-1]) and losses[-1] < losses[0]
    found = {"ms": 1000 * taken / made, "steps": made, "start": first, "peak": peak, "falls": falls, "loss": losses[-1]}
    print(json.dumps(found))
