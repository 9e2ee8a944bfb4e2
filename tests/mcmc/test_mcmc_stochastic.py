"""Stochastic-gradient samplers on a Gaussian posterior, with real minibatches: their stationary moments in closed form.

At every step each chain draws B of the N rows, without replacement, and takes their gradient N / B times. The
curvature is constant, so a chain is a linear recursion; its stationary covariance solves a discrete Lyapunov equation.
False alarms: bars are 5 standard errors wide, 6e-7 a comparison, and seeds are fixed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import brentq
from torch import Tensor
from torch.distributions import Normal

import lowerbound as lb
from exact import random
from lowerbound.core.errors import ArgumentError, NonFiniteError
from lowerbound.mcmc import PSGLD, SGHMC, SGLD, SGNHT, LogJoint

CHAINS = 5_000
ROWS, BATCH = 20, 5
Y = 0.5 + random(0, ROWS)  # y_i ~ N(theta, 1), theta ~ N(0, 1)
PRECISION = 1.0 + ROWS
MEAN, VARIANCE = float(Y.sum()) / PRECISION, 1 / PRECISION
BATCHES = torch.combinations(Y, BATCH)  # all minibatches
NOISE = (ROWS / BATCH) ** 2 * float(BATCHES.sum(1).var(correction=0))  # the gradient's variance
DRAWS = 8
BAR = 5 * math.sqrt(2 / CHAINS / 3)  # relative, of a variance; eight draws of a chain are worth three and more


def full(theta: Tensor) -> Tensor:
    return -0.5 * theta**2 - 0.5 * (Y - theta[..., None]).square().sum(-1)


def draw_rows(theta: Tensor) -> Tensor:
    """Return a minibatch for every chain, ``[*theta.shape, B]``."""
    return BATCHES[torch.randint(len(BATCHES), theta.shape)]


def given(theta: Tensor, y: Tensor, scale: float = ROWS / BATCH) -> Tensor:
    return -0.5 * theta**2 - 0.5 * scale * (y - theta[..., None]).square().sum(-1)


def minibatch(theta: Tensor) -> Tensor:
    return given(theta, draw_rows(theta))


def unscaled(theta: Tensor) -> Tensor:
    """A planted mistake: the minibatch stands for itself only."""
    return given(theta, draw_rows(theta), scale=1.0)


def moments(kernel: Any, log_prob: Any) -> tuple[float, float]:
    """Return mean and variance of where chains are, far behind a start at the posterior."""
    start = MEAN + math.sqrt(VARIANCE) * torch.randn(CHAINS, dtype=torch.float64)
    samples = lb.mcmc.run(kernel, log_prob, start, warmup=60, draws=DRAWS, thin=10)
    draws = samples.draws["position"]
    return float(draws.mean()), float(draws.var())


def langevin_variance(step_size: Any, noise: float) -> Any:
    return (step_size + step_size**2 * noise / 4) / (1 - (1 - step_size * PRECISION / 2) ** 2)


def hamiltonian_variance(step_size: float, friction: float, known: float, noise: float) -> float:
    matrix = np.array([[1 - friction, -step_size * PRECISION], [1 - friction, 1 - step_size * PRECISION]])
    drawn = 2 * (friction - known) * step_size + step_size**2 * noise
    return float(solve_discrete_lyapunov(matrix, np.full((2, 2), drawn))[1, 1])  # of (velocity, position)


@pytest.mark.parametrize("step_size", [0.02, 0.06])
@pytest.mark.parametrize("log_prob, noise", [(full, 0.0), (minibatch, NOISE)], ids=["full", "minibatch"])
def test_sgld_has_the_variance_of_its_recursion(step_size: float, log_prob: Any, noise: float) -> None:
    (mean, variance), truth = moments(SGLD(step_size), log_prob), langevin_variance(step_size, noise)
    assert variance == pytest.approx(truth, rel=BAR)
    assert abs(mean - MEAN) < 5 * math.sqrt(truth / CHAINS)
    assert truth > (1 + 1.5 * BAR) * VARIANCE  # neither posterior nor exact gradients are taken for it
    if noise:
        assert truth > (1 + 1.5 * BAR) * langevin_variance(step_size, 0.0)


@pytest.mark.parametrize("log_prob, noise", [(full, 0.0), (minibatch, NOISE)], ids=["full", "minibatch"])
def test_sghmc_has_the_variance_of_its_recursion(log_prob: Any, noise: float) -> None:
    truth = hamiltonian_variance(0.005, 0.2, 0.0, noise)
    mean, variance = moments(SGHMC(0.005, friction=0.2), log_prob)
    assert variance == pytest.approx(truth, rel=BAR)
    assert abs(mean - MEAN) < 5 * math.sqrt(truth / CHAINS)


def test_sghmc_takes_back_noise_that_it_knows() -> None:
    step_size, friction = 0.005, 0.2
    known = step_size * NOISE / 2
    corrected = hamiltonian_variance(step_size, friction, known, NOISE)
    assert corrected == pytest.approx(hamiltonian_variance(step_size, friction, 0.0, 0.0), rel=1e-9)
    assert hamiltonian_variance(step_size, friction, 0.0, NOISE) > (1 + 1.5 * BAR) * corrected
    _, variance = moments(SGHMC(step_size, friction=friction, noise=known), minibatch)
    assert variance == pytest.approx(corrected, rel=BAR)


def thermostat_covariance(friction: float, step_size: float, noise: float) -> np.ndarray:
    """Return the covariance of (velocity, position) under a thermostat that stands still."""
    damping = math.exp(-friction / 2)
    velocity = damping * np.array([damping - step_size * PRECISION / 2, -step_size * PRECISION])
    matrix = np.stack([velocity, [0.5, 1.0] + 0.5 * velocity])
    drawn = damping**2 * (2 * noise * step_size + step_size**2 * NOISE)
    return np.asarray(solve_discrete_lyapunov(matrix, drawn * np.array([[1.0, 0.5], [0.5, 0.25]])))


class StuckThermostat(SGNHT):
    """A planted mistake: the friction never learns of the noise."""

    def step(self, log_prob: Any, state: Any) -> Any:
        moved, info = super().step(log_prob, state)
        return moved._replace(friction=state.friction), info


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_sgnht_finds_the_noise_by_itself(noise: float) -> None:
    """The thermostat holds the kinetic energy: the mean squared velocity is the step size, exactly, whatever the noise.

    With a hundred positions a chain it all but stands still, at the friction that makes it so.
    """
    step_size, start = 0.01, MEAN + math.sqrt(VARIANCE) * torch.randn(50, 100, dtype=torch.float64)
    friction = brentq(lambda xi: thermostat_covariance(xi, step_size, noise)[0, 0] - step_size, 1e-3, 2.0)
    truth = float(thermostat_covariance(friction, step_size, noise)[1, 1])

    def found(kernel: SGNHT) -> Any:
        return lb.mcmc.run(kernel, lambda z: minibatch(z).sum(-1), start, warmup=200, draws=DRAWS, thin=10)

    samples = found(SGNHT(step_size, noise=noise))
    assert float(samples.state.velocity.square().mean()) == pytest.approx(step_size, rel=5 * math.sqrt(2 / CHAINS))
    assert float(samples.draws["position"].var()) == pytest.approx(truth, rel=BAR)
    assert float(samples.state.friction.mean()) == pytest.approx(friction, rel=0.02)
    assert friction > 1.5 * noise
    thermostat = samples.stats["friction"]
    assert thermostat.shape == (50, DRAWS)
    assert thermostat[:, -1].equal(samples.state.friction)
    assert not thermostat[:, -2].equal(samples.state.friction)
    planted = float(found(StuckThermostat(step_size, noise=noise)).draws["position"].var())
    assert planted > (1 + 5 * BAR) * truth


def test_psgld_with_a_fixed_scale_is_sgld() -> None:
    """With decay 1 the squares stay at those of the first gradient: Langevin dynamics with another step size."""
    start = torch.full((7,), 2.0, dtype=torch.float64)
    first = abs(float(-PRECISION * (start[0] - MEAN)))
    scaled = lb.mcmc.run(PSGLD(0.3, decay=1.0, floor=0.5), full, start, warmup=0, draws=20)
    plain = lb.mcmc.run(SGLD(0.3 / (0.5 + first)), full, start, warmup=0, draws=20)
    torch.testing.assert_close(scaled.draws["position"], plain.draws["position"], rtol=1e-10, atol=0)


def test_psgld_has_the_variance_of_its_recursion() -> None:
    """With decay 1 every chain keeps the scale of its first minibatch, and has the variance of that."""
    start = MEAN + math.sqrt(VARIANCE) * torch.randn(CHAINS, dtype=torch.float64)
    samples = lb.mcmc.run(PSGLD(0.3, decay=1.0, floor=5.0), minibatch, start, warmup=60, draws=DRAWS, thin=10)
    step_size = 0.3 / (5.0 + samples.state.square.sqrt())  # [chains, 1]
    squares = (samples.draws["position"] - MEAN).square()

    def ratio(noise: float) -> float:
        return float((squares / langevin_variance(step_size, noise)).mean())

    assert ratio(NOISE) == pytest.approx(1.0, rel=BAR)
    assert ratio(0.0) > 1 + 3 * BAR


@pytest.mark.parametrize("kernel", [SGLD(0.02), SGHMC(0.005, friction=0.2)], ids=["SGLD", "SGHMC"])
def test_variance_of_a_minibatch_that_is_not_scaled_is_another(kernel: Any) -> None:
    _, variance = moments(kernel, minibatch)
    _, planted = moments(kernel, unscaled)
    assert planted > (1 + 3 * BAR) * variance


class Mean(lb.BayesianNet):
    """theta ~ N(0, 1), and the B rows that are observed, which stand for N, for each of many chains."""

    def forward(self, bn, chains):
        theta = bn.sample("theta", Normal(torch.zeros(chains, dtype=torch.float64), 1.0))
        rows = Normal(theta[..., None].expand(*theta.shape, BATCH), 1.0)
        bn.sample("y", rows, event_dims=1, scale=ROWS / BATCH)


def test_programs_take_minibatches() -> None:
    """A node's scale and `LogJoint.given` make the gradients that the closed forms above are of."""
    theta = random(1, 1, 7).requires_grad_()
    program = Mean().bind(7)
    target = LogJoint(program, {"y": draw_rows(theta)[0]})
    for _ in range(2):
        y = draw_rows(theta)[0]
        found = torch.autograd.grad(target.given(program, {"y": y})({"theta": theta}).sum(), theta)
        torch.testing.assert_close(found, torch.autograd.grad(given(theta, y).sum(), theta), rtol=1e-10, atol=0)


def test_psgld_takes_longer_steps_where_the_target_is_wide() -> None:
    """With a long memory the scale is all but fixed, at the inverse root of the mean squared gradient, the spread."""
    spread = torch.tensor([1.0, 0.1], dtype=torch.float64)
    start = spread * torch.randn(2000, 2, dtype=torch.float64).sign()  # where the squared gradient has its mean
    kernel = PSGLD(0.05, decay=0.999)
    samples = lb.mcmc.run(kernel, lambda z: -0.5 * (z / spread).square().sum(-1), start, warmup=200, draws=2, thin=50)
    found = samples.draws["position"].flatten(0, 1).var(0)
    step = 0.05 * spread
    torch.testing.assert_close(found, step / (1 - (1 - step / 2 / spread**2) ** 2), rtol=0.15, atol=0)


def test_steps_that_are_too_long_are_refused_in_words() -> None:
    start = torch.ones(7, dtype=torch.float64)
    with pytest.raises(NonFiniteError, match=r"chains of SGLD: .* 7 of 7 that left the finite numbers. Take"):
        lb.mcmc.run(SGLD(3.0), lambda z: -(z**4), start, warmup=20, draws=1)
    with pytest.raises(ArgumentError, match="noise: expected at most the friction 0.1, got 0.2"):
        SGHMC(0.1, friction=0.1, noise=0.2)


def test_step_sizes_may_follow_a_schedule() -> None:
    start = torch.zeros(7, dtype=torch.float64)
    seen: list[int] = []

    def schedule(steps: int) -> float:
        seen.append(steps)
        return 0.01 * (1 + steps) ** -0.5

    lb.mcmc.run(SGLD(schedule), full, start, warmup=2, draws=3)
    assert seen == [0, 1, 2, 3, 4]
    with pytest.raises(ArgumentError, match=r"step_size\(0\): expected a positive number, got -1"):
        lb.mcmc.run(SGLD(lambda _: -1.0), full, start)
