"""Hamiltonian Monte Carlo: the integrator's physics, the target it leaves alone, and what its warm-up learns.

Conservation: chains start from exact draws, move, and their empirical distribution is held against the exact one. A
true sampler fails with probability 1e-6 at most, and one that moves the target by a Kolmogorov distance of 0.025 passes
with probability 1e-6 at most (see `bands`); planted mistakes must fail the same test.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Bernoulli, Beta, Gamma, Normal, Poisson

import lowerbound as lb
from bands import band, enough, from_uniform
from exact import random
from lowerbound.mcmc import HMC, LogJoint, adaptation, pack
from lowerbound.mcmc.hmc import Point, leapfrog
from lowerbound.mcmc.target import value_and_grad
from planted import Accepts, ForgetsJacobian, always, right, without_kinetic

FALSE_ALARM = FALSE_PASS = 1e-6
DETECTS = 0.025  # a Kolmogorov distance
CHAINS = enough(DETECTS, false_alarm=FALSE_ALARM, false_pass=FALSE_PASS)  # 46,428
BAND = band(CHAINS, FALSE_ALARM)

# --- The integrator ---------------------------------------------------------------------------------------------------

SHAPE = (5, 3, 2)  # chains, data, dimensions


def crooked(z: Tensor) -> Tensor:
    """Return a log-density that is no Gaussian, different for each datum."""
    return -(z**4).sum(-1) / 4 - 0.5 * (z.sum(-1) - torch.arange(3.0, dtype=torch.float64)) ** 2 + z.prod(-1).sin()


def evaluate(z: Tensor) -> Point:
    return Point(z, *value_and_grad(crooked, z))


def energy(point: Point, momentum: Tensor, variance: Tensor) -> Tensor:
    return 0.5 * (variance * momentum**2).sum(-1) - point.log_prob


START, MOMENTUM = evaluate(random(0, *SHAPE)), random(1, *SHAPE)
VARIANCE = random(2, *SHAPE[1:]).exp()


def test_leapfrog_comes_back_when_the_momentum_is_turned() -> None:
    step = torch.full(SHAPE[:2], 0.1, dtype=torch.float64)
    there, momentum = leapfrog(evaluate, START, MOMENTUM, step, VARIANCE, 17)
    back, momentum = leapfrog(evaluate, there, -momentum, step, VARIANCE, 17)
    assert (there.position - START.position).abs().min() > 1e-3
    torch.testing.assert_close(back.position, START.position, rtol=0, atol=1e-10)
    torch.testing.assert_close(-momentum, MOMENTUM, rtol=0, atol=1e-10)


def test_energy_error_is_of_second_order() -> None:
    errors = []
    for halvings in range(3):
        step = torch.full(SHAPE[:2], 0.02 / 2**halvings, dtype=torch.float64)
        end, momentum = leapfrog(evaluate, START, MOMENTUM, step, VARIANCE, 16 * 2**halvings)
        errors.append(energy(end, momentum, VARIANCE) - energy(START, MOMENTUM, VARIANCE))
    for coarse, fine in pairwise(errors):
        torch.testing.assert_close(coarse / fine, torch.full_like(fine, 4.0), rtol=0.1, atol=0)


def test_leapfrog_keeps_volume() -> None:
    variance = torch.tensor([0.5, 2.0], dtype=torch.float64)

    def log_prob(z: Tensor) -> Tensor:
        return -(z**4).sum(-1) / 4 + z.prod(-1).sin()

    def move(both: Tensor) -> Tensor:
        def at(z: Tensor) -> Point:  # differentiable, unlike the library's
            return Point(z, log_prob(z), torch.func.grad(log_prob)(z))

        end, momentum = leapfrog(at, at(both[:2]), both[2:], torch.tensor(0.3, dtype=torch.float64), variance, 3)
        return torch.cat([end.position, momentum])

    jacobian = torch.func.jacrev(move)(random(3, 4))
    assert float(torch.linalg.det(jacobian)) == pytest.approx(1.0, abs=1e-10)


# --- The target stays -------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A target: its log-density, exact draws as positions, and the distribution function of a position."""

    log_prob: Callable[[Any], Tensor]
    draws: Any
    cdf: Callable[[Any], Tensor]


def uniforms() -> Tensor:
    return torch.rand(CHAINS, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def quartic() -> Case:
    """exp(2 x^2 - x^4), with two modes; its distribution function on a grid."""
    grid = torch.linspace(-3, 3, 20_001, dtype=torch.float64)
    mass = (2 * grid**2 - grid**4).exp().cumsum(0)
    mass = mass / mass[-1]

    def cdf(x: Tensor) -> Tensor:
        return mass[torch.searchsorted(grid, x).clamp(max=len(grid) - 1)]

    return Case(lambda x: 2 * x**2 - x**4, grid[torch.searchsorted(mass, uniforms())], cdf)


class Counts(lb.BayesianNet):
    def forward(self, bn):
        rate = bn.sample("rate", Gamma(torch.tensor(2.0, dtype=torch.float64), 1.0))
        bn.sample("n", Poisson(rate[..., None].expand(*bn.particles, 1)), event_dims=1)


class Coins(lb.BayesianNet):
    def forward(self, bn):
        share = bn.sample("share", Beta(torch.tensor(0.7, dtype=torch.float64), 1.5))
        bn.sample("n", Bernoulli(share[..., None].expand(*bn.particles, 2)), event_dims=1)


def conjugate(net: lb.BayesianNet, data: list[float], name: str, exact: Any, kind: type[LogJoint] = LogJoint) -> Case:
    """A posterior of a constrained latent that is known."""
    target = kind(net.bind(), {"n": torch.tensor(data, dtype=torch.float64)})
    draws = torch.from_numpy(exact.ppf(uniforms().numpy()))
    return Case(
        target,
        target.unconstrain({name: draws}),
        lambda position: torch.from_numpy(exact.cdf(target.constrain(position)[name].numpy())),
    )


def counts(kind: type[LogJoint] = LogJoint) -> Case:
    return conjugate(Counts(), [1.0], "rate", stats.gamma(3, scale=1 / 2), kind)


def coins(kind: type[LogJoint] = LogJoint) -> Case:
    return conjugate(Coins(), [1.0, 0.0], "share", stats.beta(1.7, 2.5), kind)


CASES = {"two modes": quartic, "a positive latent": counts, "a latent in (0, 1)": coins}


def distance(case: Case, kernel: HMC, *, warmup: int = 0, steps: int = 4) -> float:
    """Return the Kolmogorov distance of the chains from the target, some transitions behind exact draws.

    Every chain counts as a datum of its own, so that a warm-up adapts it by itself.
    """
    one = {"position": case.draws} if isinstance(case.draws, Tensor) else case.draws
    start = {name: value[None] for name, value in one.items()}

    def log_prob(values: dict[str, Tensor]) -> Tensor:
        flat = {name: value[0] for name, value in values.items()}
        return case.log_prob(flat["position"] if isinstance(case.draws, Tensor) else flat)[None]

    packed = pack(log_prob, start)
    state = kernel.init(packed.log_prob, packed.position, warmup)
    for _ in range(steps):
        state, _ = kernel.step(packed.log_prob, state)
    assert (state.position != packed.position).double().mean() > 0.6  # chains that stay would pass any test
    end = {name: value[0] for name, value in packed.unpack(state.position).items()}
    return from_uniform(case.cdf(end["position"] if isinstance(case.draws, Tensor) else end))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_target_is_left_invariant(case: Callable[[], Case]) -> None:
    assert distance(case(), HMC(step_size=0.5, leapfrogs=3)) < BAND


def test_conservation_sees_what_it_says() -> None:
    """Numbers that are uniform, and numbers whose distribution is off by just the distance that is promised."""
    for seed in range(20):
        u = torch.rand(CHAINS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        assert from_uniform(u) < BAND < from_uniform((u - DETECTS).clamp_min(0))


def test_planted_mistakes_move_the_target() -> None:
    kernel = HMC(step_size=0.5, leapfrogs=3)
    assert distance(quartic(), Accepts(right, step_size=0.5, leapfrogs=3)) < BAND
    assert distance(quartic(), Accepts(always, step_size=0.5, leapfrogs=3)) > DETECTS
    assert distance(counts(), Accepts(without_kinetic, step_size=0.5, leapfrogs=3)) > DETECTS
    assert distance(counts(ForgetsJacobian), kernel) > DETECTS
    assert distance(coins(ForgetsJacobian), kernel) > DETECTS
    unfrozen = HMC(step_size=0.2, leapfrogs=3)  # each chain adapts its step size to where it is
    assert distance(counts(), unfrozen, warmup=10_000, steps=6) > DETECTS
    assert distance(counts(), unfrozen, steps=6) < BAND


# --- The warm-up ------------------------------------------------------------------------------------------------------

SPREADS = torch.tensor([[1.0, 0.01, 30.0], [0.2, 5.0, 1.0]], dtype=torch.float64)  # of two data
CENTRES = torch.tensor([[3.0, -1.0, 50.0], [0.0, 7.0, 0.1]], dtype=torch.float64)


def test_warmup_finds_scales_and_moments_of_every_datum() -> None:
    target = Normal(CENTRES, SPREADS)
    samples = lb.mcmc.run(
        HMC(leapfrogs=6), lambda z: target.log_prob(z).sum(-1), CENTRES + random(7, 11, 2, 3), warmup=300, draws=100
    )
    state = samples.state
    assert state.warmup is None
    assert (state.step_size.shape, state.variance.shape) == ((2,), (2, 3))
    torch.testing.assert_close(state.variance.sqrt() / SPREADS, torch.ones(2, 3).double(), rtol=0.3, atol=0)
    assert 0.7 < float(samples.stats["acceptance"].mean()) < 0.95
    found = samples.summary()["position"]
    assert (found["rhat"] < 1.1).all()
    assert ((found["mean"] - CENTRES).abs() < 5 * found["mcse"]).all()  # false alarms 6e-7 a number
    assert (found["mcse"] < 0.15 * SPREADS).all()
    torch.testing.assert_close(found["sd"], SPREADS, rtol=0.2, atol=0)


def test_warmup_leaves_no_chain_behind() -> None:
    """Where a few chains start, steps that suit all others diverge for ever: the curvature is 10,000 times as large."""
    start = random(9, 100, 2)
    start[:3] *= 60.0
    kernel = HMC(leapfrogs=4, target_acceptance=0.95)
    samples = lb.mcmc.run(kernel, lambda z: -(z**4).sum(-1) / 4, start, warmup=100, draws=20)
    assert samples.remarks == []
    assert (samples.draws["position"].abs() < 4).all()  # false alarms below 1e-20
    assert 0.8 < float(samples.stats["acceptance"].mean()) < 0.99


def test_step_size_stays_behind_the_warmup() -> None:
    kernel = HMC(leapfrogs=2)
    state = kernel.init(crooked, START.position, 60)
    for _ in range(59):
        state, _ = kernel.step(crooked, state)
        assert state.warmup is not None
    frozen, _ = kernel.step(crooked, state)
    later, _ = kernel.step(crooked, frozen)
    assert frozen.warmup is None
    assert later.step_size.equal(frozen.step_size)
    assert later.variance.equal(frozen.variance)
    assert not frozen.step_size.equal(torch.full_like(frozen.step_size, 0.1))


def test_dual_averaging_shrinks_towards_ten_times_its_start() -> None:
    """Acceptance at the target leaves the error at zero, so the step size is exp(mu) = 10 times where it began."""
    dual = adaptation.DualAveraging.start(torch.tensor([0.02, 3.0], dtype=torch.float64))
    dual = dual.update(torch.tensor(0.8, dtype=torch.float64), 0.8)
    torch.testing.assert_close(dual.log_step.exp(), torch.tensor([0.2, 30.0], dtype=torch.float64))


def test_welford_is_the_variance_of_all_positions() -> None:
    values = 1e6 + random(8, 9, 5, 2, 3)
    moments = adaptation.Moments.start(values[0, 0])
    for positions in values:
        moments = moments.update(positions)
    n = 45
    truth = (n * values.flatten(0, 1).var(0) + 5e-3) / (n + 5)
    torch.testing.assert_close(moments.variance(), truth, rtol=1e-8, atol=0)
    torch.testing.assert_close(moments.mean, values.mean((0, 1)), rtol=1e-14, atol=0)
