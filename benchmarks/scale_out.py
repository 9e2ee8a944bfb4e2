"""Two processes of torchrun beside one process with two threads: milliseconds a training step, and the loss curves.

    python benchmarks/scale_out.py [--rows 6400] [--batch-size 256] [--epochs 3] [--rounds 3] [--threads 2] [--quick]

Every contender trains the same network (784-500-500 ReLU both ways, 40 latent dimensions, the ELBO) on the same uint8
images in the same order; the rounds are interleaved. Gradients are summed over gloo.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

import torch
from speed import load_images

import lowerbound as lb
from lowerbound.data import Dataset


def contenders(threads: int) -> dict[str, tuple[int, int, int]]:
    """Return how each is run: processes, threads in each, microbatches of a step."""
    return {
        "one process, one thread": (1, 1, 1),
        "one process": (1, threads, 1),
        "one process, two microbatches": (1, threads, 2),
        "two processes, two microbatches": (2, max(threads // 2, 1), 2),
    }


def train(options: argparse.Namespace, *, threads: int, microbatches: int) -> list[dict]:
    """Train in this process, beside others if torchrun has started them, and return the records of the epochs."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images, _ = load_images(options.rows)
    rows = Dataset(images, name="images", binarize="dynamic")
    model = lb.models.VAE(event_shape=(28, 28), latent_dim=40, hidden=tuple(options.hidden))
    settings = {"epochs": options.epochs, "batch_size": options.batch_size, "microbatches": microbatches}
    return lb.fit(lb.objectives.ELBO(model), rows, progress=False, **settings).history


def run(processes: int, threads: int, microbatches: int, options: argparse.Namespace) -> list[dict]:
    """Run a contender and return its records."""
    if processes == 1:
        return train(options, threads=threads, microbatches=microbatches)
    job = [__file__, "--train", "--threads", str(threads), "--hidden", *map(str, options.hidden)]
    job += [f"--{name}={getattr(options, name.replace('-', '_'))}" for name in ("rows", "batch-size", "epochs")]
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    made = subprocess.run([*start, *job], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(made.stdout)


def compare(options: argparse.Namespace) -> None:
    """Run all contenders and print the table."""
    steps = options.rows // options.batch_size
    found: dict[str, list[list[dict]]] = {name: [] for name in contenders(options.threads)}
    for number in range(options.rounds):
        names = list(found)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(run(*contenders(options.threads)[name], options))
    reference = found["one process, two microbatches"][0]
    print(f"{options.rows} rows, batch {options.batch_size}, {steps} steps an epoch; torch {torch.__version__}\n")
    print("| contender | ms a step | fastest | slowest | first ELBO | last ELBO | largest gap of the curves |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, rounds in found.items():
        times = [1000 * record["seconds"] / steps for records in rounds for record in records[1:]]
        curve, other = ([record["train"]["elbo"] for record in records] for records in (rounds[0], reference))
        gap = max(abs(a - b) for a, b in zip(curve, other, strict=True))
        print(
            f"| {name} | {statistics.median(times):.1f} | {min(times):.1f} | {max(times):.1f} "
            f"| {curve[0]:.4f} | {curve[-1]:.4f} | {gap:.1e} |"
        )


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=6_400)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3, help="the first is not timed")
    parser.add_argument("--hidden", type=int, nargs="*", default=[500, 500])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of all processes together")
    parser.add_argument("--quick", action="store_true", help="a small network and few rows, to see that it runs")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rows, options.epochs, options.rounds, options.hidden = 1024, 2, 1, [16]
    if options.train:
        records = train(options, threads=options.threads, microbatches=int(os.environ["WORLD_SIZE"]))
        if os.environ["RANK"] == "0":
            print(json.dumps(records))
    else:
        compare(options)


if __name__ == "__main__":
    main()
