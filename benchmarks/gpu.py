"""Milliseconds a training step of `lowerbound.fit` on a GPU: eager, compiled and as graphs, beside the card's floor.

    python benchmarks/gpu.py [--job mlp iwae conv avb] [--precision float32 bfloat16] [--way eager compiled graphs]
        [--rounds 3] [--steps 400] [--quick]

The jobs are those of `speed.py` and `speed_avb.py`. The floor is the matrix products and convolutions of a step on
arrays that are ready, recorded as one graph, so that no launch is waited for. On a machine without a GPU it says so.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from typing import Any

import torch
from speed import JOBS as VAE_JOBS
from speed import Job, time_fit
from speed_avb import JOBS as AVB_JOBS

from lowerbound.training.profile import time_graph

JOBS: dict[str, Job] = {**VAE_JOBS, **AVB_JOBS}
WAYS: dict[str, Any] = {"eager": False, "compiled": True, "graphs": "graphs"}
WARMUP = 30


def main() -> None:
    """Run the jobs and print their table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", nargs="+", choices=sorted(JOBS), default=list(JOBS))
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=3, help="how often every way runs")
    parser.add_argument("--steps", type=int, default=400, help="timed steps of a round")
    parser.add_argument("--quick", action="store_true", help="one round of forty steps, to see that it runs")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing to measure")
        return
    rounds, steps = (1, 40) if options.quick else (options.rounds, options.steps)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {rounds} rounds of {steps} steps\n")
    print("| job | precision | way | ms a step | fastest | slowest | rows a second | floor / this |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name in options.job:
        job = JOBS[name]
        rows, _ = job.rows((WARMUP + steps) * job.batch_size)
        data = job.dataset(rows)
        for precision in options.precision:
            least = time_graph(job.floor(rows.to("cuda"), getattr(torch, precision)))
            for way in options.way:
                settings = {"device": "cuda", "precision": precision, "compile": WAYS[way]}
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    times = [1000 * time_fit(job, data, WARMUP, **settings) / steps for _ in range(rounds)]
                middle = statistics.median(times)
                shown = f"{middle:.3f} | {min(times):.3f} | {max(times):.3f} | {1000 * job.batch_size / middle:,.0f}"
                print(f"| {name} | {precision} | {way} | {shown} | {least / middle:.2f} |", flush=True)
                torch.compiler.reset()
            print(f"| {name} | {precision} | products alone | {least:.3f} | | | | |", flush=True)


if __name__ == "__main__":
    main()
