"""Annealed importance sampling and bidirectional Monte Carlo against evidences that are known.

False alarms: bars are 5 standard errors wide, 6e-7 a comparison, and seeds are fixed.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Bernoulli, Beta, Gamma, Normal, Poisson

import lowerbound as lb
from exact import LinearPosterior, linear_gaussian, random
from lowerbound.core.errors import ArgumentError, NodeError
from lowerbound.evaluation import ais, bdmc, fitted_gaussian, gaussian_start, quadrature
from lowerbound.evaluation.ais import Path, anneal, gradients, schedule_of, tune
from lowerbound.mcmc.hmc import HMCInfo, Point, leapfrog
from lowerbound.models import LatentVariableModel
from planted import ForgetsJacobian
from tiny import Rows

ais_module = sys.modules["lowerbound.evaluation.ais"]
X_DIM, Z_DIM, B = 5, 3, 7
CASE = linear_gaussian(X_DIM, Z_DIM)
X = random(9, B, X_DIM)
TRUTH = CASE.log_evidence(X)
GENERATOR = CASE.generator()
BAR = 5


def poor() -> LinearPosterior:
    """Return a posterior that is far from the exact one."""
    gain, offset, tril = CASE.exact()
    return LinearPosterior(0.7 * gain, offset + 0.2, 1.4 * tril)


# --- Truth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["sigmoid", "linear", [0.0, 0.3, 1.0]])
def test_from_the_exact_posterior_every_weight_is_the_evidence(schedule: Any) -> None:
    """The ratio of the ends is constant, whatever the transitions do."""
    start = CASE.posterior().bind(X)
    found = ais(GENERATOR.bind(B), {"x": X}, start, chains=3, temperatures=4, schedule=schedule)
    assert found.log_weights.dtype == torch.float64
    torch.testing.assert_close(found.log_weights, TRUTH.expand(3, B), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.ess, torch.full((B,), 3.0, dtype=torch.float64))


CHAINS = 2_000


def mean_weight(log_weights: Tensor, truth: Tensor) -> Tensor:
    """Return by how many standard errors the mean weight of each row is off."""
    relative = (log_weights - truth).exp()
    return (relative.mean(0) - 1) / (relative.std(0) / math.sqrt(len(relative)))


@pytest.mark.parametrize("initial, temperatures", [(None, 25), (poor().bind(X[:2]), 8)], ids=["prior", "poor"])
def test_weights_are_unbiased_in_both_directions(initial: Any, temperatures: int) -> None:
    """Few temperatures and 2,000 chains: E w = p(x) forward, E w = 1 / p(x) backward."""
    path = Path(GENERATOR.bind(2), {"x": X[:2]}, initial, chains=CHAINS)
    betas = schedule_of("sigmoid", temperatures)
    settings = tune(path, betas, leapfrogs=2)
    forward = anneal(path, path.draw(), betas, settings, leapfrogs=2)
    exact = path.flat({"z": CASE.posterior().bind(X[:2]).run(particles=CHAINS)["z"].detach()})
    backward = anneal(path, exact, betas, settings, leapfrogs=2, reverse=True)
    for found, truth in ((forward, TRUTH[:2]), (backward, -TRUTH[:2])):
        assert (mean_weight(found.log_weights, truth).abs() < BAR).all()
        assert (found.stderr < 0.3).all()  # the bars are narrow
        assert (found.log_weights.std(0) > 0.2).all()  # and the weights are not all the same


def accepts_all(evaluate: Any, point: Point, step_size: Tensor, variance: Tensor, leapfrogs: int) -> Any:
    momentum = torch.randn_like(point.position) / variance.sqrt()
    end, _ = leapfrog(evaluate, point, momentum, step_size, variance, leapfrogs)
    yes = torch.ones_like(end.log_prob)
    return end, HMCInfo(end.log_prob, yes, yes.bool(), ~yes.bool())


def test_planted_mistakes_bias_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(net: Any, guess: Any, x: Tensor, truth: Tensor) -> float:
        """Return how many standard errors the worst row is off."""
        betas = schedule_of("linear", 8)
        path = Path(net.bind(len(x)), {"x": x}, guess.bind(x), chains=CHAINS)
        found = anneal(path, path.draw(), betas, tune(path, betas, leapfrogs=2), leapfrogs=2)
        return float(mean_weight(found.log_weights, truth).abs().max())

    linear = GENERATOR, poor(), X[:2], TRUTH[:2]
    counts = Counts(), CountsGuess(), COUNTS, torch.from_numpy(stats.nbinom(2, 0.5).logpmf(COUNTS))
    assert max(off(*linear), off(*counts)) < BAR
    with monkeypatch.context() as planted:
        planted.setattr(ais_module, "transition", accepts_all)
        assert off(*linear) > 1.5 * BAR
    with monkeypatch.context() as planted:
        planted.setattr(ais_module, "LogJoint", ForgetsJacobian)
        assert off(*counts) > 1.5 * BAR


def test_linear_gaussian_model_within_two_hundredths_of_a_nat() -> None:
    model = LatentVariableModel(GENERATOR, poor())
    scores = lb.evaluate(model, Rows(X), "ais", chains=32, temperatures=300)
    found, error = scores.measures["ais"], scores.rows["ais"] - TRUTH.numpy()
    assert abs(error.mean()) < 0.02
    assert abs(error.mean()) < 1.96 * found["stderr_chains"]
    assert found["stderr_chains"] < 0.015
    assert (found["kind"], found["chains"], found["temperatures"], found["n"]) == ("lower bound", 32, 300, B)
    assert 0.5 < found["acceptance"] < 0.9
    assert 20 < found["ess"] <= 32
    elbo = lb.evaluate(model, Rows(X), "elbo-100").measures["elbo-100"]["value"]
    assert elbo < TRUTH.mean() - 0.2  # the posterior alone would not do


def test_gap_of_the_linear_gaussian_model() -> None:
    """Both bounds hold in the mean over 41 simulated rows, and meet."""
    torch.manual_seed(3)
    found = bdmc(LatentVariableModel(GENERATOR, poor()), 41, chains=8, temperatures=100)
    assert abs(float(found.gap.mean())) < 0.1
    assert abs(float(found.gap.mean())) < BAR * found.stderr
    assert found.stderr < 0.05
    assert (found.forward.log_weights.std(0) > 0.01).all()


def test_gap_opens_where_annealing_is_too_fast() -> None:
    """From the prior in two steps: the bounds lie far apart, and on their sides."""
    torch.manual_seed(3)
    model = LatentVariableModel(GENERATOR, poor())
    found = bdmc(model, 41, chains=2, temperatures=2, initial="prior")
    assert float(found.gap.mean()) > 1 + BAR * found.stderr


class Counts(lb.BayesianNet):
    """rate ~ Gamma(2, 1), n ~ Poisson(rate): negative binomial."""

    def forward(self, bn, rows):
        rate = bn.sample("rate", Gamma(torch.full((rows,), 2.0, dtype=torch.float64), 1.0))
        bn.sample("x", Poisson(rate))


class Coins(lb.BayesianNet):
    """share ~ Beta(0.7, 1.5), x ~ Bernoulli(share)."""

    def forward(self, bn, rows):
        share = bn.sample("share", Beta(torch.full((rows,), 0.7, dtype=torch.float64), 1.5))
        bn.sample("x", Bernoulli(share))


class CountsGuess(lb.BayesianNet):
    def forward(self, bn, x):
        bn.sample("rate", Gamma(1.5 + x, 1.0))


COUNTS = torch.arange(5.0).double()


@pytest.mark.parametrize(
    "net, guess, x, truth",
    [
        (Counts(), None, COUNTS, stats.nbinom(2, 0.5).logpmf(COUNTS)),
        (Counts(), CountsGuess(), COUNTS, stats.nbinom(2, 0.5).logpmf(COUNTS)),
        (Coins(), None, torch.tensor([0.0, 1.0]).double(), np.log([1.5 / 2.2, 0.7 / 2.2])),
    ],
    ids=["counts", "counts, from a guess", "coins"],
)
def test_constrained_latents(net: Any, guess: Any, x: Tensor, truth: Any) -> None:
    """Jacobians belong to both ends of the path."""
    start = None if guess is None else guess.bind(x)
    found = ais(net.bind(len(x)), {"x": x}, start, chains=200, temperatures=20)
    assert (found.stderr < 0.1).all()
    assert ((found.value - torch.from_numpy(truth)).abs() < BAR * found.stderr).all()
    assert gaussian_start(net.bind(len(x)), {"x": x}, net.bind(len(x))) is None


DECODERS = {
    "implicit": lambda: lb.models.ImplicitVAE(event_shape=(6,), latent_dim=2, hidden=(16,)),
    "flow": lambda: lb.models.VAE(event_shape=(6,), latent_dim=2, hidden=(16,), posterior="iaf"),
    "mixture prior": lambda: lb.models.VAE(event_shape=(6,), latent_dim=2, hidden=(16,), prior="mixture"),
}


@pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS)
def test_decoders_against_quadrature(make: Any) -> None:
    torch.manual_seed(0)
    model = make().double()
    with torch.no_grad():
        for weight in model.generator.decoder.parameters():
            weight.mul_(3.0)  # a posterior that is no Gaussian
    x = torch.eye(6, dtype=torch.float64)
    exact, _ = quadrature(model.generator, x)
    program, observed, posterior = model.programs(x)
    found = ais(program, observed, gaussian_start(program, observed, posterior), chains=50, temperatures=50)
    assert (found.stderr < 0.15).all()
    assert ((found.value - exact).abs() < BAR * found.stderr).all()
    assert torch.unique(exact.round(decimals=2)).numel() > 3


# --- Laws and behaviour -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sigmoid", "linear"])
@pytest.mark.parametrize("temperatures", [1, 2, 7, 1000])
def test_schedules_increase_from_0_to_1(name: str, temperatures: int) -> None:
    betas = schedule_of(name, temperatures)
    assert len(betas) == temperatures + 1
    assert schedule_of(betas, 1) == betas
    np.testing.assert_allclose(np.add(betas, betas[::-1]), 1.0)  # both are symmetric
    if name == "sigmoid" and temperatures > 3:
        steps = np.diff(betas)
        assert steps[0] == pytest.approx(steps[-1])
        assert steps[0] < 0.2 * steps[len(steps) // 2] or temperatures < 10


def test_start_of_a_gaussian_encoder_is_the_encoder() -> None:
    program, observed, posterior = LatentVariableModel(GENERATOR, poor()).programs(X)
    z = random(4, 1, B, Z_DIM)
    start, q = gaussian_start(program, observed, posterior), posterior.run({"z": z}, particles=1)
    torch.testing.assert_close(start.run({"z": z}, particles=1).log_joint(), q.log_joint())


def test_rows_repeat_with_the_seed_and_anneal_in_batches() -> None:
    model = lb.models.VAE(event_shape=(6,), latent_dim=2, hidden=(4,))
    data = Rows(torch.bernoulli(torch.full((130, 6), 0.5)))
    options: dict[str, Any] = {"measures": ["ais", "bdmc"], "chains": 30, "temperatures": 3, "limit": 70}
    one, two = (lb.evaluate(model, data, **options) for _ in range(2))  # 66 rows at once, and 4
    for name in ("ais", "bdmc"):
        np.testing.assert_array_equal(one.rows[name], two.rows[name])
        assert one.measures[name]["n"] == 70
        assert "particles" not in one.measures[name]
    gap = one.measures["bdmc"]
    assert gap["kind"] == "gap on simulated rows"
    assert gap["upper"] - gap["lower"] == pytest.approx(gap["value"], abs=1e-9)
    assert len(np.unique(one.rows["ais"])) > 60  # each row and each batch has noise of its own


@pytest.mark.parametrize("temperatures", [1, 2, 60])
@pytest.mark.parametrize("both_ways", [False, True])
def test_gradients_are_counted(monkeypatch: pytest.MonkeyPatch, temperatures: int, both_ways: bool) -> None:
    calls = []
    real = Path.evaluate
    monkeypatch.setattr(Path, "evaluate", lambda self, *rest: (calls.append(1), real(self, *rest))[1])
    model = LatentVariableModel(GENERATOR, poor())
    if both_ways:
        bdmc(model, 2, chains=2, temperatures=temperatures, leapfrogs=1)
    else:
        ais(GENERATOR.bind(B), {"x": X}, chains=2, temperatures=temperatures, leapfrogs=1)
    assert len(calls) == gradients(temperatures, leapfrogs=1, both_ways=both_ways)


def test_time_is_told_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    model = LatentVariableModel(GENERATOR, poor())
    lb.evaluate(model, Rows(X), ["ais", "bdmc"], chains=2, temperatures=2, progress=True)
    said = capsys.readouterr()
    assert said.out == ""
    for kind in ("ais", "bdmc"):
        assert re.search(rf"{kind}: about \d+ seconds? for 7 rows, 2 chains each, 2 temperatures", said.err)
    lb.evaluate(model, Rows(X), "ais", chains=2, temperatures=2)
    assert capsys.readouterr().err == ""


class Labelled(lb.BayesianNet):
    def forward(self, bn, n):
        label = bn.sample("label", Bernoulli(torch.full((n,), 0.5)))
        bn.sample("x", Normal(label[..., None].expand(*label.shape, X_DIM), 1.0), event_dims=1)


class Weighted(lb.BayesianNet):
    def forward(self, bn, n):
        z = bn.sample("z", Normal(torch.zeros(n, X_DIM), 1.0), event_dims=1, scale=2.0)
        bn.sample("x", Normal(z, 1.0), event_dims=1)


class Other(lb.BayesianNet):
    def forward(self, bn):
        bn.sample("w", Normal(torch.zeros(B, Z_DIM).double(), 1.0), event_dims=1)


class Sampler(lb.BayesianNet):
    def forward(self, bn):
        bn.implicit("z", torch.randn(*bn.particles, B, Z_DIM).double())


class Outside(lb.BayesianNet):
    def forward(self, bn):
        bn.sample("rate", Normal(torch.zeros(B).double(), 1.0))


@pytest.mark.parametrize(
    "net, initial, message",
    [
        (Labelled(), None, "node 'label': expected a continuous latent, got a discrete one"),
        (Weighted(), None, "node 'z': expected a whole latent, got a weighted one"),
        (GENERATOR, Other(), "initial distribution: expected the latents z, got w"),
        (GENERATOR, Sampler(), r"node 'z': expected a density, got an implicit draw. Start from .*fitted_gaussian"),
        (Counts(), Outside(), r"node 'rate' of the start: expected draws inside, got draws outside"),
    ],
)
def test_paths_without_two_densities_are_refused(net: Any, initial: Any, message: str) -> None:
    x = torch.ones(B).double() if isinstance(net, Counts) else X
    with pytest.raises(NodeError, match=message):
        ais(net.bind(B), {"x": x}, None if initial is None else initial.bind(), temperatures=2)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"schedule": [0.0, 0.7, 0.4, 1.0]},
            "schedule: expected numbers that increase from 0 to 1, got 0, 0.7",
        ),
        ({"schedule": [0.1, 1.0]}, "schedule: expected numbers that increase"),
        ({"schedule": "sigmoidal"}, "Did you mean 'sigmoid'"),
        ({"chains": 1}, "chains: expected at least two, got 1"),
        ({"temperatures": 0}, "temperatures: expected a positive integer"),
        ({"leapfrogs": 0}, "leapfrogs: expected a positive integer"),
    ],
)
@pytest.mark.parametrize("both_ways", [False, True])
def test_bad_arguments_are_refused(both_ways: bool, options: dict[str, Any], message: str) -> None:
    model = LatentVariableModel(GENERATOR, poor())
    one_way: tuple[Any, ...] = ais, GENERATOR.bind(B), {"x": X}
    measure, *arguments = (bdmc, model, B) if both_ways else one_way
    with pytest.raises(ArgumentError, match=message):
        measure(*arguments, **{"temperatures": 2, **options})


def test_fitted_start_is_a_start_like_any_other() -> None:
    start = fitted_gaussian(Sampler().bind(), draws=50)
    found = ais(GENERATOR.bind(B), {"x": X}, start, chains=100, temperatures=20)
    assert ((found.value - TRUTH).abs() < BAR * found.stderr).all()
