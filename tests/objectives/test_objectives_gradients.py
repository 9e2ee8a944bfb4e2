"""Expected gradients of every estimator equal the exact ones: both are integrals, and quadrature computes both.

The estimator's noise is replaced by the nodes of a Gauss-Hermite grid, one grid point a row, so that its expectation is
a weighted sum over rows. The exact gradient is automatic differentiation through the bound itself, written out here
with torch only and integrated on a finer grid. Estimators that are wrong on purpose must be told apart.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import lowerbound as lb
from exact import OnNodes, Scalars, farthest, gauss_hermite, gradients
from gaussian_case import ESTIMATORS, LIKELIHOODS, exact_gradients, on_grid

TOLERANCE = 1e-10
WRONG = 1e-3  # a wrong estimator is at least this far off


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_expected_gradient_is_exact(likelihood, estimator):
    row = ESTIMATORS[estimator]
    made, weights, p, q = row.costs(likelihood)
    wanted = row.truth(likelihood)
    cost = row.estimate(made)
    assert cost.shape == weights.shape
    assert farthest(gradients(-(weights * cost).sum(), p, q), wanted) < TOLERANCE
    assert abs((weights * made.value).sum() - row.expectation(likelihood)) < TOLERANCE
    assert min(float(grad.abs()) for grad in wanted.values()) > WRONG  # else a zero estimator would pass


MUTATIONS = {"zero": 0.0, "flipped sign": -1.0, "doubled": 2.0}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_mutation_is_told_apart(estimator):
    row = ESTIMATORS[estimator]
    made, weights, p, q = row.costs("bernoulli")
    found, wanted = gradients(-(weights * row.estimate(made)).sum(), p, q), row.truth("bernoulli")
    for factor in MUTATIONS.values():
        for program in (p, q):  # the mistake is in one player's gradient only
            names = [name for name, _ in program.named_parameters()]
            mutated = found | {name: factor * found[name] for name in names}
            assert farthest(mutated, wanted) > WRONG


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


DEEP = {name: row for name, row in ESTIMATORS.items() if row.particles == 1 and row.kl_weight == 1 and row.beta == 1}


@pytest.mark.parametrize("estimator", DEEP)
def test_hierarchy_has_the_exact_gradient(estimator):
    row = DEEP[estimator]
    made, weights, p, q = deep_on_grid(row.bound, 1, 48, **row.options)
    wanted = deep_exact(1, 64)
    assert farthest(gradients(-(weights * row.estimate(made)).sum(), p, q), wanted) < TOLERANCE
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
