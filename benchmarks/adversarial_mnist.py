"""Three posteriors under one decoder on MNIST: a Gaussian, and two samplers that are trained against a critic.

    python benchmarks/adversarial_mnist.py [--out runs/mnist8] [--epochs 60] [--latent-dim 8]
        [--posterior vae avb avb-ac] [--measure is-1000 ais bdmc] [--limit 1000] [--chains 16] [--temperatures 1000]
        [--network dense|conv] [--precision float32] [--compile off] [--device cpu] [--seed 0] [--threads 2] [--quick]

Trains the three, measures them by what holds for all of them, and writes a report with curves and samples into each run
folder; it goes on where an earlier call was killed, in the training and in the measuring. The table sets the claim of
each objective beside what annealed importance sampling says of it, and beside the gap that bidirectional Monte Carlo
leaves between the bounds on rows of the model's own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import lowerbound as lb
from lowerbound.recipes import RECIPES, Recipe, train
from lowerbound.runs import evaluate_run

_CRITIC: dict[str, Any] = {"noise_dim": 16, "critic": "bilinear", "critic_hidden": [512, 512]}
_PRIOR: dict[str, Any] = {"contrast": "prior", "particles": 1}
_CONV: dict[str, Any] = {"network": "conv", "hidden": [256], "noise_dim": 64, "critic_hidden": [1024, 1024]}

# name: recipe and its changes; all have the same decoder. Of three learning rates that of "vae" did best after eight
# epochs and that of "avb-ac" after six; "avb" has the latter's.
POSTERIORS: dict[str, tuple[str, dict[str, Any]]] = {
    "vae": ("vae", {"training": {"lr": 3e-3}}),
    "avb": ("avb", {"model_options": _CRITIC, "objective_options": _PRIOR, "training": {"lr": 2e-3}}),
    "avb-ac": ("avb-ac", {"model_options": _CRITIC, "training": {"lr": 2e-3}}),
}

_NAMES = (("elbo", "avb_estimate"), ("kl", "kl_estimate"))  # what a bound and a critic's estimate call them


def recipe(name: str, *, data: str, latent_dim: int, network: str, seed: int, **training: Any) -> Recipe:
    """Return the recipe of a posterior."""
    base, changes = POSTERIORS[name]
    training = {"batch_size": 128, "schedule": "cosine", "optimizer": "adam", **training}
    common = {"data": data, "latent_dim": latent_dim, "validation": 0.0, "seed": seed, "training": training}
    chosen = RECIPES[base].changed(**common).changed(**changes)
    if network == "dense":
        return chosen.changed(model_options={"hidden": [300, 300]})
    conv = {"features": 256} if base == "vae" else _CONV if base == "avb" else {**_CONV, "basis": 32}
    return chosen.changed(model="ConvVAE" if base == "vae" else None, model_options=conv, training={"lr": 1e-3})


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/mnist8"), help="the folder of the three run folders")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--posterior", nargs="+", default=list(POSTERIORS), choices=POSTERIORS)
    parser.add_argument("--measure", nargs="+", default=["is-1000", "ais", "bdmc"], help="what is measured of them all")
    parser.add_argument("--limit", type=int, default=1000, help="test rows")
    parser.add_argument("--chains", type=int, default=16, help="chains a row")
    parser.add_argument("--temperatures", type=int, default=1000, help="steps of a chain")
    parser.add_argument("--network", choices=("dense", "conv"), default="dense", help="300-300, or convolutions")
    parser.add_argument("--precision", default="float32", help="of the networks in training")
    parser.add_argument("--compile", choices=("off", "on", "graphs"), default="off")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="two epochs of the digits, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data, epochs, limit = ("digits", 2, 20) if options.quick else ("mnist", options.epochs, options.limit)
    measures = ["is-10", "ais", "bdmc"] if options.quick else options.measure
    chains, temperatures = (2, 5) if options.quick else (options.chains, options.temperatures)

    how = f"{epochs} epochs, {limit} rows, {chains} chains of {temperatures:,} temperatures"
    print(f"{data}, {options.latent_dim} latents, {how}, nats, torch {torch.__version__}\n")
    heads = ["posterior", "training's claim", "its KL", *(f"{name} | ±" for name in measures), "minutes"]
    print(f"| {' | '.join(heads)} |\n| --- |{' ---: |' * (3 + 2 * len(measures))}", flush=True)
    compile = {"off": False, "on": True, "graphs": "graphs"}[options.compile]
    training = {"epochs": epochs, "precision": options.precision, "compile": compile}
    common = {"data": data, "latent_dim": options.latent_dim, "network": options.network, "seed": options.seed}
    for name in options.posterior:
        folder = options.out / name
        run = train(recipe(name, **common, **training), out=folder, resume=True, progress=False, device=options.device)
        annealing = {"chains": chains, "temperatures": temperatures}
        scores = evaluate_run(folder, measures, limit=limit, device=options.device, **annealing).measures
        lb.report.write(folder)
        last = run.history[-1]["train"]
        claim, kl = (float(last.get(name, last.get(other))) for name, other in _NAMES)
        minutes = sum(record["seconds"] for record in run.history) / 60
        found = [cell for measure in measures for cell in _cells(scores[measure])]
        print(f"| {name} | {claim:.2f} | {kl:.2f} | {' | '.join(found)} | {minutes:.1f} |", flush=True)


def _cells(measure: dict[str, Any]) -> list[str]:
    return [f"{measure['value']:.2f}", f"{measure['stderr']:.2f}"]


if __name__ == "__main__":
    main()
