"""The KL term of posteriors with several layers: where a closed form is its mean, and where it is not."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

import lowerbound as lb

K, B = 50_000, 3
X = torch.tensor([-0.7, 0.3, 1.1], dtype=torch.float64)
EVIDENCE = Normal(0.0, math.sqrt(2)).log_prob(X)


class Chain(lb.BayesianNet):
    """z2 ~ N(0, 1), z1 ~ N(0.8 z2, 0.36), x ~ N(z1, 1): z1 ~ N(0, 1) and x ~ N(0, 2) by themselves."""

    def forward(self, bn, n):
        z2 = bn.sample("z2", Normal(X.new_zeros(n), 1.0))
        z1 = bn.sample("z1", Normal(0.8 * z2, 0.6))
        bn.sample("x", Normal(z1, 1.0))


class Upward(lb.BayesianNet):
    """The exact posterior from the data up: q(z1 | x) q(z2 | z1)."""

    def forward(self, bn, x):
        z1 = bn.sample("z1", Normal(x / 2, math.sqrt(0.5)))
        bn.sample("z2", Normal(0.8 * z1, 0.6))


class Downward(lb.BayesianNet):
    """The exact posterior from the top down: q(z2 | x) q(z1 | z2, x)."""

    def forward(self, bn, x):
        z2 = bn.sample("z2", Normal(0.4 * x, math.sqrt(1 - 0.64 / 2)))
        variance = 1 / (1 / 0.36 + 1)
        bn.sample("z1", Normal(variance * (0.8 * z2 / 0.36 + x), math.sqrt(variance)))


class Apart(lb.BayesianNet):
    """Independent of each other, each with its own exact marginal: no exact posterior."""

    def forward(self, bn, x):
        bn.sample("z1", Normal(x / 2, math.sqrt(0.5)))
        bn.sample("z2", Normal(0.4 * x, math.sqrt(1 - 0.64 / 2)))


def bound(posterior, analytic: bool):
    return lb.elbo(Chain().bind(B), {"x": X}, posterior.bind(X), particles=K, analytic_kl=analytic)


def loss_of_apart() -> float:
    """Return KL(q || p(z | x)) for standardised Gaussians, q uncorrelated and the exact one with correlation rho."""
    rho = 0.8 * 0.5 / math.sqrt(0.5 * (1 - 0.64 / 2))
    return 0.5 * math.log(1 - rho**2) + rho**2 / (1 - rho**2)


@pytest.mark.parametrize("analytic", [True, False])
@pytest.mark.parametrize("posterior", [Upward(), Downward(), Apart()], ids=lambda p: type(p).__name__)
def test_bound_is_its_closed_form(posterior, analytic: bool) -> None:
    """Six standard errors of the mean over the draws: a false alarm in 1e-8. The closed form of KL(q(z1|x) || p(z1|z2))
    under draws of z2 that were made given z1 would be off by 0.9 nats."""
    found = bound(posterior, analytic)
    exact = EVIDENCE - (loss_of_apart() if isinstance(posterior, Apart) else 0.0)
    spread = found.log_weights.std(0) + found.draw.log_likelihood().std(0)
    assert bool(((found.value - exact).abs() < 6 * spread / math.sqrt(K)).all())
    assert float(spread.max()) < 5
    torch.testing.assert_close(found.terms["reconstruction"] - found.terms["kl"], found.value)


def test_closed_form_is_used_where_it_holds() -> None:
    """From the top down the prior of z1 is known when z1 is drawn: the KL term is that of its divergences."""
    found = bound(Downward(), True)
    trace, model = found.draw.posterior, found.draw.model
    parts = [
        torch.distributions.kl_divergence(trace.node(n).distribution, model.node(n).distribution) for n in ("z2", "z1")
    ]
    torch.testing.assert_close(found.terms["kl"], parts[0] + parts[1].mean(0), rtol=0, atol=1e-12)
    drawn = bound(Upward(), True).draw
    ratios = [(drawn.posterior.log_prob(name) - drawn.model.log_prob(name)).mean(0) for name in ("z1", "z2")]
    assert not torch.allclose(drawn.kl(analytic=True), ratios[0] + ratios[1], rtol=0, atol=1e-6)  # z2 has a closed form
