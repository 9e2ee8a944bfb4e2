"""Counts and mixtures of logistics against scipy, arithmetic of many digits, and their own samples."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Independent, MixtureSameFamily

from lowerbound.distributions import DiscretizedLogistic, NegativeBinomial, Poisson, ZeroInflated

D = torch.float64


def t(value, dtype=D) -> torch.Tensor:
    return torch.tensor(value, dtype=dtype)


def mixture(dtype=D) -> MixtureSameFamily:
    logits, loc = t([0.3, -0.5, 1.2], dtype), t([0.1, 0.45, 0.9], dtype)
    return MixtureSameFamily(Categorical(logits=logits), DiscretizedLogistic(loc, t([0.03, 0.1, 0.02], dtype), 17))


# name: the distribution for a type, its probabilities by scipy (None where they are built by hand below), the values
# that hold all but 1e-15 of its mass.
CASES = {
    "poisson": (lambda d: Poisson(t(3.7, d)), stats.poisson(3.7).pmf, 60),
    "small poisson": (lambda d: Poisson(t(0.01, d)), stats.poisson(0.01).pmf, 15),
    "negative binomial": (
        lambda d: NegativeBinomial(t(4.0, d), t(2.5, d)), stats.nbinom(2.5, 2.5 / 6.5).pmf, 200,
    ),
    "dispersed": (lambda d: NegativeBinomial(t(2.0, d), t(0.3, d)), stats.nbinom(0.3, 0.3 / 2.3).pmf, 600),
    "nearly poisson": (lambda d: NegativeBinomial(t(5.0, d), t(1e8, d)), stats.poisson(5.0).pmf, 70),
    "zero-inflated poisson": (
        lambda d: ZeroInflated(Poisson(t(3.0, d)), t(-0.4, d)),
        lambda x: expit(-0.4) * (x == 0) + (1 - expit(-0.4)) * stats.poisson(3.0).pmf(x), 60,
    ),
    "zero-inflated negative binomial": (
        lambda d: ZeroInflated(NegativeBinomial(t(4.0, d), t(1.5, d)), t(0.7, d)),
        lambda x: expit(0.7) * (x == 0) + (1 - expit(0.7)) * stats.nbinom(1.5, 1.5 / 5.5).pmf(x), 300,
    ),
}  # fmt: skip


def expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("make, pmf, top", CASES.values(), ids=CASES)
def test_probabilities_are_scipys_and_sum_to_one(make, pmf, top):
    x = np.arange(top)
    found = make(D).log_prob(torch.from_numpy(x).double()).exp().numpy()
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    # scipy's own logarithms of Gamma functions bring 1e-12; a concentration of 1e8 is 1e-7 from the limit of Poisson
    np.testing.assert_allclose(found, pmf(x), rtol=1e-11, atol=3e-8 if pmf is CASES["nearly poisson"][1] else 1e-14)


@pytest.mark.parametrize("make, pmf, top", CASES.values(), ids=CASES)
def test_mean_and_variance_are_those_of_the_probabilities(make, pmf, top):
    p = make(D)
    x = torch.arange(top, dtype=D)
    weights = p.log_prob(x).exp()
    mean = float((weights * x).sum())
    assert float(p.mean) == pytest.approx(mean, rel=1e-9)
    assert float(p.variance) == pytest.approx(float((weights * (x - mean) ** 2).sum()), rel=1e-9)


@pytest.mark.parametrize("mean", [1e-6, 0.5, 40.0, 1e6])
@pytest.mark.parametrize("r", [1e-6, 0.3, 99.0, 101.0, 1e4, 1e9, 1e13])
def test_negative_binomial_is_its_definition_in_many_digits(mean, r):
    x = [0, 1, 7, 1000, 10**6]
    found = NegativeBinomial(t(mean), t(r)).log_prob(t(list(map(float, x)))).tolist()
    with mpmath.workdps(60):
        m, c = mpmath.mpf(mean), mpmath.mpf(r)
        for value, log_prob in zip(x, found, strict=True):
            wanted = (
                mpmath.loggamma(c + value) - mpmath.loggamma(c) - mpmath.loggamma(value + 1)
                + c * mpmath.log(c / (c + m)) + value * mpmath.log(m / (c + m))
            )  # fmt: skip
            # The sum's terms are up to value * 30 nats, each with the rounding of float64.
            assert log_prob == pytest.approx(float(wanted), rel=1e-12, abs=1e-12 + 1e-14 * value)


@pytest.mark.parametrize("count", [0, 3, 1000, 10**5, 10**6])
def test_float32_loses_nothing_of_large_counts(count):
    """Rounding of the result alone: 6e-8 of it, and of the parameters, which are exact here."""
    x = t(float(count), torch.float32)
    mean = t(float(max(count, 1)), torch.float32)
    for narrow, wide in (
        (Poisson(mean), Poisson(mean.double())),
        (NegativeBinomial(mean, t(2.0, torch.float32)), NegativeBinomial(mean.double(), 2.0)),
    ):
        assert narrow.log_prob(x).dtype == torch.float32
        assert float(narrow.log_prob(x)) == pytest.approx(float(wide.log_prob(x.double())), rel=1e-6)


def test_gradients_are_those_of_finite_differences():
    x = t([0.0, 1.0, 4.0, 30.0])

    def all_of_them(mean, r, logits):
        parts = [Poisson(mean), NegativeBinomial(mean, r), NegativeBinomial(mean, 1e5 * r)]
        parts += [ZeroInflated(part, logits) for part in parts]
        return torch.stack([part.log_prob(x) for part in parts])

    arguments = [t(v).requires_grad_() for v in ([0.3, 2.0, 5.0, 17.0], [0.5, 1.0, 3.0, 0.2], [-2.0, 0.1, 3.0, 0.0])]
    assert torch.autograd.gradcheck(all_of_them, arguments, eps=1e-6, atol=1e-6)

    def mixed(logits, loc, log_scale):
        logistics = DiscretizedLogistic(loc, log_scale.exp(), 17, validate_args=False)
        p = MixtureSameFamily(Categorical(logits=logits, validate_args=False), logistics, validate_args=False)
        return p.log_prob(t([0.0, 3 / 16, 1.0])[:, None])

    arguments = [t(v).requires_grad_() for v in ([[0.3, -0.5]], [[0.1, 0.7]], [[-3.0, -1.0]])]
    assert torch.autograd.gradcheck(mixed, arguments, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("log_mean", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("log_r", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("logit", [-80.0, 0.0, 80.0])
def test_extreme_parameters_are_finite_in_value_and_gradient(log_mean, log_r, logit):
    x = t([0.0, 1.0, 1e6], torch.float32)
    leaves = [t(v, torch.float32).requires_grad_() for v in (log_mean, log_r, logit)]
    mean, r = leaves[0].exp(), leaves[1].exp()
    for p in (
        NegativeBinomial(mean, r),
        ZeroInflated(NegativeBinomial(mean, r), leaves[2]),
        ZeroInflated(Poisson(mean), leaves[2]),
    ):
        log_prob = p.log_prob(x)
        for numbers in (log_prob, *torch.autograd.grad(log_prob.sum(), leaves, allow_unused=True, retain_graph=True)):
            assert numbers is None or bool(numbers.isfinite().all())
        assert bool((log_prob <= 0).all())
        draws = p.sample((11,))
        assert bool(draws.isfinite().all())
        assert bool((draws >= 0).all())


# --- Samples ----------------------------------------------------------------------------------------------------------

# Chi-square tests of samples against log_prob: a false alarm in 1e6 runs, and none here, as the seed is fixed.
FALSE_ALARM, DRAWS = 1e-6, 20_000
SAMPLED = {
    **{name: make for name, (make, _, _) in CASES.items() if name != "small poisson"},
    "logistic mixture": mixture,
}


def chi_square(make, other) -> tuple[float, float]:
    """Draw from one distribution; return the statistic against another's probabilities, and its bound."""
    torch.manual_seed(0)
    draws, scale = make(torch.float32).sample((DRAWS,)), 16.0 if isinstance(other(D), MixtureSameFamily) else 1.0
    steps = (draws * scale).round().long().clamp(max=699).numpy()
    grid = torch.arange(17 if scale == 16.0 else 700, dtype=D) / scale
    expected = DRAWS * other(D).log_prob(grid).exp().numpy()
    observed = np.bincount(steps, minlength=len(expected)).astype(float)
    order = np.argsort(-expected)
    expected, observed = expected[order], observed[order]
    keep = int((expected > 5).sum())
    expected = np.append(expected[:keep], max(DRAWS - expected[:keep].sum(), 1e-3))
    observed = np.append(observed[:keep], observed[keep:].sum())
    statistic = float(((observed - expected) ** 2 / np.maximum(expected, 5)).sum())  # the rest may be rarer than 5
    return statistic, float(stats.chi2.isf(FALSE_ALARM, keep))


@pytest.mark.parametrize("make", SAMPLED.values(), ids=SAMPLED)
def test_samples_follow_log_prob(make):
    statistic, bound = chi_square(make, make)
    assert statistic < bound


PLANTED = [
    (SAMPLED["poisson"], lambda d: Poisson(t(4.0, d))),
    (SAMPLED["negative binomial"], lambda d: NegativeBinomial(t(4.0, d), t(3.2, d))),
    (SAMPLED["zero-inflated poisson"], lambda d: ZeroInflated(Poisson(t(3.0, d)), t(-0.2, d))),
    (SAMPLED["zero-inflated negative binomial"], lambda d: NegativeBinomial(t(4.0, d), t(1.5, d))),
    (
        mixture,
        lambda d: MixtureSameFamily(Categorical(logits=t([0.3, -0.3, 1.2], d)), mixture(d).component_distribution),
    ),
]


@pytest.mark.parametrize("make, other", PLANTED)
def test_samples_of_another_distribution_would_be_found_out(make, other):
    statistic, bound = chi_square(make, other)
    assert statistic > bound


# --- Mixtures ---------------------------------------------------------------------------------------------------------


def test_mixture_is_the_weighted_sum_of_its_logistics():
    p, x = mixture(), torch.arange(17, dtype=D) / 16
    weights, one = p.mixture_distribution.probs, p.component_distribution
    parts = [weights[k] * DiscretizedLogistic(one.loc[k], one.scale[k], 17).log_prob(x).exp() for k in range(3)]
    torch.testing.assert_close(p.log_prob(x).exp(), sum(parts), rtol=1e-12, atol=1e-15)
    assert float(p.log_prob(x).exp().sum()) == pytest.approx(1.0, abs=1e-12)


# --- Shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda m, r: Poisson(m + 0 * r), NegativeBinomial], ids=["poisson", "negative binomial"]
)
def test_shapes_expansion_and_support(make):
    mean, r = torch.rand(5, 1) + 0.5, torch.rand(7) + 0.5
    plain = make(mean, r)
    for p in (plain, ZeroInflated(plain, torch.randn(7)), ZeroInflated(make(mean, r[0]), torch.randn(5, 7))):
        assert (p.batch_shape, p.event_shape, p.has_rsample) == ((5, 7), (), False)
        assert p.mean.shape == p.variance.shape == (5, 7)
        draws = p.sample((3, 2))
        assert draws.shape == p.log_prob(draws).shape == (3, 2, 5, 7)
        assert p.support.is_discrete
        assert bool(p.support.check(draws).all())
        wide = p.expand(torch.Size((2, 5, 7)))
        assert type(wide) is type(p)
        torch.testing.assert_close(wide.log_prob(draws[0, 0]), p.log_prob(draws[0, 0]).expand(2, 5, 7))
        assert Independent(p, 1).log_prob(draws).shape == (3, 2, 5)
        assert not p.sample().requires_grad


@pytest.mark.parametrize("bad", [-1.0, 0.5, math.nan])
def test_what_is_no_count_is_refused_on_demand(bad):
    p = NegativeBinomial(t(2.0), t(1.0), validate_args=True)
    for one in (p, ZeroInflated(p, t(0.0), validate_args=True), Poisson(t(2.0), validate_args=True)):
        one.log_prob(t(3.0))
        with pytest.raises(ValueError, match="within the support"):
            one.log_prob(t(bad))
    with pytest.raises(ValueError, match="concentration"):
        NegativeBinomial(t(2.0), t(-1.0), validate_args=True)
