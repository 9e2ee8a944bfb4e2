"""Posterior moments of a Bayesian logistic regression, without the library: importance sampling in numpy.

    y_n ~ Bernoulli(sigmoid(w . (1, x_n))),   w ~ N(0, I)

for scikit-learn's breast-cancer set, whose 30 columns are standardised (with divisor n); 31 weights, the intercept
first. The proposal is a Student t: at first Laplace's approximation, then with the moments that were found, five times.
The moments are what tests of samplers are held against; their standard errors belong to the printed numbers.

Run: python benchmarks/logistic_truth.py [--draws 2000000] [--quick]
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammaln
from sklearn.datasets import load_breast_cancer

DEGREES = 20.0  # of freedom
CHUNK = 2_000


class Problem(NamedTuple):
    """Rows with a one in front, `[N, D]`, and labels of -1 and 1, `[N]`."""

    rows: np.ndarray
    signs: np.ndarray

    def log_joint(self, w: np.ndarray) -> np.ndarray:
        """Return log p(y, w) for weights `[n, D]`."""
        margins = (w @ self.rows.T) * self.signs
        return -np.logaddexp(0, -margins).sum(-1) - 0.5 * (w**2 + math.log(2 * math.pi)).sum(-1)


class Proposal(NamedTuple):
    """A Student t with location `[D]` and the Cholesky factor of its scale `[D, D]`."""

    loc: np.ndarray
    factor: np.ndarray

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return draws `[n, D]` and their log-densities."""
        d = len(self.loc)
        noise = rng.standard_normal((n, d)) / np.sqrt(rng.chisquare(DEGREES, (n, 1)) / DEGREES)
        constant = gammaln((DEGREES + d) / 2) - gammaln(DEGREES / 2) - d / 2 * math.log(DEGREES * math.pi)
        constant -= np.log(np.diag(self.factor)).sum()
        return self.loc + noise @ self.factor.T, constant - (DEGREES + d) / 2 * np.log1p((noise**2).sum(1) / DEGREES)


class Moments(NamedTuple):
    """Means and central second moments of the weights `[D]` with standard errors, and what else was found."""

    mean: np.ndarray
    mean_error: np.ndarray
    variance: np.ndarray
    variance_error: np.ndarray
    covariance: np.ndarray
    log_evidence: float
    log_evidence_error: float
    effective: float


def problem() -> Problem:
    """Return the breast-cancer set."""
    rows, labels = load_breast_cancer(return_X_y=True)
    rows = (rows - rows.mean(0)) / rows.std(0)
    return Problem(np.column_stack([np.ones(len(rows)), rows]), 2.0 * labels - 1)


def laplace(data: Problem) -> Proposal:
    """Return the mode and the curvature there."""
    start = np.zeros(data.rows.shape[1])

    def cost(w: np.ndarray) -> tuple[float, np.ndarray]:
        margins = (data.rows @ w) * data.signs
        return -float(data.log_joint(w[None])[0]), w - data.rows.T @ (data.signs / (1 + np.exp(margins)))

    mode = minimize(cost, start, jac=True, method="BFGS", options={"gtol": 1e-6}).x
    share = 1 / (1 + np.exp(-data.rows @ mode))
    curvature = (data.rows.T * (share * (1 - share))) @ data.rows + np.eye(len(mode))
    return Proposal(mode, np.linalg.cholesky(np.linalg.inv(curvature)))


def estimate(data: Problem, proposal: Proposal, n: int, rng: np.random.Generator) -> Moments:
    """Return self-normalised estimates from n draws, with their errors to first order."""
    chunks = [proposal.draw(CHUNK, rng) for _ in range(max(n // CHUNK, 1))]
    w = np.concatenate([draws for draws, _ in chunks])
    log_weights = np.concatenate([data.log_joint(draws) - log_q for draws, log_q in chunks])
    largest = log_weights.max()
    weights = np.exp(log_weights - largest)
    total = weights.sum()
    share = weights / total
    mean = share @ w
    away = w - mean
    variance = share @ away**2
    return Moments(
        mean,
        np.sqrt(share**2 @ away**2),
        variance,
        np.sqrt(share**2 @ (away**2 - variance) ** 2),
        (away.T * share) @ away,
        float(largest + np.log(total / len(w))),
        float(weights.std() / weights.mean() / math.sqrt(len(w))),
        float(1 / (share**2).sum()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="not used: numpy reads OMP_NUM_THREADS")
    parser.add_argument("--quick", action="store_true", help="20,000 draws")
    options = parser.parse_args()
    draws, pilot = (20_000, 4_000) if options.quick else (options.draws, 100_000)
    data, rng = problem(), np.random.default_rng(options.seed)
    proposal = laplace(data)
    for _ in range(5):
        pilots = estimate(data, proposal, pilot, rng)
        proposal = Proposal(pilots.mean, np.linalg.cholesky(pilots.covariance + 1e-6 * np.eye(len(pilots.mean))))
    found = estimate(data, proposal, draws, rng)
    print("| weight | mean | error | variance | error |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for index, row in enumerate(zip(*found[:4], strict=True)):
        print(f"| {index} | " + " | ".join(f"{value:.6f}" for value in row) + " |")
    print(
        f"log p(y) = {found.log_evidence:.5f} +- {found.log_evidence_error:.5f} nats; "
        f"worth {found.effective:.0f} independent draws of {draws}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
