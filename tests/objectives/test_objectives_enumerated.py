"""Exact sums over a discrete latent, against enumeration by hand, closed forms and draws."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Independent, MultivariateNormal, Normal, OneHotCategorical

import lowerbound as lb
from exact import farthest, gauss_hermite, gradients, random
from lowerbound.core.errors import ArgumentError, NodeError
from lowerbound.objectives import enumerated

B, S, D, K = 5, 3, 2, 7
X = random(7, B, D)


class P(lb.BayesianNet):
    """y ~ Categorical, z ~ N(0, 1), x ~ N(m_y + w z, 0.8^2): given y, x is Gaussian."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.mean = nn.Parameter(random(0, S)), nn.Parameter(random(1, S, D))
        self.weight = nn.Parameter(random(2, D))

    def forward(self, bn, n):
        y = bn.sample("y", OneHotCategorical(logits=self.logits.expand(n, -1)))
        z = bn.sample("z", Normal(self.mean.new_zeros(n), 1.0))
        bn.sample("x", Normal(y @ self.mean + z.unsqueeze(-1) * self.weight, 0.8), event_dims=1)

    def log_joint(self, x):
        """log p(x, y) for every class, [S, B], in closed form."""
        covariance = self.weight.outer(self.weight) + 0.64 * torch.eye(D, dtype=torch.float64)
        log_x = MultivariateNormal(self.mean[:, None], covariance).log_prob(x)
        return self.logits.log_softmax(0)[:, None] + log_x


class Q(lb.BayesianNet):
    """q(y | x) linear, q(z | x, y) Gaussian with a mean for each class; `exact` makes it the posterior of a P."""

    def __init__(self, exact: P | None = None, draws=None) -> None:
        super().__init__()
        self.weight, self.mean = nn.Parameter(random(3, D, S)), nn.Parameter(random(4, D))
        self.shift, self.log_scale = nn.Parameter(random(5, S)), nn.Parameter(torch.tensor(-0.3).double())
        self.exact, self.draws = (exact,), draws

    def forward(self, bn, x):
        (exact,) = self.exact
        logits = x @ self.weight if exact is None else exact.log_joint(x).T
        y = bn.sample("y", OneHotCategorical(logits=logits))
        if exact is None:
            loc, scale = x @ self.mean + y @ self.shift, self.log_scale.exp()
        else:
            variance = 1 / (1 + exact.weight.square().sum() / 0.64)
            loc, scale = variance * (x - y @ exact.mean) @ exact.weight / 0.64, variance.sqrt()
        if self.draws is None:
            bn.sample("z", Normal(loc, scale))
        else:
            bn.sample("z", OnGrid(loc, scale.expand(loc.shape), self.draws))


class OnGrid(Normal):
    """A normal distribution whose draws for each class are loc + scale * node."""

    def __init__(self, loc, scale, nodes) -> None:
        super().__init__(loc, scale)
        self.nodes = nodes

    def rsample(self, sample_shape=()):
        nodes = self.nodes.repeat_interleave(S)  # K outer, S inner, as the axis of the draws is laid out
        return self.loc + self.scale * nodes.reshape(-1, *[1] * (self.loc.dim() - 1))


def bound(p: P, q: Q, particles: int = 1):
    return enumerated(p.bind(B), {"x": X}, q.bind(X), name="y", particles=particles)


def by_hand(p: P, q: Q) -> torch.Tensor:
    """The bound, with the Gaussian expectation of a quadratic by quadrature, which is exact."""
    nodes, weights = gauss_hermite(5, 1)
    total = torch.zeros(B, dtype=torch.float64)
    log_q = (X @ q.weight).log_softmax(-1)
    for s in range(S):
        loc, scale = X @ q.mean + q.shift[s], q.log_scale.exp()
        z = loc + scale * nodes  # [N, B]
        log_p = p.logits.log_softmax(0)[s] + Normal(0.0, 1.0).log_prob(z)
        log_p = log_p + Normal(p.mean[s] + z.unsqueeze(-1) * p.weight, 0.8).log_prob(X).sum(-1)
        inner = (weights[:, None] * (log_p - Normal(loc, scale).log_prob(z))).sum(0)
        total = total + log_q[:, s].exp() * (inner - log_q[:, s])
    return total


def test_value_and_gradient_are_exact() -> None:
    """With the nodes of a quadrature as draws, equally weighted: two nodes at +-1 integrate quadratics exactly."""
    p, q = P(), Q(draws=torch.tensor([1.0, -1.0], dtype=torch.float64))
    found, wanted = bound(p, q, particles=2), by_hand(p, q)
    torch.testing.assert_close(found.value, wanted.detach(), rtol=0, atol=1e-10)
    mine = gradients(found.sgvb().sum(), p, q)
    assert farthest(mine, gradients(-wanted.sum(), p, q)) < 1e-10
    assert min(float(grad.abs().max()) for grad in mine.values()) > 1e-3
    assert farthest({n: -g for n, g in mine.items()}, gradients(-wanted.sum(), p, q)) > 1e-2  # a flipped sign


def test_exact_posterior_gives_the_evidence_in_every_draw() -> None:
    p = P()
    evidence = p.log_joint(X).logsumexp(0).detach()
    found = bound(p, Q(exact=p), K)
    torch.testing.assert_close(found.value, evidence, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.marginal, evidence, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.q.detach(), p.log_joint(X).softmax(0).detach(), rtol=0, atol=1e-10)
    assert found.log_weights.shape == (K, S, B)
    torch.testing.assert_close(found.log_weights, p.log_joint(X).detach().expand(K, S, B), rtol=0, atol=1e-10)


def test_value_is_below_the_marginal_and_the_marginal_meets_the_evidence() -> None:
    """The mean weight over 20,000 draws is the evidence within 6 standard errors: a false alarm in 1e-8."""
    p, q = P(), Q()
    with torch.no_grad():  # as wide as the prior, so that weights have a small variance
        q.log_scale.fill_(0.3), q.mean.mul_(0.1), q.shift.mul_(0.1)
    evidence = p.log_joint(X).logsumexp(0).detach()
    found = bound(p, q, 20_000)
    ratio = (found.log_weights.logsumexp(1) - evidence).exp()
    assert bool(((ratio.mean(0) - 1).abs() < 6 * ratio.std(0) / len(ratio) ** 0.5).all())
    torch.testing.assert_close(found.marginal, ratio.mean(0).log() + evidence)
    assert bool((found.value < found.marginal - 1e-3).all())
    assert list(found.terms) == ["elbo", "entropy"]
    torch.testing.assert_close(found.terms["entropy"], Categorical(probs=found.q.detach().T).entropy())


def test_sum_is_the_mean_of_the_drawn_bound() -> None:
    """Drawing y as well has the same mean: 40,000 draws, 6 standard errors, a false alarm in 1e-8."""
    p, q = P(), Q()
    drawn = lb.elbo(p.bind(B), {"x": X}, q.bind(X), particles=40_000).log_weights
    found = by_hand(p, q).detach()
    assert bool(((drawn.mean(0) - found).abs() < 6 * drawn.std(0) / len(drawn) ** 0.5).all())


SUPPORTS = {
    "one-hot": lambda n: OneHotCategorical(logits=random(0, n, S)),
    "index": lambda n: Categorical(logits=random(0, n, S)),
    "coin": lambda n: Bernoulli(logits=random(0, n)),
}


@pytest.mark.parametrize("make", SUPPORTS.values(), ids=SUPPORTS)
def test_every_kind_of_finite_node(make) -> None:
    """A model with no other latent and no path: its bound at the prior is log p(x) minus KL, by hand."""

    class Prior(lb.BayesianNet):
        def forward(self, bn, n):
            y = bn.sample("y", make(n))
            score = y if y.dim() < 3 else y @ torch.arange(S, dtype=torch.float64)
            bn.sample("x", Normal(score.double(), 1.0))

    x = X[:, 0]
    found = enumerated(Prior().bind(B), {"x": x}, Only(make(B)).bind(), name="y", particles=2)
    values = torch.arange(len(found.q), dtype=torch.float64)[:, None]
    wanted = (found.q * Normal(values, 1.0).log_prob(x)).sum(0)
    torch.testing.assert_close(found.value, wanted.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.q.sum(0), torch.ones(B, dtype=torch.float64))


class Only(lb.BayesianNet):
    """One node, y."""

    def __init__(self, distribution) -> None:
        super().__init__()
        self.distribution = distribution

    def forward(self, bn):
        bn.sample("y", self.distribution)


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_node_that_cannot_be_summed() -> None:
    p = P()
    for distribution, kind in (
        (Normal(X[:, 0], 1.0), "Normal"),
        (Independent(Bernoulli(logits=X), 1), "Independent"),
    ):
        with pytest.raises(NodeError, match=rf"node 'y': expected a finite support, got {kind}\. Sum over a Categ"):
            enumerated(p.bind(B), {"x": X}, Only(distribution).bind(), name="y").value  # noqa: B018
    with pytest.raises(NodeError, match=r"'why'"):
        enumerated(p.bind(B), {"x": X}, Q().bind(X), name="why").value  # noqa: B018
    with pytest.raises(ArgumentError, match="particles: expected a positive integer, got 0"):
        enumerated(p.bind(B), {"x": X}, Q().bind(X), name="y", particles=0)


def test_node_behind_other_draws() -> None:
    class Late(lb.BayesianNet):
        def forward(self, bn, x):
            z = bn.sample("z", Normal(x[:, 0], 1.0))
            bn.sample("y", OneHotCategorical(logits=z.unsqueeze(-1) * torch.arange(3.0)))

    with pytest.raises(NodeError, match=r"node 'y': expected no draw that it may depend on, got draws of z before it"):
        enumerated(P().bind(B), {"x": X}, Late().bind(X), name="y").value  # noqa: B018


def test_other_latents_have_a_path() -> None:
    class Coins(lb.BayesianNet):
        def forward(self, bn, x):
            bn.sample("y", OneHotCategorical(logits=x @ torch.ones(D, S, dtype=torch.float64)))
            bn.sample("z", Bernoulli(logits=x[:, 0]))

    with pytest.raises(NodeError, match=r"node 'z': expected a distribution with rsample, got Bernoulli"):
        enumerated(P().bind(B), {"x": X}, Coins().bind(X), name="y").value  # noqa: B018


def test_latent_without_posterior() -> None:
    only = Only(OneHotCategorical(logits=torch.zeros(B, S, dtype=torch.float64))).bind()
    with pytest.raises(NodeError, match=r"node 'z': expected an observed value or a posterior, got neither"):
        enumerated(P().bind(B), {"x": X}, only, name="y").value  # noqa: B018
