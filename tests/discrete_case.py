"""Two discrete latents, one below the other: expectations over K draws are sums over all 6^K tuples of values.

Each row of a batch is one tuple of draws. The exact gradient is automatic differentiation through the sum, of the bound
itself, written here with torch only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

import lowerbound as lb
from averages import Value, elbo, iwae, mixed, renyi, split
from exact import Scalars, gradients


class Given:
    """Makes `sample` return given values, one tuple a row, shape ``[K, rows]``."""

    def sample(self, sample_shape=torch.Size()):  # noqa: B008 (torch's own signature)
        return self.values.reshape(self._extended_shape(sample_shape))


class GivenBernoulli(Given, Bernoulli):
    pass


class GivenCategorical(Given, Categorical):
    pass


def given(kind, values: Tensor, logits: Tensor):
    distribution = kind(logits=logits)
    distribution.values = values
    return distribution


# --- Two latents, the second below the first, and three values of the second ------------------------------------------

THETA = {"a": 0.7, "b": -0.4, "c": 0.9}
PHI = {"u": 0.3, "v": -0.6, "w": 0.5}
X = 0.8


def prior_logits(t) -> tuple[Tensor, Tensor]:
    return t["b"], torch.stack([t["a"], t["b"], torch.zeros_like(t["a"])])


def posterior_logits(t, z: Tensor) -> Tensor:
    return torch.stack([t["v"] * z, t["w"] + 0.2 * z, 0.1 * z], -1)


class Generator(Scalars):
    def __init__(self) -> None:
        super().__init__(**THETA)

    def forward(self, bn, n):
        first, second = prior_logits(self.t)
        z = bn.sample("z", Bernoulli(logits=first.expand(n)))
        k = bn.sample("k", Categorical(logits=second.expand(n, 3)))
        bn.sample("x", Normal(self.t["a"] * z + self.t["c"] * k, 0.8))


class Posterior(Scalars):
    def __init__(self) -> None:
        super().__init__(**PHI)

    def forward(self, bn, z_values, k_values):
        n = z_values.shape[1]
        z = bn.sample("z", given(GivenBernoulli, z_values, self.t["u"].expand(n)))
        bn.sample("k", given(GivenCategorical, k_values, posterior_logits(self.t, z)))


def tuples(particles: int) -> tuple[Tensor, Tensor]:
    """Return all values of the two latents of K particles, each ``[K, 6^K]``."""
    states = torch.tensor(list(product(range(2), range(3))), dtype=torch.float64)
    table = states[torch.tensor(list(product(range(6), repeat=particles)))]
    return table[:, :, 0].T.contiguous(), table[:, :, 1].T.contiguous()


def log_prior(t, z: Tensor, k: Tensor) -> Tensor:
    first, second = prior_logits(t)
    return Bernoulli(logits=first).log_prob(z) + second.log_softmax(0)[k.long()]


def log_p(t, z: Tensor, k: Tensor, x: Tensor | float = X) -> Tensor:
    likelihood = Normal(t["a"] * z + t["c"] * k, 0.8).log_prob(torch.as_tensor(x, dtype=torch.float64))
    return log_prior(t, z, k) + likelihood


def log_q(t, z: Tensor, k: Tensor) -> Tensor:
    below = posterior_logits(t, z).log_softmax(-1).gather(-1, k.long().unsqueeze(-1)).squeeze(-1)
    return Bernoulli(logits=t["u"]).log_prob(z) + below


def exact_gradient(particles: int, value: Value, kl_weight: float = 1.0) -> dict[str, Tensor]:
    """Return the gradient of E[value(log weights [K, rows])] by differentiating the sum over all tuples."""
    p, q = Generator(), Posterior()
    z, k = tuples(particles)
    scores, prior = log_q(q.t, z, k), log_prior(p.t, z, k)
    log_weights = log_p(p.t, z, k) - prior + kl_weight * (prior - scores)
    expectation = (scores.sum(0).exp() * value(log_weights)).sum()
    return gradients(expectation, p, q)


def expected_gradient(particles: int, make, estimate, **options) -> dict[str, Tensor]:
    """Return minus the gradient of an estimator's cost, summed over all tuples with their probabilities."""
    p, q = Generator(), Posterior()
    z, k = tuples(particles)
    x = torch.full((z.shape[1],), X, dtype=torch.float64)
    cost = estimate(make(p.bind(len(x)), {"x": x}, q.bind(z, k), particles=particles, **options))
    assert cost.shape == x.shape
    return gradients(-(log_q(q.t, z, k).sum(0).exp().detach() * cost).sum(), p, q)


# --- Every estimator of a score-function gradient ---------------------------------------------------------------------


class Row(NamedTuple):
    """An estimator and what it estimates.

    Attributes:
        bound: The function of the library.
        value: From log-weights to the bound, for the parameters of q.
        estimate: From a bound to a cost.
        options: Arguments of `bound`.
        particles: The numbers of draws that are tried.
        model_value: The same as `value` for the parameters of p, where it differs.
        weight: The factor on log p(z) - log q(z) in the cost: beta times the warm-up's.
    """

    bound: Callable[..., Any]
    value: Value
    estimate: Callable[..., Tensor]
    options: Mapping[str, Any] = MappingProxyType({})
    particles: tuple[int, ...] = (1, 2, 3)
    model_value: Value | None = None
    weight: float = 1.0

    def truth(self, particles: int) -> dict[str, Tensor]:
        found = exact_gradient(particles, self.value, self.weight)
        if self.model_value is not None:
            other = exact_gradient(particles, self.model_value, self.weight)
            found |= {f"t.{name}": other[f"t.{name}"] for name in THETA}
        return found


SEVERAL = (2, 3)  # one particle has none to compare with
GROUPED = {
    "miwae": ({"groups": 2}, split(2, iwae), None),
    "piwae": ({"groups": 2, "partial": True}, split(2, iwae), iwae),
    "mixed": (
        {"groups": 2, "partial": True, "alpha": -0.5, "elbo_share": 0.3},
        split(2, mixed(0.3, -0.5)),
        mixed(0.3, -0.5),
    ),
}
ESTIMATORS = {
    "reinforce": Row(lb.elbo, elbo, lambda b: b.reinforce()),
    "reinforce, a number": Row(lb.elbo, elbo, lambda b: b.reinforce(baseline=-1.7)),
    "reinforce, a tensor": Row(lb.elbo, elbo, lambda b: b.reinforce(baseline=torch.full_like(b.value, -2.2))),
    "reinforce, leave one out": Row(lb.elbo, elbo, lambda b: b.reinforce(baseline="leave-one-out"), particles=SEVERAL),
    "vargrad": Row(lb.elbo, elbo, lambda b: b.vargrad(), particles=SEVERAL),
    "iwae reinforce": Row(lb.iw_objective, iwae, lambda b: b.reinforce()),
    "iwae reinforce, a number": Row(lb.iw_objective, iwae, lambda b: b.reinforce(baseline=2.3)),
    "vimco": Row(lb.iw_objective, iwae, lambda b: b.vimco(), particles=SEVERAL),
    "vimco, warm": Row(lb.iw_objective, iwae, lambda b: b.vimco(kl_weight=0.3), particles=SEVERAL, weight=0.3),
    "beta reinforce": Row(lb.elbo, elbo, lambda b: b.reinforce(), {"beta": 2.5}, weight=2.5),
    "beta reinforce, leave one out": Row(
        lb.elbo, elbo, lambda b: b.reinforce(baseline="leave-one-out"), {"beta": 2.5}, SEVERAL, weight=2.5
    ),
    "beta vargrad, warm": Row(lb.elbo, elbo, lambda b: b.vargrad(kl_weight=0.4), {"beta": 2.5}, SEVERAL, weight=1.0),
    "renyi reinforce": Row(lb.iw_objective, renyi(0.5), lambda b: b.reinforce(baseline=0.4), {"alpha": 0.5}),
    "renyi vimco": Row(lb.iw_objective, renyi(-1.0), lambda b: b.vimco(), {"alpha": -1.0}, SEVERAL),
    "ciwae reinforce": Row(lb.iw_objective, mixed(0.3), lambda b: b.reinforce(), {"elbo_share": 0.3}),
    "ciwae vimco": Row(lb.iw_objective, mixed(0.3), lambda b: b.vimco(), {"elbo_share": 0.3}, SEVERAL),
}
for _name, (_options, _value, _model_value) in GROUPED.items():
    for _word in ("reinforce", "vimco"):
        ESTIMATORS[f"{_name} {_word}"] = Row(
            lb.iw_objective, _value, lambda b, _word=_word: getattr(b, _word)(), _options, (4,), _model_value
        )
