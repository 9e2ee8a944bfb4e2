"""Imputation of a table with half of its entries gone: MIWAE against the mean and scikit-learn's IterativeImputer.

MIWAE (Mattei and Frellsen, 2019) is an importance-weighted autoencoder whose likelihood is that of the entries that are
there: `lb.models.VAE(..., missing=True)` under `lb.objectives.IWAE`. `lb.evaluation.impute` then fills a gap with its
mean given the row, by importance sampling. Entries are removed completely at random; all errors are root mean squares
over the removed entries, in units of each column's standard deviation as it is observed.

Run: python examples/missing_data.py [--data wine] [--seeds 5] [--quick]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 (it makes the next import possible)
from sklearn.impute import IterativeImputer

import lowerbound as lb
from lowerbound.report.style import MAIN, new_figure, png, styled

LOADERS = {"breast-cancer": datasets.load_breast_cancer, "wine": datasets.load_wine}


def with_gaps(rows: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows in units of what stays observed, and the same with NaN for a share of their entries."""
    gaps = np.random.default_rng(seed).random(rows.shape) < share
    seen = np.where(gaps, np.nan, rows)
    center, spread = np.nanmean(seen, 0), np.nanstd(seen, 0)
    return (rows - center) / spread, (seen - center) / spread


def miwae(seen: np.ndarray, epochs: int, particles: int, seed: int) -> np.ndarray:
    """Return the rows with their gaps filled by an autoencoder that was trained on them."""
    data = lb.data.Dataset(torch.from_numpy(seen).float(), missing=True)
    torch.manual_seed(seed)
    model = lb.models.VAE(
        event_shape=data.event_shape,
        latent_dim=10,
        hidden=[128, 128],
        activation="tanh",
        likelihood="gaussian",
        likelihood_options={"scale": "per-dimension"},
        missing=True,
    )
    objective = lb.objectives.IWAE(model, particles=20, gradient="dreg")
    lb.fit(objective, data, epochs=epochs, batch_size=64, lr=1e-3, schedule="cosine", seed=seed, progress=False)
    return lb.evaluation.impute(model, data.rows(range(len(data))), particles=particles).mean.numpy()


@styled
def figure(errors: dict[str, list[float]], title: str):
    """Return a figure: a method a line, a point for each seed and a bar at their mean."""
    made = new_figure(5.5, 2.2)
    axes = made.add_subplot()
    for place, values in enumerate(errors.values()):
        axes.plot(values, [place] * len(values), "o", color=MAIN, alpha=0.6, markersize=5, markeredgewidth=0)
        axes.plot([np.mean(values)], [place], "|", color="black", markersize=18)
    axes.set_yticks(range(len(errors)), list(errors))
    axes.set_ylim(len(errors) - 0.5, -0.5)
    axes.set_xlabel("RMSE of the imputed entries (standard deviations of the column)")
    axes.set_title(title)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=LOADERS, default="breast-cancer")
    parser.add_argument("--share", type=float, default=0.5, help="the share of entries that is removed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("runs/missing-data"))
    parser.add_argument("--quick", action="store_true", help="one seed and a few epochs on the wine table")
    options = parser.parse_args()
    if options.quick:
        options.data, options.seeds, options.epochs = "wine", 1, 60

    rows = LOADERS[options.data]().data
    errors: dict[str, list[float]] = {"column mean": [], "IterativeImputer": [], "MIWAE": []}
    for seed in range(options.seeds):
        truth, seen = with_gaps(rows, options.share, seed)
        filled = {
            "column mean": np.where(np.isnan(seen), 0.0, seen),
            "IterativeImputer": IterativeImputer(max_iter=50, tol=1e-2, random_state=seed).fit_transform(seen),
            "MIWAE": miwae(seen, options.epochs, 500 if options.quick else 10_000, seed),
        }
        for name, values in filled.items():
            errors[name].append(float(np.sqrt(np.mean((values - truth)[np.isnan(seen)] ** 2))))
        print(f"seed {seed}: " + ", ".join(f"{name} {values[-1]:.3f}" for name, values in errors.items()), flush=True)

    n, columns = rows.shape
    print(f"{options.data}, {n} rows, {columns} columns, {options.share:.0%} removed, seeds 0 to {options.seeds - 1}")
    for name, values in errors.items():
        print(f"{name:20} RMSE {np.mean(values):.3f} +- {np.std(values):.3f} (mean and deviation over seeds)")
    options.out.mkdir(parents=True, exist_ok=True)
    title = f"{options.data}: {options.share:.0%} of the entries removed; dots: seeds, bars: means"
    (options.out / "imputation.png").write_bytes(png(figure(errors, title)))
    print(f"picture: {options.out / 'imputation.png'}")


if __name__ == "__main__":
    main()
