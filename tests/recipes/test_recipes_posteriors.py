"""Every posterior with every prior: trained, evaluated, saved, loaded and rebuilt, with the same scores."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

import lowerbound as lb
from lowerbound import runs
from lowerbound.data.dataset import Dataset
from lowerbound.nn import POSTERIORS, PRIORS
from lowerbound.recipes import RECIPES, train

SMALL = {"hidden": [8]}
OPTIONS = {
    **{name: {"transforms": 2, "hidden": [6]} for name in ("iaf", "maf", "nsf", "coupling")},
    "planar": {"transforms": 2},
    "mixture": {"components": 3},
    "vamp": {"components": 3},
}
PAIRS = list(itertools.product(POSTERIORS, PRIORS))
QUICK = {("diagonal", prior) for prior in PRIORS} | {(posterior, "standard") for posterior in POSTERIORS}
QUICK |= {("iaf", "maf"), ("planar", "vamp")}


def recipe(posterior: str, prior: str, **changes):
    return RECIPES["vae"].changed(
        data="four-points",
        latent_dim=2,
        model_options={
            **SMALL,
            "posterior": posterior,
            "posterior_options": OPTIONS.get(posterior),
            "prior": prior,
            "prior_options": OPTIONS.get(prior),
        },
        steps=2,
        validation=0.0,
        **changes,
    )


@pytest.mark.parametrize(
    "posterior, prior", [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in PAIRS]
)
def test_every_posterior_with_every_prior(posterior, prior, tmp_path):
    run = train(recipe(posterior, prior), out=tmp_path / "run", progress=False)
    before = lb.evaluate(run.model, runs.load_data(run), ["elbo-3", "iwae-5"], limit=20)
    after = runs.evaluate_run(tmp_path / "run", ["elbo-3", "iwae-5"], limit=20)
    assert before.measures == after.measures
    loaded = lb.load(tmp_path / "run").model
    description = json.loads(json.dumps(run.model.describe()))
    assert loaded.describe() == description
    assert (description["arguments"]["posterior"], description["arguments"]["prior"]) == (posterior, prior)
    twin = lb.models.VAE(**description["arguments"])
    twin.load_state_dict(run.model.state_dict())
    x = torch.eye(4)
    assert twin.encode(x).mean.equal(loaded.encode(x).mean)
    assert twin.reconstruct(x).shape == (4, 4)
    assert twin.prior().log_prob(torch.zeros(2)).equal(loaded.prior().log_prob(torch.zeros(2)))
    assert loaded.sample(3)["x"].shape == (3, 4)


@pytest.mark.parametrize("prior", PRIORS)
@torch.no_grad()
def test_log_p_by_quadrature_is_the_mean_over_the_priors_draws(prior):
    torch.manual_seed(0)
    options = {"prior": prior, "prior_options": OPTIONS.get(prior)}
    model = lb.models.VAE(event_shape=(4,), latent_dim=2, hidden=(8,), activation="tanh", **options)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape) / max(1, parameter.shape[-1]) ** 0.5)
    data = Dataset(torch.eye(4).to(torch.uint8), name="points")
    found = lb.evaluate(model, data, "quadrature").rows["quadrature"]
    z = model.prior().sample((40_000,))
    likelihood = model.decode(z.unsqueeze(1)).log_prob(torch.eye(4)).exp().double()
    mean, error = likelihood.mean(0), likelihood.std(0) / 200
    # Four means, each off by more than 6 of its standard errors with probability 2e-9.
    assert bool(((mean - torch.from_numpy(found).exp()).abs() < 6 * error).all())
    assert bool((error < 0.01 * mean).all())


def test_pseudo_inputs_start_as_rows_of_the_data(tmp_path):
    run = train(recipe("diagonal", "vamp", training={"lr": 1e-12}), out=tmp_path / "run", progress=False)
    rows = run.model.generator.prior.pseudo_inputs.detach()
    torch.testing.assert_close(rows, rows.round(), rtol=0, atol=1e-6)
    assert rows.sum(1).tolist() == pytest.approx([1, 1, 1])  # each of the four points has one 1
