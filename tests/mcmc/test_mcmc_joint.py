"""Sampler and program together, against data that the program made: Geweke's test, and simulation-based calibration.

Both hold for any program, whether its posterior is known or not. Each states how rarely a true sampler fails, and what
it detects; planted mistakes must fail it.

Source: Geweke, Getting It Right (2004); Talts, Betancourt, Simpson, Vehtari and Gelman, Validating Bayesian Inference
Algorithms with Simulation-Based Calibration (2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Beta, Gamma, Normal

import lowerbound as lb
from bands import band_of_two, between, enough
from lowerbound.mcmc import HMC, LogJoint, pack
from planted import Accepts, ForgetsJacobian, KeepsData, NeverFreezes, always, right, without_kinetic

# Where the scale is small a density is steep, and some transitions diverge; chains of planted mistakes may never move.
pytestmark = pytest.mark.filterwarnings("ignore::lowerbound.core.errors.SamplingWarning")

Values = dict[str, Tensor]
FALSE_ALARM = FALSE_PASS = 1e-6  # of all comparisons of a run together


class Shares(lb.BayesianNet):
    """Two latents with constraints, and two values of each of many data sets, which count as rows."""

    def forward(self, bn, rows):
        one = torch.ones(rows, dtype=torch.float64)
        scale = bn.sample("scale", Gamma(3 * one, 3.0))
        share = bn.sample("share", Beta(2 * one, 3.0))
        bn.sample("y", Normal(share[..., None].expand(*share.shape, 2), scale[..., None]), event_dims=1)


NET = Shares()


def simulate(rows: int) -> Values:
    """Return draws of everything, each ``[1, rows, *event]``."""
    trace = NET.bind(rows).run(particles=1)
    return {name: trace[name] for name in ("scale", "share", "y")}


def fit(values: Values) -> Tensor:
    """Return log p(y | latents)."""
    return Normal(values["share"][..., None], values["scale"][..., None]).log_prob(values["y"]).sum(-1)


# --- Geweke -----------------------------------------------------------------------------------------------------------
# One simulator draws latents and data from the program. The other moves the latents by the sampler given the data, and
# draws the data anew given the latents, by turns. Both have the joint distribution of latents and data: it is looked at
# between the two halves of a turn, when the data are older than the latents.

STATISTICS: dict[str, Callable[[Values], Tensor]] = {
    "scale": lambda v: v["scale"],
    "share": lambda v: v["share"],
    "y": lambda v: v["y"][..., 0],
    "spread of y": lambda v: (v["y"][..., 0] - v["y"][..., 1]).abs(),
    "spread of y by scale": lambda v: (v["y"][..., 0] - v["y"][..., 1]).abs() / v["scale"],
    "log p(y | latents)": fit,
}
SHARE = FALSE_ALARM / len(STATISTICS)
DETECTS = 0.05  # a Kolmogorov distance that is let through with probability 1e-6 at most


def geweke(rows: int, kernel: HMC, kind: type[LogJoint] = LogJoint, turns: int = 6) -> float:
    """Return the largest Kolmogorov distance between the simulators, over the statistics; rows are independent."""
    program, now = NET.bind(rows), simulate(rows)
    y = now.pop("y")
    target = kind(program, {"y": y[0]})
    for turn in range(turns):
        if turn:
            y = program.run(now, particles=1)["y"]
            target = target.given(program, {"y": y[0]})
        packed = pack(target, target.unconstrain(now))
        state, _ = kernel.step(packed.log_prob, kernel.init(packed.log_prob, packed.position))
        assert (state.position != packed.position).any(-1).double().mean() > 0.5  # latents that stay pass any test
        now = target.constrain(packed.unpack(state.position))
    successive, marginal = {**now, "y": y}, simulate(rows)
    return max(between(of(successive)[0], of(marginal)[0]) for of in STATISTICS.values())


SETTINGS: dict[str, Any] = {"step_size": 0.5, "leapfrogs": 3}
ROWS = 2 * enough(DETECTS, false_alarm=SHARE, false_pass=FALSE_PASS)  # two samples: the bands are wider by sqrt(2)

MISTAKES = {
    "accepts all": (Accepts(always, **SETTINGS), LogJoint),
    "accepts without kinetic energy": (Accepts(without_kinetic, **SETTINGS), LogJoint),
    "forgets the Jacobian": (HMC(**SETTINGS), ForgetsJacobian),
    "forgets that data change": (HMC(**SETTINGS), KeepsData),
}


@pytest.mark.parametrize("kernel", [HMC(**SETTINGS), Accepts(right, **SETTINGS)], ids=["HMC", "by a right rule"])
def test_both_simulators_have_the_same_distribution(kernel: HMC) -> None:
    assert geweke(ROWS, kernel) < band_of_two(ROWS, SHARE)


def test_geweke_sees_what_it_says() -> None:
    assert band_of_two(ROWS, SHARE) + band_of_two(ROWS, FALSE_PASS) <= DETECTS


@pytest.mark.parametrize("mistake", MISTAKES)
def test_geweke_sees_planted_mistakes(mistake: str) -> None:
    assert geweke(ROWS, *MISTAKES[mistake]) > DETECTS


@pytest.mark.slow
def test_both_simulators_have_the_same_distribution_in_a_long_run() -> None:
    """Detects a distance of 0.02, after 40 turns."""
    rows = 2 * enough(0.02, false_alarm=SHARE, false_pass=FALSE_PASS)
    assert geweke(rows, HMC(**SETTINGS), turns=40) < band_of_two(rows, SHARE)


# --- Calibration ------------------------------------------------------------------------------------------------------
# Among draws of its posterior given its own data, the truth has a rank that is uniform. Each of the draws is the end of
# a chain of its own, so that they are independent.

CHAINS, SETS = 15, 1_000
QUANTITIES = ("scale", "share", "log p(y | latents)")
CALIBRATED = FALSE_ALARM / len(QUANTITIES)  # by the law of chi squared, which 62 ranks a bin follow closely
UNEVEN = 0.15  # the mean squared relative error of the bins' probabilities that is seen


def calibration(sets: int, kernel: HMC, kind: type[LogJoint] = LogJoint, *, warmup: int = 30, thin: int = 10) -> float:
    """Return the smallest probability of ranks as uneven as those found, over the quantities."""
    truth = simulate(sets)
    target = kind(NET.bind(sets), {"y": truth["y"][0]})
    start = target.initial(chains=CHAINS)
    samples = lb.mcmc.run(kernel, target, start, warmup=warmup, draws=1, thin=thin)
    draws = {**{name: values[:, 0] for name, values in samples.draws.items()}, "y": truth["y"]}
    ranks = [(STATISTICS[name](draws) < STATISTICS[name](truth)).sum(0) for name in QUANTITIES]
    counts = [torch.bincount(rank, minlength=CHAINS + 1).numpy() for rank in ranks]
    return float(min(stats.chisquare(count).pvalue for count in counts))


def test_calibration_sees_what_it_says() -> None:
    threshold = stats.chi2.isf(CALIBRATED, CHAINS)
    assert stats.ncx2.cdf(threshold, CHAINS, SETS * UNEVEN) < FALSE_PASS


def test_ranks_of_the_truth_are_uniform() -> None:
    assert calibration(SETS, HMC(step_size=0.3, leapfrogs=2)) > CALIBRATED


@pytest.mark.parametrize(
    "kernel, kind",
    [
        (Accepts(always, **SETTINGS), LogJoint),
        (Accepts(without_kinetic, **SETTINGS), LogJoint),
        (HMC(step_size=0.3, leapfrogs=2), ForgetsJacobian),
        (NeverFreezes(step_size=1.5, leapfrogs=2), LogJoint),
    ],
    ids=["accepts all", "accepts without kinetic energy", "forgets the Jacobian", "never freezes"],
)
def test_calibration_sees_planted_mistakes(kernel: HMC, kind: type[LogJoint]) -> None:
    assert calibration(SETS, kernel, kind) < 1e-3 * CALIBRATED


@pytest.mark.slow
def test_ranks_of_the_truth_are_uniform_for_many_data_sets() -> None:
    """Sees bins whose relative error is 0.14 in the root of the mean square."""
    sets = 8_000
    assert stats.ncx2.cdf(stats.chi2.isf(CALIBRATED, CHAINS), CHAINS, sets * 0.14**2) < FALSE_PASS
    assert calibration(sets, HMC(step_size=0.3, leapfrogs=3), warmup=100, thin=20) > CALIBRATED
