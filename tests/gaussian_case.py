"""One Gaussian latent below three likelihoods: expectations over its draws are integrals, and quadrature computes them.

The noise is replaced by the nodes of a Gauss-Hermite grid, one grid point a row, so that an expectation is a weighted
sum over rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, Poisson

import lowerbound as lb
from averages import Value, elbo, iwae, mixed, renyi, split
from exact import OnNodes, Scalars, gauss_hermite, gradients

LIKELIHOODS = {
    "bernoulli": (1.0, lambda t, z: Bernoulli(logits=t["a"] * z + t["b"])),
    "poisson": (2.0, lambda t, z: Poisson(torch.exp(0.5 * t["a"] * z + t["b"]))),
    "curved normal": (0.8, lambda t, z: Normal(torch.sin(0.5 * t["a"] * z) + t["b"], 1.3)),
}
THETA = {"a": 0.9, "b": 0.3}
PHI = {"loc": 0.25, "log_scale": -0.3}


class Generator(Scalars):
    def __init__(self, likelihood: str) -> None:
        super().__init__(**THETA)
        self.likelihood = LIKELIHOODS[likelihood][1]

    def forward(self, bn, n):
        z = bn.sample("z", Normal(torch.zeros(n, dtype=torch.float64), 1.0))
        bn.sample("x", self.likelihood(self.t, z))


class Posterior(Scalars):
    """q(z) = N(loc, scale^2), drawn at given nodes ``[K, n]``."""

    def __init__(self) -> None:
        super().__init__(**PHI)

    def forward(self, bn, nodes):
        n = nodes.shape[1]
        loc, scale = self.t["loc"].expand(n), self.t["log_scale"].exp().expand(n)
        bn.sample("z", OnNodes(loc, scale, nodes))


def on_grid(likelihood: str, bound, particles: int, points: int = 64, repeats: int = 1, **options):
    """Return a bound of one datum in which row g is grid point g, the rows' weights, and both programs.

    The nodes of a row may be repeated: where a bound is a mean over groups, its expectation needs no grid over all.
    """
    nodes, weights = gauss_hermite(points, particles // repeats)
    nodes = nodes.repeat(1, repeats)
    p, q = Generator(likelihood), Posterior()
    x = torch.full((len(weights),), LIKELIHOODS[likelihood][0], dtype=torch.float64)
    made = bound(p.bind(len(weights)), {"x": x}, q.bind(nodes.T.contiguous()), particles=particles, **options)
    return made, weights, p, q


def exact_gradients(
    likelihood: str, particles: int, points: int = 96, value: Value = iwae, kl_weight: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return E value(log weights ``[K, rows]``) and its gradient, written out without the library.

    `kl_weight` multiplies log p(z) - log q(z) in the weights.
    """
    nodes, weights = gauss_hermite(points, particles)
    p, q = Generator(likelihood), Posterior()
    loc, log_scale = q.t["loc"], q.t["log_scale"]
    z = loc + log_scale.exp() * nodes
    x = torch.tensor(LIKELIHOODS[likelihood][0], dtype=torch.float64)
    log_prior = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    log_q = -0.5 * nodes**2 - log_scale - 0.5 * math.log(2 * math.pi)
    log_w = LIKELIHOODS[likelihood][1](p.t, z).log_prob(x) + kl_weight * (log_prior - log_q)
    expectation = (weights * value(log_w.T)).sum()
    return expectation.detach(), gradients(expectation, p, q)


# --- Every estimator of a pathwise gradient ---------------------------------------------------------------------------


class Row(NamedTuple):
    """An estimator and what it estimates.

    Attributes:
        bound: The function of the library.
        particles: Draws.
        estimate: From a bound to a cost.
        value: From log-weights to the bound, for the parameters of q.
        options: Arguments of `bound`.
        model_value: The same for the parameters of p, where it differs.
        beta: The factor on log p(z) - log q(z) in the bound's own weights.
        kl_weight: The estimator's warm-up.
        repeats: As for `on_grid`.
    """

    bound: Callable[..., Any]
    particles: int
    estimate: Callable[..., Tensor]
    value: Value
    options: Mapping[str, Any] = MappingProxyType({})
    model_value: Value | None = None
    beta: float = 1.0
    kl_weight: float = 1.0
    repeats: int = 1

    def costs(self, likelihood: str) -> tuple[Any, Tensor, Generator, Posterior]:
        return on_grid(likelihood, self.bound, self.particles, repeats=self.repeats, **self.options)

    def truth(self, likelihood: str) -> dict[str, Tensor]:
        particles, weight = self.particles // self.repeats, self.beta * self.kl_weight
        _, found = exact_gradients(likelihood, particles, value=self.value, kl_weight=weight)
        if self.model_value is not None:
            _, other = exact_gradients(likelihood, particles, value=self.model_value, kl_weight=weight)
            found |= {f"t.{name}": other[f"t.{name}"] for name in THETA}
        return found

    def expectation(self, likelihood: str) -> Tensor:
        particles, value = self.particles // self.repeats, self.model_value or self.value
        return exact_gradients(likelihood, particles, value=value, kl_weight=self.beta)[0]


WARM = 0.3

BETA = {"beta": 2.5}
RELATIVES = {
    "renyi 0.5": (2, {"alpha": 0.5}, renyi(0.5), {}),
    "renyi 2": (2, {"alpha": 2.0}, renyi(2.0), {}),
    "renyi -0.5": (2, {"alpha": -0.5}, renyi(-0.5), {}),
    "ciwae": (2, {"elbo_share": 0.3}, mixed(0.3), {}),
    "all elbo": (2, {"elbo_share": 1.0}, elbo, {}),
    "miwae": (4, {"groups": 2}, iwae, {"repeats": 2}),
    "piwae": (2, {"groups": 2, "partial": True}, elbo, {"model_value": iwae}),
    "miwae, mixed, renyi": (4, {"groups": 2, "alpha": 0.5, "elbo_share": 0.3}, mixed(0.3, 0.5), {"repeats": 2}),
    "piwae, mixed, renyi": (
        2,
        {"groups": 2, "partial": True, "alpha": -1.0, "elbo_share": 0.3},
        split(2, mixed(0.3, -1.0)),
        {"model_value": mixed(0.3, -1.0)},
    ),
}
ESTIMATORS = {
    "elbo, sgvb": Row(lb.elbo, 1, lambda b: b.sgvb(), elbo),
    "elbo, sgvb, analytic KL": Row(lb.elbo, 1, lambda b: b.sgvb(), elbo, {"analytic_kl": True}),
    "elbo, stl": Row(lb.elbo, 1, lambda b: b.sgvb(stl=True), elbo),
    "elbo, stl, analytic KL asked for": Row(lb.elbo, 1, lambda b: b.sgvb(stl=True), elbo, {"analytic_kl": True}),
    "elbo-2, sgvb": Row(lb.elbo, 2, lambda b: b.sgvb(), elbo),
    "elbo-2, stl": Row(lb.elbo, 2, lambda b: b.sgvb(stl=True), elbo),
    "beta-elbo, sgvb": Row(lb.elbo, 1, lambda b: b.sgvb(), elbo, BETA, beta=2.5),
    "beta-elbo, analytic": Row(lb.elbo, 1, lambda b: b.sgvb(), elbo, {**BETA, "analytic_kl": True}, beta=2.5),
    "beta-elbo, stl": Row(lb.elbo, 1, lambda b: b.sgvb(stl=True), elbo, BETA, beta=2.5),
    "beta-elbo, warm": Row(
        lb.elbo, 1, lambda b: b.sgvb(stl=True, kl_weight=WARM), elbo, BETA, beta=2.5, kl_weight=WARM
    ),
    "iwae-1, sgvb": Row(lb.iw_objective, 1, lambda b: b.sgvb(), iwae),
    "iwae-1, dreg": Row(lb.iw_objective, 1, lambda b: b.dreg(), iwae),
    "iwae-2, sgvb": Row(lb.iw_objective, 2, lambda b: b.sgvb(), iwae),
    "iwae-2, dreg": Row(lb.iw_objective, 2, lambda b: b.dreg(), iwae),
    "iwae-2, sgvb, warm": Row(lb.iw_objective, 2, lambda b: b.sgvb(kl_weight=WARM), iwae, kl_weight=WARM),
    "iwae-2, dreg, warm": Row(lb.iw_objective, 2, lambda b: b.dreg(kl_weight=WARM), iwae, kl_weight=WARM),
    "iwae-2, dreg after value": Row(lb.iw_objective, 2, lambda b: (b.value, b.dreg())[1], iwae),
    "iwae-2, sgvb after dreg": Row(lb.iw_objective, 2, lambda b: (b.dreg(), b.sgvb())[1], iwae),
    "iwae-2, dreg twice": Row(lb.iw_objective, 2, lambda b: (b.dreg(), b.dreg())[1], iwae),
}
for _name, (_particles, _options, _value, _rest) in RELATIVES.items():
    for _word in ("sgvb", "dreg"):
        ESTIMATORS[f"{_name}, {_word}"] = Row(
            lb.iw_objective, _particles, lambda b, _word=_word: getattr(b, _word)(), _value, _options, **_rest
        )
    ESTIMATORS[f"{_name}, dreg, warm"] = Row(
        lb.iw_objective,
        _particles,
        lambda b: b.dreg(kl_weight=WARM),
        _value,
        _options,
        **{**_rest, "kl_weight": WARM},
    )
