"""The discretised logistic against its definition in arithmetic of many digits, and its samples against itself."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Independent

from lowerbound.distributions import DiscretizedLogistic

LOCS = [-3.0, 0.0, 0.3, 0.5, 1.0, 4.0]
SCALES = [1e-6, 1e-4, 1e-2, 0.1, 1.0, 1e3, 1e6]
LEVELS = [2, 3, 17, 256, 65536]


def grid(levels: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.arange(levels, dtype=dtype) / (levels - 1)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("loc", LOCS)
def test_probabilities_sum_to_one(loc, scale, levels):
    x = DiscretizedLogistic(torch.tensor(loc, dtype=torch.float64), scale, levels)
    log_prob = x.log_prob(grid(levels))
    assert bool((log_prob <= 0).all())
    # A grid point is exact to 1e-16, which counts in units of the scale; the rest is rounding of a sum of logarithms.
    assert float(log_prob.exp().sum()) == pytest.approx(1.0, abs=1e-11 + 1e-15 / scale)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("loc", LOCS)
def test_float32_is_finite_into_the_far_tails_with_its_gradient(loc, scale, levels):
    loc, scale = torch.full((levels,), loc, requires_grad=True), torch.full((levels,), scale, requires_grad=True)
    log_prob = DiscretizedLogistic(loc, scale, levels).log_prob(grid(levels, torch.float32))
    for numbers in (log_prob, *torch.autograd.grad(log_prob.sum(), (loc, scale))):
        assert bool(numbers.isfinite().all())


@pytest.mark.parametrize("loc", [-3.0, 0.31, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("scale", [2e-3, 0.05, 0.7, 300.0])
@pytest.mark.parametrize("levels", [2, 5, 256])
def test_log_prob_is_its_definition(loc, scale, levels):
    """log(F(x + h) - F(x - h)) with 900 digits, so that the difference may be taken as it is written."""
    x = grid(levels)[:: max(1, (levels - 1) // 4)]
    found = DiscretizedLogistic(torch.tensor(loc, dtype=torch.float64), scale, levels).log_prob(x)
    with mpmath.workdps(900):
        half, loc, scale = mpmath.mpf(1) / (2 * (levels - 1)), mpmath.mpf(loc), mpmath.mpf(scale)

        def cdf(edge):
            return 1 / (1 + mpmath.exp(-(edge - loc) / scale))

        for value, log_prob in zip(x.tolist(), found.tolist(), strict=True):
            step = round(value * (levels - 1))
            point = mpmath.mpf(step) / (levels - 1)
            upper = 1 if step == levels - 1 else cdf(point + half)
            lower = 0 if step == 0 else cdf(point - half)
            assert log_prob == pytest.approx(float(mpmath.log(upper - lower)), rel=1e-11, abs=1e-13)


def test_float32_agrees_with_float64():
    x = grid(256)
    for loc in LOCS:
        for scale in (1e-2, 0.1, 1.0):
            wide = DiscretizedLogistic(torch.tensor(loc, dtype=torch.float64), scale).log_prob(x)
            narrow = DiscretizedLogistic(torch.tensor(loc), scale).log_prob(x.float())
            # Rounding 6e-8 of a point, of the location and of each sum, in units of the scale.
            torch.testing.assert_close(narrow.double(), wide, rtol=2e-6, atol=1e-6 / scale)


# Chi-square tests of samples against log_prob: a false alarm in 1e6 runs, and none here, as the seed is fixed.
FALSE_ALARM = 1e-6
DRAWS = 20_000
SAMPLED = [(0.4, 0.1, 17), (0.0, 0.05, 8), (1.2, 0.2, 5), (0.5, 3.0, 256), (0.77, 1e-3, 256), (0.5, 0.02, 2)]


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Return the statistic and the bound that it passes with the chance of a false alarm; rare points are one bin."""
    expected = probabilities * counts.sum()
    rare = expected < 10
    o, e = (np.append(part[~rare], part[rare].sum()) for part in (counts, expected))
    keep = e > 0
    o, e = o[keep], e[keep]
    return float(((o - e) ** 2 / e).sum()), float(stats.chi2.isf(FALSE_ALARM, max(len(e) - 1, 1)))


def counts_and_probabilities(loc: float, scale: float, levels: int) -> tuple[np.ndarray, np.ndarray]:
    x = DiscretizedLogistic(torch.tensor(loc), scale, levels)
    steps = (x.sample((DRAWS,)) * (levels - 1)).round().long()
    exact = DiscretizedLogistic(torch.tensor(loc, dtype=torch.float64), scale, levels).log_prob(grid(levels)).exp()
    return np.bincount(steps.numpy(), minlength=levels).astype(float), exact.numpy()


@pytest.mark.parametrize("loc, scale, levels", SAMPLED)
def test_samples_follow_log_prob(loc, scale, levels):
    counts, probabilities = counts_and_probabilities(loc, scale, levels)
    statistic, bound = chi_square(counts, probabilities)
    assert statistic < bound


@pytest.mark.parametrize("loc, scale, levels", SAMPLED[:2])
def test_samples_of_another_distribution_would_be_found_out(loc, scale, levels):
    counts, _ = counts_and_probabilities(loc, scale, levels)
    for wrong in ((loc + 0.01, scale), (loc, 1.1 * scale)):
        _, probabilities = counts_and_probabilities(*wrong, levels)
        statistic, bound = chi_square(counts, probabilities)
        assert statistic > bound


def test_shapes_and_support_of_samples():
    loc, scale = torch.zeros(5, 1), torch.ones(7)
    x = DiscretizedLogistic(loc, scale, 4, validate_args=True)
    assert x.batch_shape == (5, 7)
    assert x.event_shape == ()
    draws = x.sample((3, 2))
    assert draws.shape == (3, 2, 5, 7)
    assert set((draws * 3).round().unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert x.log_prob(draws).shape == draws.shape
    assert x.sample().shape == (5, 7)
    assert not x.has_rsample
    assert x.mean.shape == (5, 7)
    assert not DiscretizedLogistic(loc.requires_grad_(), scale).sample().requires_grad


def test_expanding_changes_the_batch_and_nothing_else():
    x = DiscretizedLogistic(torch.tensor([0.2, 0.6]), 0.1, 9)
    wide = x.expand(torch.Size((3, 2)))
    assert (wide.batch_shape, wide.levels) == ((3, 2), 9)
    assert wide.log_prob(torch.tensor(0.5)).equal(x.log_prob(torch.tensor(0.5)).expand(3, 2))
    assert Independent(x, 1).expand((4,)).log_prob(torch.zeros(2)).shape == (4,)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_support_is_the_grid(levels, dtype):
    x = DiscretizedLogistic(torch.zeros((), dtype=dtype), 1.0, levels, validate_args=True)
    points = grid(levels, dtype)
    assert bool(x.support.check(points).all())
    assert bool(x.support.check((points * (levels - 1)) / (levels - 1)).all())
    x.log_prob(points)
    between = (points[:-1] + points[1:]) / 2
    outside = torch.tensor([-1 / (levels - 1), 1 + 1 / (levels - 1), torch.nan, torch.inf], dtype=dtype)
    for bad in (between, outside):
        assert not bool(x.support.check(bad).any())
        with pytest.raises(ValueError, match="within the support"):
            x.log_prob(bad)


def test_parameters_are_checked_on_demand():
    with pytest.raises(ValueError, match="scale"):
        DiscretizedLogistic(torch.zeros(()), -1.0, validate_args=True)
