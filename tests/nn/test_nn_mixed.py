"""Columns of mixed types: probabilities that sum to one, and those of scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from lowerbound.core.errors import ArgumentError
from lowerbound.nn import make_likelihood

CODED = [("binary", 2), ("ordinal", 4), ("categorical", 3), ("ordinal", 2), ("categorical", 2)]


def test_probabilities_of_all_codes_sum_to_one():
    torch.manual_seed(0)
    p = make_likelihood("mixed", (5,), columns=CODED).double()
    x = torch.tensor(list(itertools.product(*(range(size) for _, size in CODED))), dtype=torch.float64)
    total = p(3 * torch.randn(7, 3, 5, dtype=torch.float64)).log_prob(x[:, None]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_each_column_is_that_of_scipy():
    torch.manual_seed(1)
    columns = [("counts", 0), ("continuous", 0), ("ordinal", 3), ("binary", 2), ("categorical", 3)]
    p = make_likelihood("mixed", (5,), columns=columns).double()
    p.standardize(torch.tensor([4.0, 300.0, 0, 0, 0]), torch.tensor([1.0, 20.0, 1, 1, 1]))
    p.log_scale.data.fill_(-0.7)
    p.log_concentration.data.fill_(0.4)
    o = torch.randn(3, 5, dtype=torch.float64)
    found = p(o).base_dist.log_prob(torch.tensor([6.0, 290.0, 1.0, 1.0, 2.0], dtype=torch.float64)).detach()
    mean, r = 4 * np.exp(o[0, 0].item()), np.exp(0.4)
    cuts = [p.first_cut[0, 0].item(), (p.first_cut[0, 0] + torch.nn.functional.softplus(p.raw_gaps[0, 0])).item()]
    below = stats.logistic.cdf(np.array(cuts) - o[0, 2].item())
    expected = [
        stats.nbinom.logpmf(6, r, r / (r + mean)),
        stats.norm.logpdf(290, 300 + 20 * o[0, 1].item(), 20 * np.exp(-0.7)),  # a density in the column's own unit
        np.log(below[1] - below[0]),
        stats.bernoulli.logpmf(1, 1 / (1 + np.exp(-o[0, 3].item()))),
        torch.log_softmax(o[:, 4], 0)[2].item(),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_levels_of_an_ordinal_column_start_equally_likely():
    p = make_likelihood("mixed", (2,), columns=[("ordinal", 5), ("ordinal", 3)])
    for place, size in enumerate((5, 3)):
        x = torch.zeros(size, 2)
        x[:, place] = torch.arange(size)
        found = p(torch.zeros(2)).base_dist.log_prob(x)[:, place].exp()
        torch.testing.assert_close(found, torch.full((size,), 1 / size), rtol=1e-4, atol=1e-4)


def test_values_that_a_column_cannot_have_have_no_probability():
    p = make_likelihood("mixed", (2,), columns=[("counts", 0), ("categorical", 3)])(torch.zeros(3, 2)).base_dist
    found = p.log_prob(torch.tensor([[-1.0, 3.0], [0.5, -1.0], [2.0, 1.0]]))
    assert found.isneginf().tolist() == [[True, True], [True, True], [False, False]]


def test_samples_have_the_frequencies_of_the_probabilities():
    torch.manual_seed(2)
    p = make_likelihood("mixed", (2,), columns=[("ordinal", 3), ("categorical", 3)])(torch.randn(3, 2)).base_dist
    x = p.sample((20_000,))
    for code in range(3):
        expected = p.log_prob(torch.full((2,), float(code))).exp()
        assert ((x == code).float().mean(0) - expected).abs().max() < 0.02  # over five standard errors


def test_the_encoder_sees_one_hot_codes_and_no_gap():
    p = make_likelihood("mixed", (3,), columns=[("categorical", 3), ("continuous", 0), ("counts", 0)])
    p.standardize(torch.tensor([1.0, 10.0, 0.0]), torch.tensor([1.0, 2.0, 1.0]))
    nan = float("nan")
    seen = p.see(torch.tensor([[2.0, 14.0, 0.0], [nan, nan, nan]]))
    assert seen.tolist() == [[2.0, 0.0, 0.0, 0.0, 1.0], [0.0] * 5]


@pytest.mark.parametrize(
    "columns, match",
    [
        ([("binary", 2)], r"columns: expected \(2,\) kinds, got 1"),
        ([("binary", 2), ("text", 2)], "kind of a column.*'text'"),
        ([("binary", 2), ("ordinal", 1)], "levels of a column: expected 2 or more, got 1"),
    ],
)
def test_bad_columns_are_named(columns, match):
    with pytest.raises(ArgumentError, match=match):
        make_likelihood("mixed", (2,), columns=columns)
