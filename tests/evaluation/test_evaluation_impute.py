"""Imputation against the conditional Gaussians of a linear model."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
import torch

import lowerbound as lb
from exact import random
from gaps import CASE, D, Exact, pair
from lowerbound.core.errors import ArgumentError, NonFiniteError
from lowerbound.evaluation import impute

B = 7
SEEN = random(31, B, D) > -0.2
SEEN[0], SEEN[1] = True, False
ROWS = torch.where(SEEN, 2.0 * random(32, B, D), math.nan)

# False alarms: bars are five standard errors wide, 6e-7 a comparison, and the seeds are fixed.
BAR = 5


def conditional(row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and covariance of the gaps of a row given the values which are there."""
    gap, seen = row.isnan(), ~row.isnan()
    covariance = CASE.weight @ CASE.weight.T + torch.diag(CASE.noise**2)
    gain = torch.linalg.solve(covariance[seen][:, seen], covariance[seen][:, gap]).T
    mean = CASE.mean[gap] + gain @ (row[seen] - CASE.mean[seen])
    return mean, covariance[gap][:, gap] - gain @ covariance[seen][:, gap]


def model(shift: float = 0.0, spread: float = 1.0) -> lb.models.LatentVariableModel:
    return pair(Exact(shift, spread))


@pytest.mark.parametrize("shift, spread", [(0.0, 1.0), (0.3, 1.3)], ids=["exact", "another posterior"])
def test_mean_is_the_conditional_mean(shift, spread):
    k = 20_000
    found = impute(model(shift, spread), ROWS, particles=k, chunk=3000)
    assert bool(found.mean[SEEN].equal(ROWS[SEEN]))
    assert found.draws.shape == (0, B, D)
    for row, filled, effective in zip(ROWS, found.mean, found.particles, strict=True):
        gap = row.isnan()
        mean, covariance = conditional(row)
        error = (filled[gap] - mean).abs() / (covariance.diagonal().sqrt() / effective.sqrt())
        assert bool((error < BAR).all())
    assert bool((found.particles <= k + 1e-6).all())
    if shift == 0.0:
        assert bool((found.particles > k - 1e-3).all())  # equal weights
    else:
        assert float(found.particles.min()) < 0.8 * k


def test_weights_are_what_mends_a_poor_posterior():
    """The negative control: one particle has weight 1, and follows the posterior wherever it lies."""
    rows = ROWS[2:3].expand(20_000, -1)
    gap = rows[0].isnan()
    plain = impute(model(0.3, 1.3), rows, particles=1).mean[:, gap].mean(0)
    assert float((plain - conditional(rows[0])[0]).abs().max()) > 0.1


def test_draws_have_the_conditional_moments():
    rows = ROWS[2:5]
    m = 1000
    found = impute(model(0.3, 1.3), rows, particles=1000, draws=m, chunk=300).draws
    assert found.shape == (m, 3, D)
    assert bool((found[:, SEEN[2:5]] == rows[SEEN[2:5]]).all())
    for at, row in enumerate(rows):
        gap = row.isnan()
        mean, covariance = conditional(row)
        draws = found[:, at, gap]
        # Draws of one call share their particles, so the bar is that of some 300 independent ones.
        bar = BAR / math.sqrt(300)
        assert bool(((draws.mean(0) - mean).abs() < bar * covariance.diagonal().sqrt()).all())
        scale = covariance.diagonal().sqrt()
        assert bool(((draws.T.cov().reshape(covariance.shape) - covariance).abs() < 2 * bar * scale.outer(scale)).all())


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_chunks_add_up(chunk):
    """Equal weights, so any split of the particles gives a mean of all of them, and each is chosen as often."""
    torch.manual_seed(1)
    found = impute(model(), ROWS, particles=50, draws=400, chunk=chunk)
    torch.testing.assert_close(found.particles, torch.full((B,), 50.0, dtype=torch.float64))
    assert len(found.draws[:, 1, 0].unique()) > 40  # of 400 draws from 50 particles, 50 (1 - e^-8) are distinct


def test_bernoulli_rows_are_filled_with_probabilities_and_bits():
    torch.manual_seed(0)
    vae = lb.models.VAE(event_shape=(4, 4), latent_dim=2, hidden=(8,), missing=True)
    x = torch.ones(B, 4, 4)
    x[:, :2] = math.nan
    found = impute(vae, x, particles=20, draws=3)
    assert bool(((found.mean[:, :2] > 0) & (found.mean[:, :2] < 1)).all())
    assert bool(((found.draws == 0) | (found.draws == 1)).all())
    assert found.mean.dtype == x.dtype


def test_bad_input():
    with pytest.raises(ArgumentError, match="model: expected one that takes gaps.*missing=True"):
        impute(lb.models.VAE(event_shape=(4,), latent_dim=2, hidden=(8,)), torch.ones(2, 4))
    for name, value in (("particles", 0), ("chunk", 0), ("draws", -1), ("draws", True)):
        with pytest.raises(ArgumentError, match=name):
            impute(model(), ROWS, **{name: value})
    far = ROWS.clone()
    far[3, SEEN[3]] = 1e200
    with pytest.raises(NonFiniteError, match="impute: expected a finite weight a row, got none in row 3"):
        impute(model(), far, particles=3)


NO_WEIGHT = {
    "a chunk without any": ([-math.inf, -math.inf], [5.0, 5.0], [-3.0, -3.0], [2.0, 2.0]),
    "no finite mean": ([-3.0, -3.0], [2.0, 2.0], [-3.0, -math.inf], [2.0, math.inf]),
    "none beside a later chunk": ([-3000.0, -3000.0], [math.inf, 5.0], [-3.0, -3.0], [2.0, 2.0]),
}


@pytest.mark.parametrize("case", NO_WEIGHT)
def test_particles_of_no_weight_count_for_nothing(case, monkeypatch):
    x = torch.tensor([[1.0, math.nan]])
    first, second = NO_WEIGHT[case][:2], NO_WEIGHT[case][2:]
    counted = sum(w == -3.0 for w in first[0] + second[0])
    chunks = iter([first, second])

    def fake(*programs, particles):
        log_weights, means = (torch.tensor(values)[:, None] for values in next(chunks))
        node = SimpleNamespace(mask=~x.isnan(), distribution=SimpleNamespace(mean=means[..., None].expand(2, 1, 2)))
        return SimpleNamespace(log_weights=lambda: log_weights, model=SimpleNamespace(node=lambda name: node))

    monkeypatch.setattr(sys.modules["lowerbound.evaluation.impute"], "draw", fake)
    programs = SimpleNamespace(programs=lambda x: (None, None, None))
    found = impute(programs, x, particles=4, chunk=2)
    assert found.mean.tolist() == [[1.0, 2.0]]
    assert found.particles.tolist() == pytest.approx([counted])
