"""Latents with a scale or a mask: what draws them is not what the bound counts, and no estimator confuses the two."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.distributions import Bernoulli, Normal

import lowerbound as lb
from averages import elbo, iwae, renyi
from discrete_case import GivenBernoulli, given
from exact import OnNodes, Scalars, farthest, gauss_hermite, gradients
from lowerbound.core.errors import NodeError

TOLERANCE, WRONG = 1e-10, 1e-3
SCALE, X = 1.7, 0.6


class Generator(Scalars):
    """z counts `SCALE` times, h is drawn and not counted, and x depends on both."""

    def __init__(self) -> None:
        super().__init__(a=0.7, b=-0.4, c=0.9)

    def forward(self, bn, n):
        t, absent = self.t, torch.zeros(n, dtype=torch.bool)
        z = bn.sample("z", Bernoulli(logits=t["b"].expand(n)), scale=SCALE)
        h = bn.sample("h", Bernoulli(logits=t["a"] * z - 0.2), mask=absent)
        bn.sample("x", Normal(t["a"] * z + t["c"] * h, 0.8), scale=SCALE)


class Posterior(Scalars):
    def __init__(self) -> None:
        super().__init__(u=0.3, v=-0.6)

    def forward(self, bn, z_values, h_values):
        n = z_values.shape[1]
        z = bn.sample("z", given(GivenBernoulli, z_values, self.t["u"].expand(n)), scale=SCALE)
        h = given(GivenBernoulli, h_values, self.t["v"] + 0.5 * z)
        bn.sample("h", h, mask=torch.zeros(n, dtype=torch.bool))


ESTIMATORS = {
    "reinforce": (lb.elbo, elbo, {}, lambda b: b.reinforce()),
    "leave one out": (lb.elbo, elbo, {}, lambda b: b.reinforce(baseline="leave-one-out")),
    "vargrad": (lb.elbo, elbo, {}, lambda b: b.vargrad()),
    "iwae reinforce": (lb.iw_objective, iwae, {}, lambda b: b.reinforce()),
    "vimco": (lb.iw_objective, iwae, {}, lambda b: b.vimco()),
    "renyi vimco": (lb.iw_objective, renyi(0.5), {"alpha": 0.5}, lambda b: b.vimco()),
}


def discrete(name: str):
    """Return the expected gradient of an estimator, the exact one, and the two as a mistaken score has them."""
    make, value, options, estimate = ESTIMATORS[name]
    table = torch.tensor(list(product((0.0, 1.0), repeat=4)), dtype=torch.float64).T.contiguous()
    z, h = table[:2], table[2:]
    p, q = Generator(), Posterior()
    log_z = Bernoulli(logits=q.t["u"]).log_prob(z)
    log_draw = log_z + Bernoulli(logits=q.t["v"] + 0.5 * z).log_prob(h)
    likelihood = Normal(p.t["a"] * z + p.t["c"] * h, 0.8).log_prob(torch.tensor(X, dtype=torch.float64))
    log_weights = SCALE * (likelihood + Bernoulli(logits=p.t["b"]).log_prob(z) - log_z)
    chance = log_draw.sum(0).exp()
    x = torch.full((len(chance),), X, dtype=torch.float64)
    made = make(p.bind(len(x)), {"x": x}, q.bind(z, h), particles=2, **options)
    found = gradients(-(chance.detach() * estimate(made)).sum(), p, q)
    torch.testing.assert_close(made.log_weights, log_weights.detach(), rtol=0, atol=1e-12)
    return found, gradients((chance * value(log_weights)).sum(), p, q)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_score_is_that_of_the_draw(name):
    found, wanted = discrete(name)
    assert farthest(found, wanted) < TOLERANCE
    assert min(float(grad.abs()) for grad in wanted.values()) > WRONG


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_weighted_score_is_told_apart(name, monkeypatch):
    trace = lb.net.Trace
    plain = trace.log_joint
    monkeypatch.setattr(trace, "log_joint", lambda self, names=None, *, weighted=True: plain(self, names))
    found, wanted = discrete(name)
    assert farthest(found, wanted) > WRONG


class Line(Scalars):
    def __init__(self, *scales: float, mask: bool = False) -> None:
        super().__init__(a=0.8, b=0.2)
        self.scales, self.mask = scales, mask

    def forward(self, bn, n):
        z = bn.sample("z", Normal(torch.zeros(n, dtype=torch.float64), 1.0), scale=self.scales[0])
        mask = torch.ones(n, dtype=torch.bool) if self.mask else None
        y = bn.sample("y", Normal(0.5 * z, 1.0), scale=self.scales[-1], mask=mask)
        bn.sample("x", Bernoulli(logits=self.t["a"] * z + self.t["b"] * y), scale=1.4)


class Belief(Scalars):
    def __init__(self, *scales: float, mask: bool = False) -> None:
        super().__init__(m=0.3, s=-0.2, r=0.4)
        self.scales, self.mask = scales, mask

    def forward(self, bn, z_nodes, y_nodes):
        t, n = self.t, z_nodes.shape[1]
        z = bn.sample("z", OnNodes(t["m"].expand(n), t["s"].exp().expand(n), z_nodes), scale=self.scales[0])
        mask = torch.ones(n, dtype=torch.bool) if self.mask else None
        scale = torch.full(y_nodes.shape, 0.9, dtype=torch.float64)
        bn.sample("y", OnNodes(t["r"] * z, scale, y_nodes), scale=self.scales[-1], mask=mask)


def gaussian(scales: tuple[float, ...], points: int, alpha: float) -> tuple[lb.objectives.ImportanceWeightedBound, ...]:
    nodes, weights = gauss_hermite(points, 4)
    z_nodes, y_nodes = nodes[:, :2].T.contiguous(), nodes[:, 2:].T.contiguous()
    p, q, x = Line(*scales), Belief(*scales), torch.ones(len(weights), dtype=torch.float64)
    made = lb.iw_objective(p.bind(len(x)), {"x": x}, q.bind(z_nodes, y_nodes), particles=2, alpha=alpha)
    return made, weights, p, q


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_dreg_knows_the_scale_of_latents(alpha):
    """Against the plain pathwise gradient, which needs no such knowledge; 4 noises, so that grids are coarse."""
    made, weights, p, q = gaussian((0.6,), 16, alpha)
    plain, doubled = (gradients(-(weights * cost).sum(), p, q) for cost in (made.sgvb(), made.dreg()))
    assert farthest(plain, doubled) < 1e-7
    made._latent_scale = lambda: 1.0
    assert farthest(gradients(-(weights * made.dreg()).sum(), p, q), plain) > WRONG


def rows(*scales: float, mask: bool = False):
    nodes = torch.zeros(2, 3, dtype=torch.float64)
    model = Line(*scales, mask=mask).bind(3)
    return lb.iw_objective(
        model, {"x": torch.ones(3).double()}, Belief(*scales, mask=mask).bind(nodes, nodes), particles=2
    )


def test_dreg_refuses_latents_of_unlike_weight():
    with pytest.raises(
        NodeError, match=r"dreg at node 'y': expected latents that all have one scale.*got 1 and 2\. Use"
    ):
        rows(1.0, 2.0).dreg()
    assert rows(1.0, 2.0).sgvb().shape == (3,)
    with pytest.raises(NodeError, match=r"dreg at node 'y': expected latents.* no mask, got a mask\. Use sgvb"):
        rows(1.0, mask=True).dreg()
