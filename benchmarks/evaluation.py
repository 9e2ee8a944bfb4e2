"""Microseconds that evaluation takes for a posterior draw of a row, beside the forward pass of a training step.

    python benchmarks/evaluation.py [--rounds 5] [--rows 200] [--threads 1] [--quick]

The network is that of the job `iwae` in `speed.py`, untrained. A draw is decoded and scored once, whoever makes it: a
training step has 50 for each of 20 rows, `iwae-1000` has 1,000 for each row. A transition of annealed importance
sampling takes the gradient too, at each of its leapfrog steps; its row is the time of one such step of one chain, the
run that tunes the steps included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from speed import JOBS

import lowerbound as lb


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    clock = time.perf_counter()
    call()
    return time.perf_counter() - clock


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=200, help="rows that are evaluated")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="one round of 4 rows, to see that it runs")
    options = parser.parse_args()
    rounds, rows = (1, 4) if options.quick else (options.rounds, options.rows)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    job = JOBS["iwae"]
    images, what = job.rows(max(rows, job.batch_size))
    data = job.dataset(images)
    model = lb.models.VAE(event_shape=(28, 28), latent_dim=40)
    objective = lb.objectives.IWAE(model, particles=50)
    x = data.rows(range(job.batch_size))
    temperatures, chains = (3, 2) if options.quick else (100, 16)
    program, observed, _ = model.programs(x)

    passes = 1 if options.quick else 20

    def forward() -> None:
        for _ in range(passes):
            objective(x)

    def backward() -> None:
        for _ in range(passes):
            objective(x).cost.backward()

    def importance() -> None:
        lb.evaluate(model, data, "iwae-1000", limit=rows, progress=False)

    def annealed() -> None:
        lb.evaluation.ais(program, observed, chains=chains, temperatures=temperatures, leapfrogs=2)

    ways: dict[str, tuple[Callable[[], None], int]] = {
        "training, forward": (forward, passes * 50 * len(x)),
        "training, forward and backward": (backward, passes * 50 * len(x)),
        "iwae-1000": (importance, 1000 * rows),
        "ais, a leapfrog step": (annealed, chains * len(x) * temperatures * 2),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (call, draws) in ways.items():
            times[name].append(1e6 * timed(call) / draws)
    print(f"784-500-500, z = 40; {what}; torch {torch.__version__}; {options.threads} threads, {rounds} rounds\n")
    print("| way | microseconds a draw | fastest | slowest | this / forward |\n| --- | ---: | ---: | ---: | ---: |")
    base = statistics.median(times["training, forward"])
    for name, found in times.items():
        middle = statistics.median(found)
        print(f"| {name} | {middle:.1f} | {min(found):.1f} | {max(found):.1f} | {middle / base:.2f} |")


if __name__ == "__main__":
    main()
