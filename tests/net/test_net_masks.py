"""Masks: the log-probability of the observed entries, whatever stands at the others, in value and in gradient.

The truth is a loop: one particle, one row and one entry at a time.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.distributions as td
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
)

import lowerbound as lb
from exact import random
from lowerbound.core.errors import ArgumentError, NodeError
from lowerbound.distributions import DiscretizedLogistic
from lowerbound.net import Trace
from lowerbound.net.masks import masked_log_prob

K, B, D = 3, 5, 7
NAN = float("nan")


def mask_of(*shape: int) -> torch.Tensor:
    """Return a mask that depends on the shape only and, where there is room, has both values."""
    mask = random(11, *shape) > 0
    if mask.numel() > 1:
        mask.view(-1)[0], mask.view(-1)[1] = True, False
    return mask


def with_gaps(value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the value with NaN wherever no particle observes it."""
    seen = mask.expand(torch.broadcast_shapes(mask.shape, value.shape))
    while seen.dim() > value.dim():
        seen = seen.any(0)
    return torch.where(seen, value, NAN)


# --- Truth ------------------------------------------------------------------------------------------------------------

SHAPES = {
    "lead and entries": lambda k, b, d: (k, b, d),
    "batch and entries": lambda k, b, d: (b, d),
    "entries": lambda k, b, d: (d,),
    "whole rows": lambda k, b, d: (b, 1),
    "whole particles and rows": lambda k, b, d: (k, b, 1),
}
KINDS = {
    "Normal": (lambda p: Normal(p, 0.7), 1),
    "Independent": (lambda p: Independent(Normal(p, 0.7), 1), 0),
    "Laplace": (lambda p: td.Laplace(p, 0.7), 1),
    "mixture": (
        lambda p: td.MixtureSameFamily(
            Categorical(logits=torch.zeros(*p.shape, 2, dtype=p.dtype)), Normal(torch.stack([p, -p], -1), 0.7)
        ),
        1,
    ),
}


@pytest.mark.parametrize("sizes", [(3, 5, 7), (5, 5, 5), (1, 5, 7), (3, 5, 1)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_observed_entries_are_summed_one_by_one(kind, shape, sizes):
    k, b, d = sizes
    make, event_dims = KINDS[kind]
    mask = mask_of(*SHAPES[shape](k, b, d))
    parameters = random(0, k, b, d).requires_grad_()
    for data in (random(1, k, b, d), random(1, b, d)):
        value = with_gaps(data, mask)
        trace = Trace({"v": value}, particles=k, batch=(b,), validate=True)
        trace.sample("v", make(parameters), event_dims, mask=mask)
        found = trace.log_prob("v")
        assert found.shape == (k, b)
        seen, full = mask.expand(k, b, d), value.expand(k, b, d)
        wanted = torch.zeros(k, b, dtype=torch.float64)
        for i, j in itertools.product(range(k), range(b)):
            if bool(seen[i, j].any()):
                row = full[i, j][seen[i, j]]
                wanted[i, j] = make(parameters[i, j][seen[i, j]]).log_prob(row).sum()
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
        (gradient,) = torch.autograd.grad(found.sum(), parameters)
        if bool(seen.any()):
            (truth,) = torch.autograd.grad(wanted.sum(), parameters)
            torch.testing.assert_close(gradient, truth, rtol=0, atol=1e-12)
        assert bool((gradient[~seen] == 0).all())


def test_a_mask_behind_log_prob_alone_would_give_no_gradient():
    """The negative control: this is what the value is mended for."""
    loc, value = torch.zeros(2, requires_grad=True), torch.tensor([0.3, NAN])
    mask = ~value.isnan()
    naive = torch.where(mask, Normal(loc, 1.0, validate_args=False).log_prob(value), 0.0).sum()
    assert bool(torch.autograd.grad(naive, loc)[0].isnan().any()) or not bool(naive.isnan())
    scale = torch.ones(2, requires_grad=True)
    naive = torch.where(mask, Normal(loc, scale, validate_args=False).log_prob(value), 0.0).sum()
    assert bool(torch.autograd.grad(naive, scale)[0].isnan().any())
    found = masked_log_prob("v", Normal(loc, scale), value, mask).sum()
    assert bool(torch.autograd.grad(found, scale)[0].isfinite().all())


P = random(2, B, D).sigmoid()
PLAIN = {
    "Bernoulli": lambda p: Bernoulli(p),
    "Beta": lambda p: td.Beta(1 + p, 2.0),
    "Binomial": lambda p: td.Binomial(5, p),
    "Categorical": lambda p: Categorical(probs=torch.stack([p, 1 - p], -1)),
    "DiscretizedLogistic": lambda p: DiscretizedLogistic(p, 0.1 + p, 17),
    "Exponential": lambda p: td.Exponential(p),
    "Gamma": lambda p: td.Gamma(p, 1.0),
    "Geometric": lambda p: td.Geometric(p),
    "HalfNormal": lambda p: td.HalfNormal(p),
    "LogNormal": lambda p: td.LogNormal(p, 1.0),
    "NegativeBinomial": lambda p: td.NegativeBinomial(3.0, p),
    "Poisson": lambda p: Poisson(p),
    "StudentT": lambda p: td.StudentT(3.0, p),
    "Uniform": lambda p: td.Uniform(p - 3.0, 2 * p + 4.0),
    "VonMises": lambda p: td.VonMises(p, 1.0),
    "Weibull": lambda p: td.Weibull(p, 1.5),
}
VECTORS = {
    "Dirichlet": lambda p: td.Dirichlet(1 + p),
    "MultivariateNormal": lambda p: MultivariateNormal(p, torch.eye(p.shape[-1], dtype=p.dtype) + 0.3),
    "Multinomial": lambda p: td.Multinomial(4, p),
    "OneHotCategorical": lambda p: OneHotCategorical(p),
    "RelaxedOneHot": lambda p: td.RelaxedOneHotCategorical(torch.tensor(0.5, dtype=p.dtype), p),
    "mixture": lambda p: td.MixtureSameFamily(
        Categorical(logits=torch.zeros(*p.shape[:-1], 2, dtype=p.dtype)),
        Independent(Normal(torch.stack([p, -p], -2), 1.0), 1),
    ),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_gaps_of_any_distribution_over_single_values(kind):
    """With the checks of torch on: what stands in for a gap lies in the support."""
    p, mask = P.clone().requires_grad_(), mask_of(B, D)
    distribution = PLAIN[kind](p)
    value = distribution.sample().double()
    trace = Trace({"v": torch.where(mask, value, NAN)}, batch=(B,), validate=True)
    trace.sample("v", distribution, 1, mask=mask)
    wanted = torch.where(mask, distribution.log_prob(value), 0.0).sum(-1)
    torch.testing.assert_close(trace.log_prob("v"), wanted, rtol=0, atol=1e-12)
    found, truth = (torch.autograd.grad(cost.sum(), p, retain_graph=True)[0] for cost in (trace.log_prob("v"), wanted))
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)
    assert float(truth.abs().max()) > 1e-3


@pytest.mark.parametrize("kind", VECTORS)
def test_vectors_are_observed_whole_or_not_at_all(kind):
    p, mask = (0.1 + P).clone().requires_grad_(), torch.tensor([True, False, True, True, False])
    distribution = VECTORS[kind](p)
    value = distribution.sample()
    trace = Trace({"v": torch.where(mask[:, None], value, NAN)}, batch=(B,), validate=True)
    trace.sample("v", distribution, mask=mask)
    wanted = torch.where(mask, distribution.log_prob(value), 0.0)
    torch.testing.assert_close(trace.log_prob("v"), wanted, rtol=0, atol=1e-12)
    gradient = torch.autograd.grad(trace.log_prob("v").sum(), p)[0]
    assert bool(gradient.isfinite().all())
    assert bool((gradient[~mask] == 0).all())
    assert float(gradient.abs().max()) > 1e-3
    with pytest.raises(NodeError, match=r"mask of node 'v': expected shape \(5,\) .*got \(5, 7\).*mask whole events"):
        Trace(batch=(B,)).sample("v", distribution, mask=mask_of(B, D))


def test_vectors_in_an_event_are_observed_one_by_one():
    """A table of categorical columns: the mask says which columns, and the one-hot axis is none of its business."""
    p = random(5, B, D, 4).softmax(-1)
    value, mask = OneHotCategorical(p).sample(), mask_of(B, D)
    trace = Trace({"v": torch.where(mask[..., None], value, NAN)}, batch=(B,), validate=True)
    trace.sample("v", OneHotCategorical(p), 1, mask=mask)
    wanted = torch.where(mask, (p * value).sum(-1).log(), 0.0).sum(-1)
    torch.testing.assert_close(trace.log_prob("v"), wanted, rtol=0, atol=1e-12)


def test_scale_multiplies_what_the_mask_leaves():
    mask, value = mask_of(B, D), random(1, B, D)
    plain, scaled = Trace({"v": value}), Trace({"v": value})
    plain.sample("v", Normal(0.0 * P, 1.0), 1, mask=mask)
    scaled.sample("v", Normal(0.0 * P, 1.0), 1, mask=mask, scale=2.5)
    torch.testing.assert_close(scaled.log_prob("v"), 2.5 * plain.log_prob("v"), rtol=0, atol=1e-12)
    assert scaled.log_prob("v").equal(scaled.log_prob("v"))  # asked twice, it is scaled once
    torch.testing.assert_close(scaled.log_joint(), 2.5 * plain.log_joint(), rtol=0, atol=1e-12)


def test_drawn_nodes_are_drawn_whole_and_scored_where_the_mask_is_true():
    mask = mask_of(B, D)
    trace = Trace()
    value = trace.sample("v", Normal(0.0 * P, 1.0), 1, mask=mask, scale=3.0)
    assert bool(value.isfinite().all())
    assert len(value.unique()) == B * D
    wanted = 3.0 * torch.where(mask, Normal(0.0, 1.0).log_prob(value), 0.0).sum(-1)
    torch.testing.assert_close(trace.log_prob("v"), wanted, rtol=0, atol=1e-12)


class Counted(Normal):
    """A distribution that gives the log-probability of its draws with them, as flows do."""

    def rsample_and_log_prob(self, shape):
        value = self.rsample(shape)
        return value, self.log_prob(value)


def test_flows_are_scaled_and_masked_too():
    mask = mask_of(B, D)
    plain, scaled, masked = Trace(pathwise=True), Trace(pathwise=True), Trace(pathwise=True)
    values = [
        plain.sample("v", Counted(0.0 * P, 1.0), 1),
        scaled.sample("v", Counted(0.0 * P, 1.0), 1, scale=0.5),
        masked.sample("v", Counted(0.0 * P, 1.0), 1, mask=mask),
    ]
    terms = [Normal(0.0, 1.0).log_prob(value) for value in values]
    torch.testing.assert_close(plain.log_prob("v"), terms[0].sum(-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(scaled.log_prob("v"), 0.5 * terms[1].sum(-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(masked.log_prob("v"), torch.where(mask, terms[2], 0.0).sum(-1), rtol=0, atol=1e-12)


# --- Bad input --------------------------------------------------------------------------------------------------------

MASKS = {
    "one axis too few": (torch.ones(B, dtype=torch.bool), r"got \(5,\)"),
    "rows and entries exchanged": (torch.ones(D, B, dtype=torch.bool), r"got \(7, 5\)"),
    "one row": (torch.ones(1, D, dtype=torch.bool), r"got \(1, 7\)"),
    "an axis too many": (torch.ones(2, K, B, D, dtype=torch.bool), r"got \(2, 3, 5, 7\)"),
    "other particles": (torch.ones(K + 1, B, D, dtype=torch.bool), r"got \(4, 5, 7\)"),
    "a number": (torch.tensor(True), r"got \(\)"),
}


@pytest.mark.parametrize("mask, got", MASKS.values(), ids=MASKS)
def test_mask_of_another_shape_is_refused(mask, got):
    trace = Trace({"x": random(0, B, D)}, particles=K, batch=(B,))
    message = rf"mask of node 'x': expected shape \(3, 5, 7\) or \(5, 7\) or \(7,\), {got}.*reshape the mask"
    with pytest.raises(NodeError, match=message):
        trace.sample("x", Normal(P, 1.0), 1, mask=mask)


@pytest.mark.parametrize(
    "mask, got", [(torch.ones(B, D), "torch.float32"), (torch.ones(B, D, dtype=torch.uint8), "uint8"), (True, "bool")]
)
def test_mask_of_another_type_is_refused(mask, got):
    message = rf"mask of node 'x': expected a boolean tensor, True where observed, got .*{got}.*~x\.isnan\(\)"
    with pytest.raises(NodeError, match=message):
        Trace({"x": random(0, B, D)}).sample("x", Normal(P, 1.0), 1, mask=mask)


@pytest.mark.parametrize("scale", [0.0, -1.0, NAN, float("inf"), "2", torch.tensor(2.0)])
def test_scale_is_a_positive_number(scale):
    with pytest.raises(ArgumentError, match="scale of node 'x': expected a finite number above 0"):
        Trace({"x": random(0, B, D)}).sample("x", Normal(P, 1.0), 1, scale=scale)


def test_support_is_checked_where_the_mask_is_true():
    value, mask = torch.full((B, D), 0.0), torch.ones(B, D, dtype=torch.bool)
    value[1, 2], mask[1, 2] = 7.0, False
    for kept in (mask, mask[None].expand(K, B, D)):
        trace = Trace({"x": value}, particles=K, batch=(B,), validate=True)
        trace.sample("x", Bernoulli(P), 1, mask=kept)
        assert trace.log_prob("x").shape == (K, B)
    value[3, 3] = 0.5
    with pytest.raises(NodeError, match=r"value of node 'x': expected values in the support of Bernoulli.*0 to 0\.5"):
        Trace({"x": value}, validate=True).sample("x", Bernoulli(P), 1, mask=mask)
    value[3, 3] = NAN
    with pytest.raises(NodeError, match=r"1 of 34 values that are not finite"):
        Trace({"x": value}, validate=True).sample("x", Normal(P, 1.0), 1, mask=mask)


def test_gap_without_a_mask_is_refused_with_the_cure():
    value = torch.zeros(B, D)
    value[2, 4] = NAN
    with pytest.raises(NodeError, match=r"1 of 35 values that are not finite.*Fill the gaps.*mask="):
        Trace({"x": value}, validate=True).sample("x", Normal(P, 1.0), 1)


def test_distribution_without_a_known_support_cannot_be_masked():
    class Odd(Normal):
        @property
        def support(self):
            raise NotImplementedError

    trace = Trace({"x": random(0, B, D)})
    trace.sample("x", Odd(P, 1.0), 1, mask=mask_of(B, D))
    with pytest.raises(NodeError, match=r"masked node 'x': expected a known support, got none of Odd.*constraints"):
        trace.log_prob("x")


@pytest.mark.parametrize(
    "weight", [{"scale": 2.0}, {"mask": torch.ones(B, 2, dtype=torch.bool)}], ids=["scale", "mask"]
)
def test_latent_that_counts_in_one_program_only_is_refused(weight):
    class P1(lb.BayesianNet):
        def forward(self, bn):
            z = bn.sample("z", Normal(torch.zeros(B, 2), 1.0), 1)
            bn.sample("x", Normal(z, 1.0), 1)

    class Q1(lb.BayesianNet):
        def forward(self, bn):
            bn.sample("z", Normal(torch.zeros(B, 2), 1.0), 1, **weight)

    bound = lb.elbo(P1().bind(), {"x": torch.zeros(B, 2)}, Q1().bind())
    with pytest.raises(NodeError, match=r"node 'z': expected the same scale and mask.*got .*Pass both in both"):
        _ = bound.value
