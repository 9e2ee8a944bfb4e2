"""Expected gradients of every estimator equal the exact ones: both are integrals, and quadrature computes both.

The estimator's noise is replaced by the nodes of a Gauss-Hermite grid, one grid point a row, so that its expectation is
a weighted sum over rows. The exact gradient is automatic differentiation through the bound itself, written out here
with torch only and integrated on a finer grid. Estimators that are wrong on purpose must be told apart.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, Poisson

import lowerbound as lb
from exact import OnNodes, Scalars, farthest, gauss_hermite, gradients

TOLERANCE = 1e-10
WRONG = 1e-3  # a wrong estimator is at least this far off

# --- One latent: z ~ N(0, 1), three likelihoods that are not conjugate ------------------------------------------------

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


def on_grid(likelihood: str, bound, particles: int, points: int = 64, **options):
    """Return a bound of one datum in which row g is grid point g, the rows' weights, and both programs."""
    nodes, weights = gauss_hermite(points, particles)
    p, q = Generator(likelihood), Posterior()
    x = torch.full((len(weights),), LIKELIHOODS[likelihood][0], dtype=torch.float64)
    made = bound(p.bind(len(weights)), {"x": x}, q.bind(nodes.T.contiguous()), particles=particles, **options)
    return made, weights, p, q


def exact_gradients(likelihood: str, particles: int, points: int = 96) -> tuple[Tensor, dict[str, Tensor]]:
    """Return E log mean w and its gradient, written out without the library."""
    nodes, weights = gauss_hermite(points, particles)
    p, q = Generator(likelihood), Posterior()
    loc, log_scale = q.t["loc"], q.t["log_scale"]
    z = loc + log_scale.exp() * nodes
    x = torch.tensor(LIKELIHOODS[likelihood][0], dtype=torch.float64)
    log_prior = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    log_q = -0.5 * nodes**2 - log_scale - 0.5 * math.log(2 * math.pi)
    log_w = LIKELIHOODS[likelihood][1](p.t, z).log_prob(x) + log_prior - log_q
    value = (weights * (log_w.logsumexp(-1) - math.log(particles))).sum()
    return value.detach(), gradients(value, p, q)


ESTIMATORS = {
    "elbo, sgvb": (lb.elbo, 1, {}, lambda b: b.sgvb()),
    "elbo, sgvb, analytic KL": (lb.elbo, 1, {"analytic_kl": True}, lambda b: b.sgvb()),
    "elbo, stl": (lb.elbo, 1, {}, lambda b: b.sgvb(stl=True)),
    "elbo, stl, analytic KL asked for": (lb.elbo, 1, {"analytic_kl": True}, lambda b: b.sgvb(stl=True)),
    "iwae-1, sgvb": (lb.iw_objective, 1, {}, lambda b: b.sgvb()),
    "iwae-1, dreg": (lb.iw_objective, 1, {}, lambda b: b.dreg()),
    "iwae-2, sgvb": (lb.iw_objective, 2, {}, lambda b: b.sgvb()),
    "iwae-2, dreg": (lb.iw_objective, 2, {}, lambda b: b.dreg()),
    "iwae-2, dreg after value": (lb.iw_objective, 2, {}, lambda b: (b.value, b.dreg())[1]),
    "iwae-2, sgvb after dreg": (lb.iw_objective, 2, {}, lambda b: (b.dreg(), b.sgvb())[1]),
    "iwae-2, dreg twice": (lb.iw_objective, 2, {}, lambda b: (b.dreg(), b.dreg())[1]),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_expected_gradient_is_exact(likelihood, estimator):
    bound, particles, options, estimate = ESTIMATORS[estimator]
    made, weights, p, q = on_grid(likelihood, bound, particles, **options)
    value, wanted = exact_gradients(likelihood, particles)
    assert farthest(gradients(-(weights * estimate(made)).sum(), p, q), wanted) < TOLERANCE
    assert abs((weights * made.value).sum() - value) < TOLERANCE
    assert min(float(grad.abs()) for grad in wanted.values()) > WRONG  # else a zero estimator would pass


def test_elbo_with_more_particles_has_the_same_gradient():
    made, weights, p, q = on_grid("bernoulli", lb.elbo, 2)
    _, wanted = exact_gradients("bernoulli", 1)
    for stl in (False, True):
        assert farthest(gradients(-(weights * made.sgvb(stl=stl)).sum(), p, q), wanted) < TOLERANCE


def dreg_variant(bound, *, theta_power: int = 1, phi_hook: bool = True, on_draws: bool = False) -> Tensor:
    """Return what `dreg` would, or a mistake that is easily made: w^2 for the model, w for q, hooks on the draws.

    Draws depend on each other in a hierarchy: a hook on a draw then acts again on what flows to it through another.
    """
    own = bound.draw
    if on_draws:
        copies = {name: own.posterior[name] for name in own.latents}
    else:
        copies = {name: own.posterior[name].view_as(own.posterior[name]) for name in own.latents}
    scored = own.rescored(copies)
    constant = bound._posterior.run(
        copies, detach_parameters=True, particles=bound.particles, batch=own.posterior.batch
    )
    log_weights = scored.log_weights(1.0, constant.log_joint(own.latents))
    weights = log_weights.detach().softmax(0)
    if phi_hook:
        for copy in copies.values():
            copy.register_hook(lambda grad: grad * weights)
    return -(weights**theta_power * log_weights).sum(0)


NEGATIVE = {
    "zero": lambda b: 0 * b.sgvb(),
    "flipped sign": lambda b: -b.sgvb(),
    "half": lambda b: 0.5 * b.sgvb(),
    "dreg, w^2 for the model": lambda b: dreg_variant(b, theta_power=2, phi_hook=False),
    "dreg, w for the posterior": lambda b: dreg_variant(b, phi_hook=False),
    "dreg, w^2 and w^3": lambda b: dreg_variant(b, theta_power=2),
    "stl weights in place of dreg's": lambda b: -b.draw.log_weights().mean(0),
}


@pytest.mark.parametrize("mistake", NEGATIVE)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_wrong_estimator_is_told_apart(likelihood, mistake):
    made, weights, p, q = on_grid(likelihood, lb.iw_objective, 2)
    _, wanted = exact_gradients(likelihood, 2)
    assert farthest(gradients(-(weights * NEGATIVE[mistake](made)).sum(), p, q), wanted) > WRONG


def test_variant_without_a_mistake_is_right():
    made, weights, p, q = on_grid("bernoulli", lb.iw_objective, 2)
    _, wanted = exact_gradients("bernoulli", 2)
    assert farthest(gradients(-(weights * dreg_variant(made)).sum(), p, q), wanted) < TOLERANCE


@pytest.mark.parametrize("estimate", [lambda b, w: b.sgvb(kl_weight=w), lambda b, w: b.dreg(kl_weight=w)])
def test_warm_up_weight_tempers_the_weights(estimate):
    # beta scales log p(z) - log q(z) inside the log-weights; the sum over draws is then a bound of its own.
    beta, (nodes, weights) = 0.3, gauss_hermite(96, 2)
    p, q = Generator("bernoulli"), Posterior()
    z = q.t["loc"] + q.t["log_scale"].exp() * nodes
    log_ratio = -0.5 * z**2 + 0.5 * nodes**2 + q.t["log_scale"]
    log_w = Bernoulli(logits=p.t["a"] * z + p.t["b"]).log_prob(torch.ones_like(z)) + beta * log_ratio
    wanted = gradients((weights * log_w.logsumexp(-1)).sum(), p)
    made, weights, p, _ = on_grid("bernoulli", lb.iw_objective, 2)
    assert farthest(gradients(-(weights * estimate(made, beta)).sum(), p), wanted) < TOLERANCE


# --- Two latents, one above the other ---------------------------------------------------------------------------------

DEEP_THETA = {"slope": 0.6, "a": 0.7, "c": 0.3, "b": 0.2}
DEEP_PHI = {"loc1": 0.15, "log_scale1": -0.2, "loc2": 0.2, "r": 0.5, "log_scale2": -0.15}


class DeepGenerator(Scalars):
    """z1 ~ N(0, 1), z2 ~ N(slope z1, 1), x ~ Bernoulli(logits = a z2 + c z1 + b)."""

    def __init__(self) -> None:
        super().__init__(**DEEP_THETA)

    def forward(self, bn, n):
        t = self.t
        z1 = bn.sample("z1", Normal(torch.zeros(n, dtype=torch.float64), 1.0))
        z2 = bn.sample("z2", Normal(t["slope"] * z1, 1.0))
        bn.sample("x", Bernoulli(logits=t["a"] * z2 + t["c"] * z1 + t["b"]))


class DeepPosterior(Scalars):
    """z1 ~ N(loc1, .), z2 ~ N(loc2 + r z1 + 0.1 z1^2, .), so that z2's draw depends on z1's and not only linearly."""

    def __init__(self) -> None:
        super().__init__(**DEEP_PHI)

    def forward(self, bn, nodes1, nodes2):
        t, n = self.t, nodes1.shape[1]
        z1 = bn.sample("z1", OnNodes(t["loc1"].expand(n), t["log_scale1"].exp().expand(n), nodes1))
        scale2 = t["log_scale2"].exp().expand(nodes2.shape)
        bn.sample("z2", OnNodes(t["loc2"] + t["r"] * z1 + 0.1 * z1**2, scale2, nodes2))


def deep_on_grid(bound, particles: int, points: int, **options):
    nodes, weights = gauss_hermite(points, 2 * particles)
    nodes1, nodes2 = nodes[:, :particles].T.contiguous(), nodes[:, particles:].T.contiguous()
    p, q = DeepGenerator(), DeepPosterior()
    x = torch.ones(len(weights), dtype=torch.float64)
    made = bound(p.bind(len(weights)), {"x": x}, q.bind(nodes1, nodes2), particles=particles, **options)
    return made, weights, p, q


def deep_exact(particles: int, points: int) -> dict[str, Tensor]:
    nodes, weights = gauss_hermite(points, 2 * particles)
    e1, e2 = nodes[:, :particles], nodes[:, particles:]
    p, q = DeepGenerator(), DeepPosterior()
    t, v = p.t, q.t
    z1 = v["loc1"] + v["log_scale1"].exp() * e1
    z2 = v["loc2"] + v["r"] * z1 + 0.1 * z1**2 + v["log_scale2"].exp() * e2
    log_prior = -0.5 * (z1**2 + (z2 - t["slope"] * z1) ** 2)
    log_q = -0.5 * (e1**2 + e2**2) - v["log_scale1"] - v["log_scale2"]
    log_w = torch.nn.functional.logsigmoid(t["a"] * z2 + t["c"] * z1 + t["b"]) + log_prior - log_q
    return gradients((weights * log_w.logsumexp(-1)).sum(), p, q)


DEEP = {name: ESTIMATORS[name] for name in ESTIMATORS if "-2" not in name}


@pytest.mark.parametrize("estimator", DEEP)
def test_hierarchy_has_the_exact_gradient(estimator):
    bound, particles, options, estimate = DEEP[estimator]
    made, weights, p, q = deep_on_grid(bound, particles, 48, **options)
    wanted = deep_exact(1, 64)
    assert farthest(gradients(-(weights * estimate(made)).sum(), p, q), wanted) < TOLERANCE
    assert min(float(grad.abs()) for grad in wanted.values()) > WRONG


# Four noises make grids of points**4; on 18 points an axis quadrature itself is right to 3e-9, seen by refining it.
DEEP_TOLERANCE = 1e-8


def test_hierarchy_with_two_particles():
    wanted = deep_exact(2, 20)
    made, weights, p, q = deep_on_grid(lb.iw_objective, 2, 18)
    for estimate in (made.sgvb, made.dreg):
        assert farthest(gradients(-(weights * estimate()).sum(), p, q), wanted) < DEEP_TOLERANCE
    right = dreg_variant(made)
    assert farthest(gradients(-(weights * right).sum(), p, q), wanted) < DEEP_TOLERANCE
    made, weights, p, q = deep_on_grid(lb.iw_objective, 2, 18)
    twice = gradients(-(weights * dreg_variant(made, on_draws=True)).sum(), p, q)
    assert farthest(twice, wanted) > WRONG
