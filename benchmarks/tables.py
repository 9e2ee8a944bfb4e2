"""Small tables of scikit-learn's: gaps filled and anomalies found, beside scikit-learn's own methods.

Imputation: a share of all cells is removed at random; the error is the root mean square over the removed cells, each
column in units of its standard deviation. Anomalies: trained on a half of the normal rows, tested on the other half and
on all anomalies; AUROC. Every number is a mean over seeds, with its standard error.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.metrics import roc_auc_score

import lowerbound as lb
from lowerbound.recipes import RECIPES, build

GAPS = 0.3
TABLES = {"wine": load_wine, "breast cancer": load_breast_cancer, "diabetes": load_diabetes}
ANOMALIES = {"breast cancer": (load_breast_cancer, 0), "wine": (load_wine, 2)}  # the class that is left out


def fitted(rows: np.ndarray, seed: int, steps: int, missing: bool) -> lb.models.VAE:
    """Return a small VAE, trained on the importance-weighted bound of 10 particles."""
    recipe = RECIPES["iwae"].changed(
        missing=missing,
        likelihood="gaussian",
        likelihood_options={"scale": "per-dimension"},
        latent_dim=8,
        model_options={"hidden": (64,), "activation": "tanh"},
        objective_options={"particles": 10},
        seed=seed,
    )
    data = lb.data.Dataset(torch.from_numpy(rows.astype(np.float32)), name="table", split="train", missing=missing)
    train, validation = data.split_off(0.1, seed=seed)
    settings = {"lr": 2e-3, "batch_size": 64, "schedule": "cosine", "seed": seed}
    epochs = max(1, steps // max(1, len(train) // 64))
    objective = build(recipe, train)
    return lb.fit(objective, train, validation=validation, epochs=epochs, progress=False, **settings).model


def imputation(table: str, seed: int, steps: int) -> dict[str, float]:
    """Return the normalised error of each method."""
    whole = TABLES[table]().data
    whole = (whole - whole.mean(0)) / whole.std(0)
    gaps = np.random.default_rng(seed).random(whole.shape) < GAPS
    seen = np.where(gaps, np.nan, whole)
    model = fitted(seen, seed, steps, missing=True)
    with torch.no_grad():
        torch.manual_seed(seed)
        filled = lb.evaluation.impute(model, torch.from_numpy(seen.astype(np.float32)), particles=1000).mean.numpy()
    methods = {"mean": SimpleImputer(), "KNN": KNNImputer(), "Iterative": IterativeImputer(random_state=seed)}
    found = {"lowerbound": filled, **{name: method.fit_transform(seen) for name, method in methods.items()}}
    return {name: float(np.sqrt(np.mean((rows - whole)[gaps] ** 2))) for name, rows in found.items()}


def anomalies(table: str, seed: int, steps: int) -> dict[str, float]:
    """Return the AUROC of each method."""
    load, odd = ANOMALIES[table]
    rows, kinds = load(return_X_y=True)
    normal = np.random.default_rng(seed).permutation(rows[kinds != odd])
    train, test = normal[: len(normal) // 2], np.concatenate([normal[len(normal) // 2 :], rows[kinds == odd]])
    center, spread = train.mean(0), train.std(0)
    train, test = (train - center) / spread, (test - center) / spread
    truth = np.arange(len(test)) >= len(normal) - len(train)
    model = fitted(train, seed, steps, missing=False)
    data = lb.data.Dataset(torch.from_numpy(test.astype(np.float32)), name="test", split="test")
    scores = lb.evaluate(model, data, "iwae-100", seed=seed, progress=False).rows["iwae-100"]
    pca = PCA(8).fit(train)
    found = {
        "lowerbound": -scores,
        "IsolationForest": -IsolationForest(random_state=seed).fit(train).score_samples(test),
        "PCA": np.square(test - pca.inverse_transform(pca.transform(test))).sum(1),
    }
    return {name: float(roc_auc_score(truth, values)) for name, values in found.items()}


def main() -> None:
    """Print both tables as one, a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed and a few steps, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    seeds, steps = (range(1), 5) if options.quick else (range(options.seeds), options.steps)
    print("| task | table | method | value | standard error |", "| --- | --- | --- | ---: | ---: |", sep="\n")
    for task, names, measure in (("gaps, NRMSE", TABLES, imputation), ("anomalies, AUROC", ANOMALIES, anomalies)):
        for table in names:
            runs = [measure(table, seed, steps) for seed in seeds]
            for method in runs[0]:
                values = np.array([run[method] for run in runs])
                error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
                print(f"| {task} | {table} | {method} | {values.mean():.3f} | {error:.3f} |", flush=True)


if __name__ == "__main__":
    main()
