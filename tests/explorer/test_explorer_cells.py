"""Rows of tables as cells: names, levels, means and probabilities are those of the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.explorer import cells


def test_columns_are_described(people):
    described = cells.describe(people.observed(range(40)), people.columns)
    assert [column["name"] for column in described] == ["age", "city", "visits", "stage", "smoker"]
    assert described[1]["levels"] == ["Bonn", "Kyiv", "Lima", "Nice", "Oslo", "Rome", "Turin", "Vaduz"]
    ages = people.observed(range(40))[:, 0]
    assert (described[0]["low"], described[0]["high"]) == (float(ages.min()), float(ages.max()))
    assert described[1]["low"] == 0.0  # the gap is left out


def test_observed_cells(people):
    (first, second) = cells.observed(people.observed([0, 1]), people.columns)
    assert first[1] is None
    row = people.observed([1])[0]
    assert second[0] == {"value": float(row[0]), "spread": None}
    assert second[4] == {"level": int(row[4]), "shares": None}


def test_decoded_cells_are_the_distributions(people):
    z = torch.randn(3, 2)
    p = people.decode(z)
    shown = cells.decoded(p, people.columns)
    normal, counts, coded = p.base_dist.parts
    for k, row in enumerate(shown):
        assert row[0]["value"] == pytest.approx(float(p.mean[k, 0]), rel=1e-5)
        assert row[0]["spread"] == pytest.approx(float(normal.stddev[k, 0]), rel=1e-5)
        assert row[2]["value"] == pytest.approx(float(counts.mean[k, 0]), rel=1e-5)
        for place, column, levels in ((1, 0, 8), (3, 1, 3), (4, 2, 2)):
            np.testing.assert_allclose(row[place]["shares"], coded.probs[k, column, :levels].detach(), atol=1e-4)
            assert len(row[place]["shares"]) == levels
            assert row[place]["level"] == int(p.mode[k, place])


@pytest.mark.parametrize("likelihood, known", [("gaussian", True), ("bernoulli", False), ("logistic-mixture", False)])
def test_numbers(likelihood, known):
    model = lb.models.VAE(event_shape=(2, 3, 4), latent_dim=2, hidden=(4,), likelihood=likelihood)
    p = model.decode(torch.zeros(2, 2))
    shown = cells.decoded(p, None)
    assert [cell["value"] for cell in shown[1]] == pytest.approx(p.mean[1].flatten().tolist())
    assert all((cell["spread"] is not None) is known for cell in shown[0])
    assert cells.describe(torch.zeros(2, 2, 3, 4), None)[23]["name"] == "v23"


def test_wide_rows_are_cut():
    assert len(cells.describe(torch.rand(2, 999), None)) == cells.MOST_COLUMNS
    assert len(cells.observed(torch.rand(2, 999), None)[0]) == cells.MOST_COLUMNS
