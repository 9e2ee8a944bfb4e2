"""Rows with gaps: bounds are those of the values which are there, by closed forms of a linear Gaussian model."""

from __future__ import annotations

import math

import pytest
import torch

import lowerbound as lb
import tiny
from exact import LinearGenerator, farthest, gradients, linear_gaussian, random
from gaps import CASE, D, Exact, L, evidence, pair
from lowerbound.core.errors import ArgumentError, NodeError, RunError
from lowerbound.nn.likelihoods import LIKELIHOODS

B, K = 11, 7
SEEN = random(21, B, D) > -0.3
SEEN[0], SEEN[1] = True, False  # a row without gaps, and one with nothing else
ROWS = torch.where(SEEN, 2.0 * random(22, B, D), math.nan)
DOUBLE = {"likelihood": "gaussian", "likelihood_options": {"scale": "per-dimension"}, "missing": True}


# --- Truth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lb.elbo, lb.iw_objective], ids=["elbo", "iwae"])
def test_bound_at_the_exact_posterior_is_the_evidence_of_what_is_there(make):
    programs = pair().programs(ROWS)
    torch.testing.assert_close(make(*programs, particles=K).value, evidence(ROWS), rtol=0, atol=1e-10)
    found = lb.is_loglikelihood(*programs, particles=K, chunk=3)
    torch.testing.assert_close(found, evidence(ROWS), rtol=0, atol=1e-10)


def test_bound_of_an_empty_row_is_zero_where_the_posterior_is_the_prior():
    made = lb.iw_objective(*pair().programs(ROWS), particles=K)
    assert float(made.log_weights[:, 1].abs().max()) < 1e-12
    away = lb.elbo(*pair(Exact(0.5)).programs(ROWS), particles=K, analytic_kl=True)
    assert float(away.value[1]) == pytest.approx(-0.5 * L * 0.25, abs=1e-10)  # and elsewhere minus the divergence


def test_a_full_mask_changes_nothing():
    x = random(23, B, D)
    plain = lb.models.LatentVariableModel(CASE.generator(), Exact(0.3, 1.2))
    grads, values = [], []
    for model in (pair(Exact(0.3, 1.2)), plain):
        torch.manual_seed(1)
        made = lb.iw_objective(*model.programs(x), particles=K)
        values.append(made.value)
        grads.append(gradients(made.sgvb().sum(), model.generator))
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-12)
    assert farthest(*grads) < 1e-10
    torch.manual_seed(1)
    whole = lb.iw_objective(*pair(Exact(0.3, 1.2)).programs(ROWS), particles=K).value
    assert float((whole - values[0]).abs().max()) > 1.0  # the negative control: gaps do


def test_gradient_is_that_of_the_evidence_of_what_is_there():
    """At the exact posterior STL's gradient of the model is that of log p(x_obs), computed without latents."""
    model = pair()
    torch.manual_seed(1)
    made = lb.elbo(*model.programs(ROWS), particles=20_000)
    found = gradients(made.sgvb(stl=True).sum(), model.generator)["mean"]
    covariance = CASE.weight @ CASE.weight.T + torch.diag(CASE.noise**2)
    wanted = torch.zeros(D, dtype=torch.float64)
    for row, seen in zip(ROWS, SEEN, strict=True):
        if bool(seen.any()):
            wanted[seen] -= torch.linalg.solve(covariance[seen][:, seen], row[seen] - CASE.mean[seen])
    # The draws' noise: a standard error below 0.02 a value, of which the bar is more than five.
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.1)
    assert float(wanted.abs().max()) > 1.0


# --- The models of the library ----------------------------------------------------------------------------------------


def vae(**arguments) -> lb.models.VAE:
    torch.manual_seed(0)
    return lb.models.VAE(**{"event_shape": (D,), "latent_dim": L, "hidden": (8,), **DOUBLE, **arguments}).double()


def conv(**arguments) -> lb.models.ConvVAE:
    torch.manual_seed(0)
    return lb.models.ConvVAE(event_shape=(4, 4), latent_dim=2, width=2, features=3, missing=True, **arguments).double()


def test_encoder_sees_the_mean_in_a_gap_and_the_likelihood_nothing():
    model, center = vae(), random(5, D)
    model.standardize(center, torch.linspace(0.5, 2.0, D, dtype=torch.float64))
    filled = torch.where(SEEN, ROWS, center)
    torch.testing.assert_close(model.encode(ROWS).mean, model.encode(filled).mean, rtol=0, atol=1e-12)
    torch.manual_seed(1)
    made = lb.elbo(*model.programs(ROWS), particles=K)
    p_x = model.decode(made.draw.posterior["z"])
    wanted = torch.where(SEEN, p_x.base_dist.log_prob(filled), 0.0).sum(-1)
    torch.testing.assert_close(made.draw.log_likelihood(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [vae, conv], ids=["VAE", "ConvVAE"])
def test_complete_rows_are_treated_as_by_the_model_without_gaps(make):
    model, twin = make(), make(missing=False) if make is vae else conv()
    twin.posterior.missing = False
    x = (random(3, B, *model.event_shape) > 0).double()
    values = []
    for one in (model, twin):
        torch.manual_seed(1)
        values.append(lb.elbo(*one.programs(x), particles=K).value)
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-12)


OBJECTIVES = {
    "elbo": lambda m: lb.objectives.ELBO(m),
    "stl": lambda m: lb.objectives.ELBO(m, gradient="stl", particles=3),
    "iwae": lambda m: lb.objectives.IWAE(m, particles=3),
    "dreg": lambda m: lb.objectives.IWAE(m, particles=3, gradient="dreg"),
    "vimco": lambda m: lb.objectives.IWAE(m, particles=3, gradient="vimco"),
    "rws": lambda m: lb.objectives.RWS(m, particles=3),
    "sleep": lambda m: lb.objectives.RWS(m, particles=3, posterior_phase="both"),
}


def layered(**arguments) -> lb.models.HierarchicalVAE:
    torch.manual_seed(0)
    sizes = {"event_shape": (D,), "latent_dim": 3, "above": (2,), "hidden": (8,), "between": (4,)}
    return lb.models.HierarchicalVAE(**sizes, **DOUBLE, **arguments).double()


@pytest.mark.parametrize("make", [vae, conv, layered], ids=["VAE", "ConvVAE", "HierarchicalVAE"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_takes_gaps(name, make):
    """Gradients are finite, and the same whatever would stand in the gaps."""
    model = make()
    objective = OBJECTIVES[name](model)
    x = (random(3, B, *model.event_shape) > 0).double()
    x[random(4, *x.shape) > 0.4] = math.nan
    objective.validate(x)
    outcome = objective(x)
    assert bool(outcome.cost.isfinite())
    grads = gradients(outcome.cost, model)
    assert all(bool(grad.isfinite().all()) for grad in grads.values())
    assert max(float(grad.abs().max()) for grad in grads.values()) > 1e-4


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_takes_gaps(likelihood):
    """The value is the sum over what is there, whatever the distribution, and gradients are finite."""
    x = (3 * random(8, B, D).abs()).round().clamp(max=4)
    x = {"bernoulli": (x > 1).double(), "logistic": x / 255, "logistic-mixture": x / 255}.get(likelihood, x)
    model = vae(likelihood=likelihood, likelihood_options={})
    torch.manual_seed(1)
    gaps = ~SEEN
    made = lb.elbo(*model.programs(x.masked_fill(gaps, math.nan)), validate=True)
    p_x = model.decode(made.draw.posterior["z"]).base_dist
    wanted = p_x.log_prob(x).masked_fill(gaps, 0.0).sum(-1)
    torch.testing.assert_close(made.draw.log_likelihood(), wanted, rtol=0, atol=1e-10)
    assert all(bool(grad.isfinite().all()) for grad in gradients(made.sgvb().sum(), model).values())
    found = lb.evaluation.impute(model, x.masked_fill(gaps, math.nan), particles=20, draws=2)
    assert bool(found.mean.isfinite().all() and found.draws.isfinite().all())


def test_training_on_gaps_finds_the_spread_of_what_is_there():
    """Independent columns: the model can do no better than their Gaussians, whose entropy is known."""
    torch.manual_seed(3)
    x = torch.tensor([1.0, -2.0]) + torch.tensor([0.5, 2.0]) * torch.randn(2000, 2)
    x[torch.rand(2000, 2) < 0.4] = math.nan
    data = lb.data.Dataset(x, missing=True)
    torch.manual_seed(0)
    arguments = {"likelihood": "gaussian", "likelihood_options": {"scale": "per-dimension"}}
    model = lb.models.VAE(event_shape=(2,), latent_dim=1, hidden=(8,), missing=True, **arguments)
    model.standardize(*data.moments())
    run = tiny.fit(lb.objectives.IWAE(model, particles=5), data, epochs=4, batch_size=100, lr=1e-2)
    found = lb.evaluate(run.model, data, "iwae-20").measures["iwae-20"]
    entropy = sum(0.6 * (0.5 * math.log(2 * math.pi * math.e) + math.log(s)) for s in (0.5, 2.0))
    assert found["value"] == pytest.approx(-entropy, abs=0.12)  # five standard errors of 2000 rows are 0.12


def test_quadrature_is_that_of_what_is_there():
    model = lb.models.VAE(event_shape=(D,), latent_dim=1, hidden=(4,), **DOUBLE).double()
    scores = lb.evaluate(model, tiny.Rows(ROWS / 4), ["quadrature", "iwae-20000"], limit=4)
    exact, sampled = (torch.from_numpy(scores.rows[name]) for name in ("quadrature", "iwae-20000"))
    assert float(exact[1]) == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(sampled, exact, rtol=0, atol=0.1)


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_gaps_are_refused_by_a_model_that_was_not_told():
    objective = lb.objectives.ELBO(vae(missing=False))
    with pytest.raises(NodeError, match=r"values that are not finite.*missing=True of lb\.models\.VAE"):
        lb.objectives.ELBO(pair_without_mask()).validate(ROWS)
    with pytest.raises(NodeError, match="not finite|NaN"):
        objective.validate(ROWS)


def pair_without_mask() -> lb.models.LatentVariableModel:
    return lb.models.LatentVariableModel(CASE.generator(), Exact())


def test_quadrature_of_a_model_with_inputs_is_refused():
    class Shifted(LinearGenerator):
        def forward(self, bn, shift):
            super().forward(bn, len(shift))

    class Conditional(lb.models.LatentVariableModel):
        def programs(self, x):
            return lb.Programs(self.generator.bind(x), {"x": x}, self.posterior.bind(x))

    one = linear_gaussian(D, 1)
    model = Conditional(Shifted(one.weight, one.mean, one.noise), one.posterior())
    with pytest.raises(ArgumentError, match="measure 'quadrature': expected a generator of so many rows"):
        lb.evaluate(model, tiny.Rows(random(1, B, D)), "quadrature")


def test_run_without_gaps_cannot_impute(tmp_path):
    from lowerbound.runs import impute

    tiny.fit(out=tmp_path / "run", epochs=1)
    with pytest.raises(RunError, match=r"expected a model that takes gaps.*Train one with --missing"):
        impute(tmp_path / "run", "digits")
