"""Hamiltonian Monte Carlo on published data, against moments that were found without it.

False alarms: every number is within 4 standard errors, those of the truth included, 6e-5 a comparison; the 62 of the
regression and the 12 of the schools fail together once in 200 seeds, and seeds are fixed. A planted mistake must fail.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import lowerbound as lb
from lowerbound.evaluation import ais
from lowerbound.mcmc import HMC, LogJoint, mcse
from planted import Accepts, without_kinetic

EXAMPLES = Path(__file__).parents[2] / "examples"
BAR = 4.0


def errors(draws: Tensor, truth: Tensor, error: Tensor | float = 0.0) -> Tensor:
    """Return by how many standard errors the means of draws ``[chains, draws, *rest]`` are off."""
    return (draws.double().flatten(0, 1).mean(0) - truth) / torch.hypot(mcse(draws), torch.as_tensor(error).double())


# --- Eight schools ----------------------------------------------------------------------------------------------------


@pytest.fixture
def schools(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example, whose posterior of (mu, tau) is a sum over a grid."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return __import__("eight_schools")


def of_schools(mu: Tensor, tau: Tensor, effects: Tensor) -> Tensor:
    """Return what the means are taken of, 12 numbers: mu, |tau|, their squares, and the effects of the schools."""
    return torch.cat([torch.stack([mu, tau.abs(), mu**2, tau**2], -1), effects], -1)


def exact_schools(schools: Any) -> Tensor:
    """Return the exact means; given mu and tau, the effect of a school is Gaussian."""
    line = schools.midpoints(-8.0, 8.0, 800)
    share = schools.exact_log_joint(line, line).flatten().softmax(0)  # [tau, mu]
    tau, mu = torch.cartesian_prod(line, line).T
    gain = tau[:, None] ** 2 / (tau[:, None] ** 2 + schools.SIGMA.double() ** 2)
    return share @ of_schools(mu, tau, mu[:, None] + gain * (schools.Y.double() - mu[:, None]))


def schools_off(schools: Any, kernel: HMC, *, warmup: int, draws: int, precision: float) -> Tensor:
    target = LogJoint(schools.EightSchools().bind(), {"y": schools.Y})
    found = lb.mcmc.run(kernel, target, target.initial(chains=300), warmup=warmup, draws=draws).draws
    mu, tau = found["mu"], found["tau"]
    draws_of = of_schools(mu, tau, mu[..., None] + tau[..., None] * found["eta"])
    assert (mcse(draws_of) < precision).all()
    return errors(draws_of, exact_schools(schools))


def test_eight_schools(schools: Any) -> None:
    found = schools_off(schools, HMC(leapfrogs=6, target_acceptance=0.9), warmup=100, draws=50, precision=0.03)
    assert (found.abs() < BAR).all(), found


@pytest.mark.filterwarnings("ignore::lowerbound.core.errors.SamplingWarning")  # a chain or two that never moves
def test_eight_schools_see_a_planted_mistake(schools: Any) -> None:
    found = schools_off(
        schools, Accepts(without_kinetic, step_size=0.25, leapfrogs=4), warmup=60, draws=50, precision=0.2
    )
    assert found.abs().max() > 2 * BAR


@pytest.mark.slow
def test_eight_schools_in_a_long_run(schools: Any) -> None:
    found = schools_off(schools, HMC(target_acceptance=0.95), warmup=500, draws=2_000, precision=0.005)
    assert (found.abs() < BAR).all(), found


# --- Logistic regression ----------------------------------------------------------------------------------------------

# By `python benchmarks/logistic_truth.py`, importance sampling in numpy, worth a million independent draws; a row for
# each weight, the intercept first: mean, its standard error, variance, its standard error.
TRUTH = [
    [0.205347, 0.000406, 0.167288, 0.000237],
    [-0.470745, 0.000876, 0.797481, 0.001073],
    [-0.473184, 0.000544, 0.307590, 0.000420],
    [-0.459250, 0.000883, 0.815285, 0.001106],
    [-0.550778, 0.000897, 0.836698, 0.001126],
    [-0.239705, 0.000612, 0.384586, 0.000531],
    [0.584270, 0.000782, 0.637220, 0.000863],
    [-0.961573, 0.000815, 0.682310, 0.000926],
    [-1.070009, 0.000815, 0.690471, 0.000939],
    [0.106409, 0.000506, 0.261755, 0.000366],
    [0.448963, 0.000668, 0.459852, 0.000629],
    [-1.436983, 0.000770, 0.620164, 0.000843],
    [0.322534, 0.000497, 0.250045, 0.000346],
    [-0.783249, 0.000774, 0.624085, 0.000846],
    [-1.177501, 0.000896, 0.852556, 0.001135],
    [-0.434123, 0.000500, 0.214175, 0.000370],
    [0.728624, 0.000659, 0.443961, 0.000620],
    [0.316035, 0.000686, 0.386145, 0.000793],
    [-0.331551, 0.000658, 0.445381, 0.000608],
    [0.299756, 0.000526, 0.279740, 0.000396],
    [0.817922, 0.000708, 0.488044, 0.000715],
    [-1.130158, 0.000894, 0.842753, 0.001134],
    [-1.493261, 0.000634, 0.417023, 0.000565],
    [-0.910408, 0.000904, 0.847906, 0.001140],
    [-1.119549, 0.000914, 0.872933, 0.001184],
    [-0.722689, 0.000612, 0.380174, 0.000528],
    [-0.022604, 0.000774, 0.609005, 0.000837],
    [-0.983078, 0.000755, 0.579997, 0.000794],
    [-1.033842, 0.000769, 0.623768, 0.000834],
    [-1.052931, 0.000551, 0.307236, 0.000435],
    [-0.530929, 0.000704, 0.504912, 0.000686],
]
LOG_EVIDENCE, LOG_EVIDENCE_ERROR = -55.22408, 0.00069
MEAN, MEAN_ERROR, VARIANCE, VARIANCE_ERROR = torch.tensor(TRUTH, dtype=torch.float64).T


class Regression(lb.BayesianNet):
    """N(0, 1) weights; columns are standardised."""

    def __init__(self) -> None:
        super().__init__()
        x, y = load_breast_cancer(return_X_y=True)
        self.x = torch.from_numpy(np.column_stack([np.ones(len(x)), (x - x.mean(0)) / x.std(0)]))
        self.y = torch.from_numpy(y).double()

    def forward(self, bn):
        w = bn.sample("w", Normal(torch.zeros(31, dtype=torch.float64), 1.0), event_dims=1)
        bn.sample("y", Bernoulli(logits=w @ self.x.T), event_dims=1)


def regression_off(kernel: HMC, *, warmup: int, draws: int, precision: float) -> Tensor:
    net = Regression()
    target = LogJoint(net.bind(), {"y": net.y})
    w = lb.mcmc.run(kernel, target, target.initial(chains=100), warmup=warmup, draws=draws).draws["w"]
    assert (mcse(w) < precision * VARIANCE.sqrt()).all()
    return torch.stack([errors(w, MEAN, MEAN_ERROR), errors((w - MEAN) ** 2, VARIANCE, VARIANCE_ERROR)])


def test_logistic_regression() -> None:
    found = regression_off(HMC(leapfrogs=5), warmup=100, draws=50, precision=0.05)
    assert (found.abs() < BAR).all(), found


@pytest.mark.filterwarnings("ignore::lowerbound.core.errors.SamplingWarning")
def test_logistic_regression_sees_a_planted_mistake() -> None:
    found = regression_off(Accepts(without_kinetic, step_size=0.05, leapfrogs=6), warmup=60, draws=50, precision=0.2)
    assert found.abs().max() > 2 * BAR


@pytest.mark.slow
def test_logistic_regression_in_a_long_run() -> None:
    found = regression_off(HMC(leapfrogs=10), warmup=500, draws=1_000, precision=0.006)
    assert (found.abs() < BAR).all(), found


@pytest.mark.slow
def test_evidence_of_the_logistic_regression() -> None:
    """Annealing from the prior, 31 dimensions and hundreds of nats away, within 5 of its own standard errors."""
    net = Regression()
    found = ais(net.bind(), {"y": net.y}, chains=200, temperatures=2_000)
    assert float(found.stderr) < 0.1
    assert abs(float(found.value) - LOG_EVIDENCE) < 5 * math.hypot(float(found.stderr), LOG_EVIDENCE_ERROR)
