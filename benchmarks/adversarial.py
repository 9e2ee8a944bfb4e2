"""What each choice in adversarial variational Bayes is worth on the four points, one choice changed at a time.

    python benchmarks/adversarial.py [--steps 3000] [--seeds 1] [--only NAME ...] [--threads 2] [--quick]

Every run is the recipe `avb` with one setting changed. The table holds log p(x) by quadrature (the limit is -1.3863
nats), the reconstruction error a pixel, what the training's critic claims, and what a re-fitted one says; means over
the seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from typing import Any

import torch

import lowerbound as lb
from lowerbound.recipes import RECIPES, Recipe, train

# name: changes of the recipe `avb`
VARIANTS: dict[str, dict[str, Any]] = {
    "avb": {},
    "contrast with the prior": {"objective_options": {"contrast": "prior"}},
    "critic learns the ratio": {"objective_options": {"learns": "ratio"}},
    "1 critic step": {"objective_options": {"critic_steps": 1}},
    "4 critic steps": {"objective_options": {"critic_steps": 4}},
    "lr 2e-4, critic 1e-3": {"objective_options": {"critic_lr": 1e-3}, "training": {"lr": 2e-4}},
    "lr 2e-3, critic 4e-3": {"objective_options": {"critic_lr": 4e-3}, "training": {"lr": 2e-3}},
    "critic's lr as the model's": {"objective_options": {"critic_lr": 1e-3}},
    "beta1 0.9": {"training": {"optimizer_options": {"betas": [0.9, 0.999]}}},
    "constant lr": {"training": {"schedule": "constant"}},
    "KL warm-up of 1000 steps": {"training": {"kl_warmup": 1000}},
    "noise of 32 dimensions": {"model_options": {"noise_dim": 32}},
    "basis sampler": {"model_options": {"sampler": "basis", "basis": 8, "noise_dim": 8}},
}


def measure(recipe: Recipe, refit_steps: int) -> tuple[float, float, float, float]:
    """Return log p(x), the reconstruction error a pixel, the claim and the re-fitted critic's estimate, in nats."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(recipe, out=folder, device="cpu", progress=False)
    model: Any = run.model
    x = lb.data.four_points(rows=512)[1].rows(range(512))
    options = {name: run.config["objective"][name] for name in ("contrast", "learns", "moment_draws")}
    objective = lb.objectives.AVB(model, **options)
    fresh = lb.evaluation.refit_critic(objective, x, steps=refit_steps)
    found = lb.evaluation.judge_critic(objective, fresh, [x], len(x))
    value, _ = lb.evaluation.quadrature(model.generator, x)
    reconstruction, claimed, refitted = (found[n].mean() for n in ("reconstruction", "kl_claimed", "kl_refitted"))
    return float(value.mean()), -reconstruction / 4, reconstruction - claimed, reconstruction - refitted


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=1, help="how many runs of each kind")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="ten steps of two variants, to see that it runs")
    options = parser.parse_args()
    steps, seeds, names = (
        (10, 1, ["avb", "basis sampler"]) if options.quick else (options.steps, options.seeds, options.only)
    )
    torch.set_num_threads(options.threads)

    print(f"Four points, {steps} steps, torch {torch.__version__}, means over {seeds} seeds, nats\n")
    print("| recipe avb, changed | log p(x) | reconstruction error a pixel | training's claim | re-fitted critic |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in names:
        recipe = RECIPES["avb"].changed(steps=steps, **VARIANTS[name])
        found = [measure(recipe.changed(seed=seed), 10 if options.quick else 2000) for seed in range(seeds)]
        means = [statistics.fmean(values) for values in zip(*found, strict=True)]
        print(f"| {name} | {means[0]:.4f} | {means[1]:.4f} | {means[2]:.4f} | {means[3]:.4f} |", flush=True)


if __name__ == "__main__":
    main()
