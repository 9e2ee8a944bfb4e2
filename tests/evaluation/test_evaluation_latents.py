"""What the latents carry: the split of the KL term against integrals and closed forms, and units that collapse."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

import lowerbound as lb
import tiny
from lowerbound.evaluation import Gallery
from lowerbound.evaluation.aggregate import decompose

NAMES = ("kl", "mutual_information", "marginal_kl")


def gaussian(mean, scale) -> Distribution:
    return Independent(Normal(mean, scale), 1)


@pytest.mark.parametrize("prior", [Normal(0.0, 1.0), Normal(1.0, 2.0)])
def test_the_split_is_that_of_integrals(prior):
    """Three rows, each 500 times, with draws at even quantiles, so that sums over draws are integrals."""
    mean, scale = torch.tensor([-1.0, 0.2, 3.0]).double(), torch.tensor([0.5, 1.5, 0.3]).double()
    quantiles = (torch.arange(500).double() + 0.5) / 500
    z = (mean + scale * Normal(0.0, 1.0).icdf(quantiles)[:, None]).reshape(-1, 1)
    q = gaussian(mean.repeat(500)[:, None], scale.repeat(500)[:, None])
    found = decompose([q], z, prior.log_prob(z[:, 0]))

    grid = torch.linspace(-12, 12, 100_001).double()
    log_q = Normal(mean[:, None], scale[:, None]).log_prob(grid)
    log_all = log_q.logsumexp(0) - math.log(3)
    told = float(torch.trapezoid(log_q.exp() * (log_q - log_all), grid).mean())
    unfit = float(torch.trapezoid(log_all.exp() * (log_all - prior.log_prob(grid)), grid))
    assert found["rows"] == 1500
    assert [found[name]["value"] for name in NAMES] == pytest.approx([told + unfit, told, unfit], abs=3e-3)
    assert math.isclose(found["kl"]["value"], found["mutual_information"]["value"] + found["marginal_kl"]["value"])


def test_the_split_of_a_linear_gaussian_encoder():
    """z = a x + noise with x ~ N(0, 1): I = log(1 + a^2 / s^2) / 2 a unit, and q(z) = N(0, a^2 + s^2)."""
    torch.manual_seed(0)
    a, s = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 1.5, 0.8])
    mean = a * torch.randn(2000, 3)
    q = [gaussian(mean[:1200], s.expand(1200, 3)), gaussian(mean[1200:], s.expand(800, 3))]
    z = mean + s * torch.randn(2000, 3)
    prior = gaussian(torch.zeros(3), torch.ones(3))
    found = decompose(q, z, prior.log_prob(z))
    variance = a**2 + s**2
    told = float(0.5 * (variance / s**2).log().sum())
    unfit = float(0.5 * (variance - 1 - variance.log()).sum())
    for name, expected in zip(NAMES, (told + unfit, told, unfit), strict=True):
        # Five standard errors, and a hundredth of a nat for what 2,000 rows differ from all rows.
        assert found[name]["value"] == pytest.approx(expected, abs=5 * found[name]["stderr"] + 0.01)
        assert found[name]["stderr"] < 0.05


def test_rows_that_lie_apart_are_told_apart():
    q = gaussian(1000.0 * torch.arange(64.0)[:, None], torch.ones(64, 1))
    apart = decompose([q], q.mean, torch.zeros(64))["mutual_information"]
    assert (apart["value"], apart["stderr"]) == (pytest.approx(math.log(64)), pytest.approx(0, abs=1e-9))
    same = gaussian(torch.zeros(64, 2), torch.full((64, 2), 0.01))
    assert decompose([same], same.sample(), torch.zeros(64))["mutual_information"]["value"] == pytest.approx(
        0, abs=1e-9
    )


def test_every_family_says_the_same_of_one_gaussian():
    torch.manual_seed(1)
    mean, scale = torch.randn(30, 2).double(), torch.rand(30, 2).double() + 0.2
    families = [
        gaussian(mean, scale),
        MultivariateNormal(mean, torch.diag_embed(scale**2)),
        LowRankMultivariateNormal(mean, torch.full((30, 2, 1), 1e-9).double(), scale**2),
        MixtureSameFamily(
            Categorical(torch.ones(30, 3)), gaussian(mean[:, None].expand(30, 3, 2), scale[:, None].expand(30, 3, 2))
        ),
    ]
    z = families[0].sample()
    first, *others = (decompose([q], z, torch.zeros(30)) for q in families)
    for other in others:
        for name in NAMES:
            assert other[name] == pytest.approx(first[name], abs=1e-6)


def known(*, at_prior: int, constant: int):
    """A model of four latents, of which some are the prior for every row, and some the same for every row."""
    model = tiny.vae(hidden=(), latent_dim=4)
    head = model.posterior.encoder.head
    with torch.no_grad():
        for parameter in model.posterior.parameters():
            parameter.zero_()
        head.loc.weight[at_prior + constant :, 0] = 3.0
        head.log_variance.bias[at_prior:] = math.log(0.25)
    return model


@pytest.mark.parametrize("at_prior, constant", [(4, 0), (3, 0), (2, 1), (0, 0)])
def test_units_equal_to_the_prior_are_collapsed(at_prior, constant):
    latents = lb.evaluate(known(at_prior=at_prior, constant=constant), tiny.rows(40), "elbo").latents
    assert latents["collapsed_units"] == at_prior
    assert latents["active_units"] == 4 - at_prior - constant
    told = latents["aggregate"]["mutual_information"]
    if at_prior + constant == 4:
        assert told["value"] == pytest.approx(0, abs=1e-6)
    else:
        assert 0 < told["value"] <= math.log(40)
    assert latents["aggregate"]["kl"]["value"] == pytest.approx(
        sum(latents["unit_kl"]), abs=1.5 if at_prior < 4 else 1e-6
    )
    json.dumps(latents)


@pytest.mark.parametrize(
    "options, split",
    [
        ({}, True),
        ({"posterior": "full"}, True),
        ({"posterior": "mixture", "prior": "mixture"}, True),
        ({"prior": "vamp", "prior_options": {"components": 3}}, True),
        ({"prior": "maf"}, True),
        ({"posterior": "iaf"}, False),  # its density at a given z needs as many passes as there are units
    ],
)
def test_models_of_the_library(options, split, tmp_path):
    scores = lb.evaluate(tiny.vae(**options), tiny.rows(30), "elbo")
    assert ("aggregate" in scores.latents) is split
    scores.write(tmp_path)
    gallery = Gallery.read(tmp_path)
    assert gallery.draws.shape == (30, 2)
    assert (gallery.prior_draws is None) is ("prior" not in options)
    if "prior" in options:
        assert gallery.prior_draws.shape == (30, 2)
    if split:
        kl = scores.latents["aggregate"]["kl"]
        assert kl["value"] == pytest.approx(scores.measures["elbo"]["kl"], abs=6 * kl["stderr"])


def test_samplers_have_draws_and_no_split():
    model = lb.models.ImplicitVAE(event_shape=(4,), latent_dim=2)
    scores = lb.evaluate(model, lb.data.four_points(rows=8)[1], "is-5")
    assert scores.latents.keys().isdisjoint({"aggregate"})
    assert scores.latents["collapsed_units"] is None
    assert scores.gallery.draws.shape == (8, 2)
