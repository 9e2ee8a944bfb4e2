"""Bits per dimension: where a model's log p(x) is known, where there are none, and that they are in the files."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import logistic

import lowerbound as lb
from lowerbound.data import Dataset
from lowerbound.evaluation import Scores

PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 3, 5, 2), dtype=np.uint8))


def model(likelihood="logistic", **options):
    """A model whose p(x | z) and q(z | x) do not depend on z and x: its ELBO is log p(x)."""
    torch.manual_seed(0)
    made = lb.models.ConvVAE(event_shape=(3, 5, 2), latent_dim=2, likelihood=likelihood, width=2, **options)
    with torch.no_grad():
        for parameter in [*made.posterior.parameters(), *made.generator.decoder.parameters()]:
            parameter.zero_()
        made.generator.decoder.body[-1].bias.fill_(0.4)
    return made


def test_bits_of_a_known_distribution():
    measures = ["elbo", "iwae-3"]
    found = lb.evaluate(model(), Dataset(PIXELS), measures).measures
    x, half, place = PIXELS.double().numpy() / 255, 0.5 / 255, 1 / (1 + math.exp(-0.4))
    upper = np.where(x == 1, 1, logistic.cdf(x + half, place, 0.1))
    lower = np.where(x == 0, 0, logistic.cdf(x - half, place, 0.1))
    bits = -np.log2(upper - lower).reshape(40, -1).mean(1)
    for name in measures:
        assert found[name]["bits_per_dim"] == pytest.approx(bits.mean(), rel=1e-5)
        assert found[name]["bits_per_dim_stderr"] == pytest.approx(bits.std(ddof=1) / math.sqrt(40), rel=1e-5)
        assert found[name]["bits_per_dim"] == pytest.approx(-found[name]["value"] / (30 * math.log(2)))


def test_mixtures_have_bits_and_files_keep_them(tmp_path):
    scores = lb.evaluate(model("logistic-mixture"), Dataset(PIXELS), "elbo", limit=5)
    scores.write(tmp_path)
    assert Scores.read(tmp_path).measures["elbo"]["bits_per_dim"] == scores.measures["elbo"]["bits_per_dim"] > 0


@pytest.mark.parametrize(
    "likelihood, options, data",
    [
        ("gaussian", {}, Dataset(PIXELS)),  # a density
        ("logistic", {"likelihood_options": {"levels": 9}}, Dataset(PIXELS % 9, levels=9)),
        ("bernoulli", {}, Dataset(PIXELS, binarize="threshold")),
    ],
)
def test_there_are_none_of_densities_other_levels_and_binarised_rows(likelihood, options, data):
    assert "bits_per_dim" not in lb.evaluate(model(likelihood, **options), data, "elbo").measures["elbo"]


def test_the_gap_of_bidirectional_annealing_has_none():
    found = lb.evaluate(model(), Dataset(PIXELS), ["bdmc", "elbo"], limit=2, chains=2, temperatures=3).measures
    assert ["bits_per_dim" in found[name] for name in ("bdmc", "elbo")] == [False, True]
