"""Two processes of torchrun beside one process with two threads: milliseconds a training step, and the loss curves.

    python benchmarks/scale_out.py [--rows 20000] [--batch-size 256] [--epochs 4] [--rounds 3] [--threads 2] [--quick]

Every contender trains the same network (784-500-500 ReLU both ways, 40 latent dimensions, the ELBO) on the same uint8
images in the same order, in processes of its own; the rounds are interleaved. Gradients are summed over gloo.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

import torch
from speed import load_images

import lowerbound as lb
from lowerbound.data import Dataset
from lowerbound.training import Callback


def contenders(threads: int) -> dict[str, tuple[int, int, int]]:
    """Return how each is run: processes, threads in each, microbatches of a step."""
    return {
        "one process": (1, threads, 1),
        "one process, two microbatches": (1, threads, 2),
        "two processes, two microbatches": (2, max(threads // 2, 1), 2),
    }


def train(options: argparse.Namespace) -> None:
    """Train in this process, beside others if there are any, and print the milliseconds a step and the curve."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images, _ = load_images(options.rows)
    rows = Dataset(images, name="images", binarize="dynamic")
    model = lb.models.VAE(event_shape=(28, 28), latent_dim=40, hidden=tuple(options.hidden))
    lb.fit(
        lb.objectives.ELBO(model),
        rows,
        epochs=options.epochs,
        batch_size=options.batch_size,
        microbatches=options.microbatches,
        progress=False,
        callbacks=[Print()],
    )


class Print(Callback):
    """Prints the records, in the first process alone."""

    def epoch(self, record: dict) -> None:
        """Print a line."""
        print(json.dumps(record), flush=True)


def run(processes: int, threads: int, microbatches: int, options: argparse.Namespace) -> list[dict]:
    """Run a contender and return its records."""
    start = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    job = [__file__, "--train", "--threads", str(threads), "--microbatches", str(microbatches)]
    job += [f"--{name}={getattr(options, name.replace('-', '_'))}" for name in ("rows", "batch-size", "epochs")]
    job += ["--hidden", *map(str, options.hidden)]
    made = subprocess.run([sys.executable, *start, *job], stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in made.stdout.splitlines() if line.startswith("{")]


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
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=4, help="the first is not timed")
    parser.add_argument("--hidden", type=int, nargs="*", default=[500, 500])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of all processes together")
    parser.add_argument("--quick", action="store_true", help="a small network and few rows, to see that it runs")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--microbatches", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rows, options.epochs, options.rounds, options.hidden = 1024, 2, 1, [16]
    if options.train:
        train(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
