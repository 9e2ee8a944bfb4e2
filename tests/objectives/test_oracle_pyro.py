"""Log-densities of a two-layer model and its posterior by Pyro's `poutine.condition`, at the same values.

Every bound here is a function of these numbers. Optional: skipped where Pyro is not installed. To run: pip install -e
'.[dev,oracles]', then pytest tests/objectives/test_oracle_pyro.py. Passed with pyro-ppl 1.9.2 on torch 2.13.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

import lowerbound as lb
from exact import random

pyro: Any = pytest.importorskip("pyro", reason="an oracle: pip install -e '.[oracles]'", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's
K, B, D, L1, L2 = 5, 3, 7, 2, 4
X = (random(1, B, D) > 0).double()
UPPER, LOWER, SKIP = 0.6 * random(2, L2, L1), 0.5 * random(3, D, L2), 0.4 * random(4, D, L1)
UP, DOWN = 0.3 * random(5, L2, D), 0.5 * random(6, L1, L2)


class Generator(lb.BayesianNet):
    def forward(self, bn, n):
        z1 = bn.sample("z1", Normal(torch.zeros(n, L1).double(), 1.0), event_dims=1)
        z2 = bn.sample("z2", Normal((z1 @ UPPER.T).tanh(), 0.7), event_dims=1)
        bn.sample("x", Bernoulli(logits=z2 @ LOWER.T + z1 @ SKIP.T), event_dims=1)


class Posterior(lb.BayesianNet):
    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-0.4, dtype=torch.float64))

    def forward(self, bn, x):
        z2 = bn.sample("z2", Normal(x @ UP.T, self.log_scale.exp()), event_dims=1)
        bn.sample("z1", Normal((z2 @ DOWN.T).sin(), 0.9), event_dims=1)


def log_probs(program, values) -> dict[str, torch.Tensor]:
    """Return what Pyro says of every site, ``[K, B]``, under values that it is conditioned on."""
    trace = pyro.poutine.trace(pyro.poutine.condition(program, data=values)).get_trace()
    trace.compute_log_prob()
    return {name: trace.nodes[name]["log_prob"] for name in values}


def model() -> None:
    with pyro.plate("particles", K, dim=-2), pyro.plate("rows", B, dim=-1):
        z1 = pyro.sample("z1", pyro.distributions.Normal(torch.zeros(L1).double(), 1.0).to_event(1))
        z2 = pyro.sample("z2", pyro.distributions.Normal((z1 @ UPPER.T).tanh(), 0.7).to_event(1))
        pyro.sample("x", pyro.distributions.Bernoulli(logits=z2 @ LOWER.T + z1 @ SKIP.T).to_event(1))


def guide(log_scale) -> None:
    with pyro.plate("particles", K, dim=-2), pyro.plate("rows", B, dim=-1):
        z2 = pyro.sample("z2", pyro.distributions.Normal(X @ UP.T, log_scale.exp()).to_event(1))
        pyro.sample("z1", pyro.distributions.Normal((z2 @ DOWN.T).sin(), 0.9).to_event(1))


@pytest.mark.parametrize("make", [lb.elbo, lb.iw_objective])
def test_log_p_and_log_q_are_pyros(make):
    q = Posterior()
    made = make(Generator().bind(B), {"x": X}, q.bind(X), particles=K)
    z = {name: made.draw.posterior[name] for name in made.draw.latents}
    assert list(z) == ["z2", "z1"]
    p_sites = log_probs(model, {**z, "x": X.expand(K, B, D)})
    q_sites = log_probs(lambda: guide(q.log_scale), z)
    for name, theirs in p_sites.items():
        torch.testing.assert_close(made.draw.model.log_prob(name), theirs, rtol=0, atol=1e-12)
    for name, theirs in q_sites.items():
        torch.testing.assert_close(made.draw.posterior.log_prob(name), theirs, rtol=0, atol=1e-12)
    log_p, log_q = sum(p_sites.values()), sum(q_sites.values())
    assert tuple(log_p.shape) == tuple(log_q.shape) == (K, B)
    torch.testing.assert_close(made.log_weights, (log_p - log_q).detach(), rtol=0, atol=1e-12)
    (ours,), (theirs,) = (
        torch.autograd.grad(total.sum(), [q.log_scale], retain_graph=True)
        for total in (made.draw.log_likelihood() + made.draw.log_prior() - made.draw.log_posterior(), log_p - log_q)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    assert float(ours.abs()) > 1.0
