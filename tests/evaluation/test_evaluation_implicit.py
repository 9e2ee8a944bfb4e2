"""What judges posteriors without a density: quadrature, importance sampling from a fit, and a re-fitted critic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Cauchy, Exponential, Normal

import exact
import lowerbound as lb
import tiny
from lowerbound.core.errors import ArgumentError, NodeError, NonFiniteError, ShapeError
from lowerbound.evaluation import calibration_error, fitted_gaussian, judge_critic, quadrature, refit_critic
from lowerbound.models import LatentVariableModel
from lowerbound.objectives import AVB
from lowerbound.recipes import RECIPES, train
from lowerbound.runs import encode, evaluate_run, reconstruct

# --- Quadrature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z_dim", [1, 2])
def test_quadrature_of_a_linear_gaussian_model_is_its_evidence(z_dim: int) -> None:
    case = exact.linear_gaussian(3, z_dim)
    x = exact.random(5, 7, 3)
    value, change = quadrature(case.generator(), x)
    assert value.dtype == torch.float64
    assert float((value - case.log_evidence(x)).abs().max()) < 1e-9
    assert float(change.max()) < 1e-9


def test_rows_that_repeat_are_the_rows_alone() -> None:
    case = exact.linear_gaussian(3, 2)
    x = exact.random(5, 3, 3)
    value, _ = quadrature(case.generator(), x)
    repeated, _ = quadrature(case.generator(), x[[2, 0, 2, 1, 1]])
    assert float((repeated - value[[2, 0, 2, 1, 1]]).abs().max()) < 1e-12


def test_a_likelihood_narrower_than_the_grid_is_refused() -> None:
    """Noise of 0.0005 against a step of 0.009: the sum misses the peak by whole nats."""
    case = exact.linear_gaussian(2, 2)
    case.noise = torch.full((2,), 0.0005, dtype=torch.float64)
    x = exact.random(1, 4, 2) @ case.weight.T + case.mean
    with pytest.raises(
        ArgumentError, match="expected a value that moves by at most 0.01 nats, got one .* Measure iwae"
    ):
        quadrature(case.generator(), x)


@pytest.mark.parametrize("noise", [0.05, 0.02])
def test_grids_are_refined_where_the_likelihood_is_narrow(noise: float) -> None:
    case = exact.linear_gaussian(2, 2)
    case.noise = torch.full((2,), noise, dtype=torch.float64)
    x = exact.random(1, 2, 2) @ case.weight.T + case.mean
    value, change = quadrature(case.generator(), x)
    assert float((value - case.log_evidence(x)).abs().max()) < 1e-6
    assert float(change.max()) < 1e-3


def test_rows_beyond_the_grid_are_refused() -> None:
    case = exact.linear_gaussian(2, 2)
    case.noise = torch.full((2,), 0.1, dtype=torch.float64)
    x = torch.stack([case.mean, case.mean + 12 * case.weight[:, 0]])
    with pytest.raises(ArgumentError, match="got 1 of 2 rows whose integrand lies on the edge of the grid"):
        quadrature(case.generator(), x)


class Pair(lb.BayesianNet):
    """Two latents, or one with a prior or a size of choice."""

    def __init__(self, prior: object, second: bool = False) -> None:
        super().__init__()
        self.prior, self.second = prior, second

    def forward(self, bn, n):
        z = bn.sample("z", self.prior(n), event_dims=1)
        if self.second:
            bn.sample("w", Normal(torch.zeros(n), 1.0))
        bn.sample("x", Bernoulli(logits=z.sum(-1)))


@pytest.mark.parametrize(
    "generator, message",
    [
        (Pair(lambda n: Normal(torch.zeros(n, 3), 1.0)), "one latent node of one or two numbers, got z of 3"),
        (Pair(lambda n: Normal(torch.zeros(n, 1), 1.0), second=True), "got z of 1, w of 1. Measure iwae-K, or is-K"),
        (Pair(lambda n: Cauchy(torch.zeros(n, 1), 1.0)), "prior within 7 standard deviations .* of its mass there"),
    ],
)
def test_models_that_quadrature_cannot_take(generator, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"measure 'quadrature': expected .*{message}"):
        quadrature(generator, torch.ones(2))


# --- Importance sampling from a fit -----------------------------------------------------------------------------------


class Draws(lb.BayesianNet):
    """The draws of an exact linear-Gaussian posterior, without its density."""

    def __init__(self, case: exact.LinearGaussian, scale: float = 1.0) -> None:
        super().__init__()
        self.gain, self.offset, self.tril = case.exact()
        self.scale = scale

    def forward(self, bn, x):
        noise = torch.randn(*bn.particles, len(x), 2, dtype=torch.float64)
        bn.implicit("z", x @ self.gain.T + self.offset + self.scale * noise @ self.tril.T)


def test_a_fit_to_draws_of_the_exact_posterior_gives_the_evidence() -> None:
    case = exact.linear_gaussian(3, 2)
    x = exact.random(5, 4, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        proposal = fitted_gaussian(Draws(case).bind(x), draws=20_000)
        found = lb.is_loglikelihood(case.generator().bind(4), {"x": x}, proposal, particles=2000)
        # Moments from 20,000 draws are off by 1 %; the weights then vary by as much, and their mean far less.
        assert float((found - case.log_evidence(x)).abs().max()) < 2e-3


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_poor_fit_stays_below_the_evidence_in_the_mean(scale: float) -> None:
    """400 estimates of E log w: above log p(x) with probability 1e-6 at most (a normal's 5 standard errors)."""
    case = exact.linear_gaussian(3, 2)
    x = exact.random(5, 1, 3).expand(400, 3)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        proposal = fitted_gaussian(Draws(case, scale).bind(x), draws=100)
        found = lb.is_loglikelihood(case.generator().bind(400), {"x": x}, proposal, particles=1)
    evidence = case.log_evidence(x[:1])
    assert float(found.mean() - 5 * found.std() / 20) < float(evidence) - 0.01
    assert float(found.mean() + 5 * found.std() / 20) < float(evidence) + 0.2


def test_fit_of_several_shapes_and_of_draws_on_a_line() -> None:
    class Q(lb.BayesianNet):
        def forward(self, bn, x):
            shared = torch.randn(*bn.particles, len(x), dtype=torch.float64)
            bn.implicit("a", 3 + 2 * shared, event_dims=0)
            bn.implicit("b", torch.stack([shared, shared], -1), event_dims=1)  # a singular covariance
            bn.implicit("c", shared[..., None, None].expand(*shared.shape, 2, 3), event_dims=2)

    trace = fitted_gaussian(Q().bind(torch.zeros(5))).run(particles=2000)
    assert {name: tuple(trace[name].shape) for name in trace} == {
        "a": (2000, 5),
        "b": (2000, 5, 2),
        "c": (2000, 5, 2, 3),
    }
    # 10,000 draws: a mean off by 0.25 is twelve standard errors.
    assert abs(float(trace["a"].mean()) - 3) < 0.25
    assert abs(float(trace["a"].std()) - 2) < 0.25
    assert all(bool(trace.log_prob(name).isfinite().all()) for name in trace)


def test_fits_that_cannot_be() -> None:
    class NaN(lb.BayesianNet):
        def forward(self, bn, x):
            bn.implicit("z", x + torch.full((*bn.particles, len(x)), math.nan), event_dims=0)

    with pytest.raises(NonFiniteError, match=r"measure 'is-K': expected finite draws of the posterior, got NaN"):
        fitted_gaussian(NaN().bind(torch.zeros(3)))


def test_latents_of_bounded_support_are_refused() -> None:
    """A Gaussian puts mass where the prior has none, and torch may not be looking."""

    class Positive(LatentVariableModel):
        class P(lb.BayesianNet):
            def forward(self, bn, n):
                z = bn.sample("z", Exponential(torch.ones(n, 1)), event_dims=1)
                bn.sample("x", Normal(z, 1.0), event_dims=1)

        class Q(lb.BayesianNet):
            def __init__(self) -> None:
                super().__init__()
                self.anchor = nn.Parameter(torch.zeros(()))

            def forward(self, bn, x):
                bn.implicit("z", torch.rand(*bn.particles, len(x), 1) + x.exp())

        def __init__(self) -> None:
            super().__init__(self.P(), self.Q())

    with pytest.raises(ArgumentError, match=r"measure 'is-K': expected latents on the whole real line, got node 'z'"):
        lb.evaluate(Positive(), tiny.Rows(torch.randn(20, 1)), "is-10")


# --- Critics ----------------------------------------------------------------------------------------------------------


def test_calibration_error_by_hand() -> None:
    logit = math.log(3)  # says 3 of 4, in float32: right to 1e-7
    mostly, seldom = torch.full((75,), logit), torch.full((25,), logit)
    assert calibration_error(torch.cat([mostly, -seldom]), torch.cat([seldom, -mostly])) == pytest.approx(0.0, abs=1e-7)
    assert calibration_error(torch.full((50,), logit), torch.full((50,), logit)) == pytest.approx(0.25)
    # Two kinds of draws, half of each kind in one bin: 0.25 too sure on one, right on the other.
    posterior = torch.cat([torch.full((50,), logit), torch.zeros(50)])
    contrast = torch.cat([torch.full((50,), logit), torch.zeros(50)])
    assert calibration_error(posterior, contrast) == pytest.approx(0.125)
    with pytest.raises(ShapeError, match=r"logits: expected two vectors of the same length, got \(90,\) and \(10,\)"):
        calibration_error(torch.zeros(90), torch.zeros(10))


def test_calibration_error_of_a_true_and_of_an_overconfident_critic() -> None:
    """z ~ N(1, 1) against N(0, 1): T* = z - 1/2. Bins of 2,000 draws are off by 1 % each; 4 % never happens."""
    torch.manual_seed(0)
    posterior, contrast = 1 + torch.randn(20_000), torch.randn(20_000)
    assert calibration_error(posterior - 0.5, contrast - 0.5) < 0.02
    assert calibration_error(3 * (posterior - 0.5), 3 * (contrast - 0.5)) > 0.08


class Shifted(LatentVariableModel):
    """q(z | x) = N(x, s^2) as a sampler, p(z) = N(0, 1): T* = log q - log p, and KL = (x^2 + s^2 - 1) / 2 - log s."""

    SCALE = 0.8

    class P(lb.BayesianNet):
        def forward(self, bn, n):
            z = bn.sample("z", Normal(torch.zeros(n, 1), 1.0), event_dims=1)
            bn.sample("x", Normal(z, 1.0), event_dims=1)

    class Q(lb.BayesianNet):
        def forward(self, bn, x):
            bn.implicit("z", x + Shifted.SCALE * torch.randn(*bn.particles, len(x), 1))

    class Exact(nn.Module):
        def forward(self, z, x):
            return (Normal(x, Shifted.SCALE).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).squeeze(-1)

    def __init__(self) -> None:
        super().__init__(self.P(), self.Q())
        self.critic = self.Exact()
        self.anchor = nn.Parameter(torch.zeros(()))  # a model without parameters has no device

    def fresh_critic(self) -> nn.Module:
        return lb.nn.MLPCritic((1,), 1, hidden=(64, 64))


def rows() -> torch.Tensor:
    return torch.tensor([[-1.0], [0.0], [0.5], [1.5]]).repeat(64, 1)


def closed_kl(x: torch.Tensor) -> torch.Tensor:
    return (0.5 * (x.square() + Shifted.SCALE**2 - 1) - math.log(Shifted.SCALE)).squeeze(-1)


def test_a_refitted_critic_comes_near_the_log_ratio() -> None:
    objective = AVB(Shifted(), learns="ratio")
    x = rows()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = refit_critic(objective, x, steps=1500)
        found = judge_critic(objective, fresh, x.split(100), len(x), draws=40)
    kl = closed_kl(x).numpy()
    # 10,240 draws of T* with a standard deviation of 1 to 2 nats: their mean is off by 0.02.
    assert abs(found["kl_claimed"].mean() - kl.mean()) < 0.08
    assert abs(found["kl_refitted"].mean() - kl.mean()) < 0.12
    assert found["distance"].mean() < 0.15
    assert found["loss_claimed"] < found["loss_refitted"] + 0.01  # nothing has a lower loss than T*
    assert found["calibration_error_claimed"] < 0.03
    assert found["accuracy_claimed"] == pytest.approx(found["accuracy_refitted"], abs=0.03)


def test_both_critics_judge_the_same_draws() -> None:
    objective = AVB(Shifted(), learns="ratio")
    found = judge_critic(objective, AVB(Shifted(), learns="ratio"), rows().split(64), 256)
    assert np.array_equal(found["kl_claimed"], found["kl_refitted"])
    assert not found["distance"].any()


@pytest.mark.parametrize("wrong", [False, True])
def test_the_measure_takes_the_nearer_critic(wrong: bool, monkeypatch) -> None:
    """A training's critic that is exact is kept; one that says twice the log-ratio is not."""
    model = Shifted()
    if wrong:
        monkeypatch.setattr(Shifted.Exact, "forward", lambda self, z, x: 2 * (z * x).sum(-1))
    data = tiny.Rows(rows())
    scores = lb.evaluate(model, data, "avb", objective=AVB(model, learns="ratio"))
    found = scores.measures["avb"]
    assert found["kind"] == "no bound"
    assert found["value"] == (found["refitted"] if wrong else found["claimed"])
    assert found["claimed"] == pytest.approx(found["reconstruction"] - found["kl_claimed"])
    kl, truth = found["reconstruction"] - found["value"], float(closed_kl(rows()).mean())
    assert abs(kl - truth) < 0.15
    assert abs(found["kl_claimed"] - truth) < 0.15 or wrong


def test_claims_of_no_critic_at_all_are_refused() -> None:
    model = Shifted()
    with pytest.raises(ArgumentError, match="measure 'avb': expected a model that was trained against a critic"):
        lb.evaluate(model, tiny.Rows(rows()), "avb")
    del Shifted.fresh_critic
    try:
        with pytest.raises(ArgumentError, match="measure 'avb': expected a model with a critic of its own, got none"):
            lb.evaluate(model, tiny.Rows(rows()), "avb", objective=AVB(model))
    finally:
        Shifted.fresh_critic = lambda self: lb.nn.MLPCritic((1,), 1, hidden=(64, 64))


def test_bounds_that_need_a_density_refuse_the_node_by_name() -> None:
    for measure in ("elbo", "iwae-10"):
        with pytest.raises(NodeError, match=r"node 'z': expected .*density"):
            lb.evaluate(Shifted(), tiny.Rows(rows()), measure)


# --- A run, from training to report -----------------------------------------------------------------------------------

SMALL = {"model_options": {"hidden": [16], "critic_hidden": [16]}, "training": {"epochs": 2}}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "avb"
    train(RECIPES["avb"].changed(**SMALL), out=folder, progress=False)
    return folder


def test_a_run_is_judged_by_quadrature_and_its_critic(run_folder) -> None:
    scores = evaluate_run(run_folder, limit=40)
    assert list(scores.measures) == ["avb", "quadrature"]
    assert scores.measures["quadrature"]["kind"] == "exact"
    assert scores.measures["quadrature"]["value"] < -math.log(4)
    assert "particles" not in scores.measures["quadrature"]
    assert bool(scores.gallery.drawn)
    page = lb.report.write(run_folder).read_text()
    for words in ("AVB training estimate", "no bound", "log p(x)", "calibration error", "re-fitted"):
        assert words in page
    sampled = evaluate_run(run_folder, ["is-100"], limit=40).measures
    assert sampled["is-100"]["value"] <= sampled["quadrature"]["value"] + 5 * sampled["is-100"]["stderr"]


def test_more_latents_are_judged_by_importance_sampling(tmp_path) -> None:
    train(RECIPES["avb"].changed(latent_dim=3, **SMALL), out=tmp_path / "run", progress=False)
    assert list(evaluate_run(tmp_path / "run", limit=20).measures) == ["avb", "is-1000"]


def test_codes_of_an_implicit_posterior_repeat(run_folder) -> None:
    first, second = (encode(run_folder, "four-points")[0] for _ in range(2))
    assert torch.equal(first, second)
    assert first[:4].std(0).min() > 0
    again = [reconstruct(run_folder, "four-points")[1] for _ in range(2)]
    assert torch.equal(*again)


@pytest.mark.slow
def test_the_default_recipe_divides_the_plane_among_the_four_points(tmp_path) -> None:
    train(RECIPES["avb"], out=tmp_path / "run", progress=False)
    measures = evaluate_run(tmp_path / "run").measures
    assert measures["quadrature"]["value"] > -1.395
    assert -measures["avb"]["reconstruction"] / 4 < 4e-3
