"""Test ELBO after each of the first epochs, by how the weights start and by what the encoder sees.

    python benchmarks/initialization.py [--model vae|conv-vae] [--epochs 2] [--seeds 3] [--threads 2] [--quick]

For every scheme of `lowerbound.nn.initialize` the encoder sees raw rows, rows minus the mean, or rows minus the mean in
units of the overall standard deviation. The table holds means over the seeds of the ELBO of all test rows, in nats.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.core.random import seeded
from lowerbound.data import Dataset
from lowerbound.nn.initialize import SCHEMES
from lowerbound.training import Callback

INPUTS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {  # from mean and deviation to center and spread
    "raw": lambda mean, std: (torch.zeros(()), torch.ones(())),
    "centred": lambda mean, std: (mean, torch.ones(())),
    "standardised": lambda mean, std: (mean, std.square().mean().sqrt()),
}

MODELS: dict[str, tuple[Callable[..., lb.models.EncoderDecoder], dict[str, Any], int]] = {  # class, arguments, batch
    "vae": (lb.models.VAE, {"latent_dim": 40}, 128),
    "conv-vae": (lb.models.ConvVAE, {"latent_dim": 2}, 100),
}


class EveryEpoch(Callback):
    """A callback of `lowerbound.fit` that evaluates the ELBO of the test rows after every epoch."""

    def __init__(self, model: lb.models.EncoderDecoder, test: Dataset) -> None:
        self._model, self._test = model, test
        self.values: list[float] = []

    def epoch(self, record: dict[str, Any]) -> None:
        """Evaluate."""
        self.values.append(lb.evaluate(self._model, self._test, "elbo").measures["elbo"]["value"])


def bounds(
    rows: Dataset, test: Dataset, *, model: str, init: str, inputs: str, epochs: int, lr: float, seed: int
) -> list[float]:
    """Return the test ELBO after each epoch."""
    kind, arguments, batch_size = MODELS[model]
    with seeded(seed, "weights"):
        built = kind(event_shape=rows.event_shape, init=init, **arguments)
    built.standardize(*INPUTS[inputs](*rows.moments()))
    watcher = EveryEpoch(built, test)
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed}
    lb.fit(lb.objectives.ELBO(built), rows, progress=False, callbacks=[watcher], **settings)
    return watcher.values


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="vae")
    parser.add_argument("--data", choices=("mnist", "digits"), default="mnist")
    parser.add_argument("--binarize", default="dynamic")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3, help="how many runs of each kind")
    parser.add_argument("--init", nargs="+", choices=SCHEMES, default=SCHEMES)
    parser.add_argument("--inputs", nargs="+", choices=list(INPUTS), default=list(INPUTS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="one epoch on the small digits, to see that it runs")
    options = parser.parse_args()
    data, epochs, seeds = ("digits", 1, 1) if options.quick else (options.data, options.epochs, options.seeds)
    torch.set_num_threads(options.threads)

    rows, test = lb.data.load(data, binarize=options.binarize)
    print(f"{options.model} on {data} ({options.binarize}), Adam at {options.lr:g}, torch {torch.__version__}:")
    print(f"ELBO of {len(test)} test rows in nats, means over {seeds} seeds\n")
    print(f"| init | encoder sees |{''.join(f' epoch {epoch + 1} |' for epoch in range(epochs))} spread |")
    print(f"| --- | --- |{' ---: |' * epochs} ---: |")
    for init, inputs in product(options.init, options.inputs):
        chosen = {"model": options.model, "init": init, "inputs": inputs, "epochs": epochs, "lr": options.lr}
        runs = [bounds(rows, test, seed=seed, **chosen) for seed in range(seeds)]
        means = "".join(f" {statistics.fmean(values):.2f} |" for values in zip(*runs, strict=True))
        last = [run[-1] for run in runs]
        print(f"| {init} | {inputs} |{means} {max(last) - min(last):.2f} |", flush=True)


if __name__ == "__main__":
    main()
