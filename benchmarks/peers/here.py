"""The contenders of this environment: ``fit`` in a precision, or one of `speed.py`'s loops, by name."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from pathlib import Path

from protocol import STARTED, WARMUP

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from speed import JOBS as VAE_JOBS
from speed import Clock, time_loop
from speed_avb import JOBS as AVB_JOBS


class Watch(Clock):
    """Remembers when the first step was done, and the loss of the first and the last."""

    first, losses = 0.0, (math.nan, math.nan)

    def step(self, *, epoch, batch, sums):
        if batch == 1:
            self.first, self.losses = time.time() - STARTED, (float(next(iter(sums.values()))), math.nan)
        super().step(epoch=epoch, batch=batch, sums=sums)

    def epoch(self, record):
        super().epoch(record)
        self.losses = self.losses[0], next(iter(record["train"].values()))


def main() -> None:
    name, _, steps, contender = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    job = {**VAE_JOBS, **AVB_JOBS}[name]
    torch.manual_seed(0)
    data, rows, _ = job.data((WARMUP + steps) * job.batch_size)
    watch = Watch(WARMUP)
    if contender.startswith("fit "):
        job.fit(data, watch, precision=contender.removeprefix("fit "))
        taken, falls = watch.seconds, watch.losses[1] > watch.losses[0]  # bounds, which rise
    else:

        def loop(rows):
            for step, made in enumerate(job.loops()[contender](rows)):
                watch.first = watch.first if step else time.time() - STARTED
                yield made

        taken, falls = time_loop(loop, rows, WARMUP), True
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"ms": 1000 * taken / steps, "steps": steps, "start": watch.first, "peak": peak, "falls": falls}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
