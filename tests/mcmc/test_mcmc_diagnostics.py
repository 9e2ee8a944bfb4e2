"""Diagnostics against closed forms and against ArviZ 0.23.4, whose numbers for the same draws stand here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from exact import random
from lowerbound.core.errors import ArgumentError
from lowerbound.mcmc import ess, ess_bulk, ess_tail, mcse, rhat

CHAINS, DRAWS = 4, 4000


def walk(phi: float, seed: int = 0, *, draws: int = DRAWS, rest: tuple[int, ...] = ()) -> Tensor:
    """Return stationary AR(1) chains ``[chains, draws, *rest]`` of variance 1."""
    noise = random(seed, CHAINS, draws, *rest)
    value, found = noise[:, 0], [noise[:, 0]]
    for t in range(1, draws):
        value = phi * value + math.sqrt(1 - phi**2) * noise[:, t]
        found.append(value)
    return torch.stack(found, 1)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, -0.5])
def test_ess_of_an_autoregression(phi: float) -> None:
    """n (1 - phi) / (1 + phi). The estimate's own spread is some 4 percent at 0.9: bars of 20 are 5 wide."""
    draws, truth = walk(phi), CHAINS * DRAWS * (1 - phi) / (1 + phi)
    bar = 0.2 if phi == 0.9 else 0.1
    assert float(ess(draws)) == pytest.approx(truth, rel=bar)
    assert float(ess_bulk(draws)) == pytest.approx(truth, rel=bar)  # ranks of a Gaussian are a Gaussian again
    assert float(mcse(draws)) == pytest.approx(1 / math.sqrt(truth), rel=bar)
    assert float(rhat(draws)) < 1.01


MANY = 400


@pytest.mark.parametrize("draws", [250, 1_000])
def test_ess_of_independent_draws_is_their_number(draws: int) -> None:
    """Over 400 sets. The estimate spreads by some 1.4 / sqrt(draws) and leans by one percent and a half, as the sum is
    cut where it looks best: a bar of 4 leaves 5 standard errors of the mean.
    """
    ratio = ess(random(3, CHAINS, draws, MANY)) / (CHAINS * draws)
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.04)
    assert float(ratio.std()) < 1.7 / math.sqrt(draws)
    planted = ess(walk(0.1, draws=draws, rest=(MANY,))) / (CHAINS * draws)
    assert float(planted.mean()) == pytest.approx(0.9 / 1.1, abs=0.04)


@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_mcse_is_the_error_of_the_mean(phi: float) -> None:
    """Means of 400 sets of draws, in units of their standard errors, have the variance 1 within 5 of its errors."""
    draws = walk(phi, draws=500, rest=(MANY,))
    z = draws.mean((0, 1)) / mcse(draws)
    bar = 5 * math.sqrt(2 / MANY)
    assert float(z.square().mean()) == pytest.approx(1.0, abs=bar)
    if phi:  # the error of as many independent draws
        assert float((draws.mean((0, 1)).square() * CHAINS * 500).mean()) > 1 + 5 * bar


def test_ess_does_not_count_lag_zero_twice() -> None:
    """ZhuSuan sums the autocorrelation from lag 0: n / 3 for independent draws."""
    assert float(ess(random(1, CHAINS, DRAWS))) > 0.9 * CHAINS * DRAWS


def test_numbers_are_those_of_arviz() -> None:
    """Three quantities at once: all but independent, a random walk with ties, one chain wider than the others."""
    growth = torch.tensor([0.0, 0.3, 0.02], dtype=torch.float64)
    draws = random(5, 4, 101, 3).cumsum(1) * growth + random(6, 4, 101, 3)
    draws[:, 50:60, 1] = draws[:, 49:50, 1]
    draws[0, :, 2] *= 3
    truth = {
        ess: [458.98002385096623, 4.8210084126056545, 340.0828798826192],
        ess_bulk: [466.8574699518946, 5.114616393569733, 331.01226049474275],
        ess_tail: [412.59581066674525, 10.974963495180942, 42.05369471325822],
        mcse: [0.04808892926398947, 1.9723005395414182, 0.09284497522429702],
        rhat: [1.0038986245629504, 2.5918142620669573, 1.1357790557937846],
    }
    for function, values in truth.items():
        torch.testing.assert_close(function(draws), torch.tensor(values, dtype=torch.float64), rtol=1e-10, atol=0)


def test_rhat_sees_shifts_scales_and_trends() -> None:
    draws = random(2, 4, 500)
    shifted, wider, drifting = draws.clone(), draws.clone(), draws.clone()
    shifted[0] += 2.0
    wider[0] *= 4.0
    drifting += torch.linspace(-1, 1, 500, dtype=torch.float64)
    assert float(rhat(draws)) < 1.01
    for planted in (shifted, wider, drifting):
        assert float(rhat(planted)) > 1.1
    assert float(ess_bulk(shifted)) < 30


def test_nothing_that_varies_has_no_numbers() -> None:
    draws = torch.ones(4, 20, dtype=torch.float64)
    assert all(math.isnan(float(function(draws))) for function in (ess, ess_bulk, rhat))


@pytest.mark.parametrize(
    "function, shape, chains",
    [
        (ess, (4, 9), 1),
        (ess_bulk, (9,), 1),
        (ess_tail, (4, 3), 1),
        (mcse, (0, 100), 1),
        (rhat, (1, 100), 2),
        (rhat, (4, 9), 2),
    ],
)
def test_too_few_chains_or_draws_are_refused(function, shape: tuple[int, ...], chains: int) -> None:
    with pytest.raises(
        ArgumentError, match=rf"{function.__name__}: expected .* at least {chains} chains? and 10 draws"
    ):
        function(torch.zeros(shape))
