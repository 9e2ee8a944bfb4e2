"""Weighted, grouped, mixed and Rényi's bounds: their order, what is certified, and what they refuse."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

import lowerbound as lb
import tiny
from averages import iwae, mixed, renyi, split
from discrete_case import Generator, Posterior, X, log_p, log_q, tuples
from exact import farthest, gradients, linear_gaussian, random
from lowerbound.core.errors import ArgumentError
from lowerbound.objectives.averages import Average
from lowerbound.objectives.rws import _weighted

K, B, D, L = 6, 5, 7, 2


def bound(particles: int = K, make=lb.iw_objective, **options):
    """Return a bound of the linear-Gaussian model under a posterior that is not exact."""
    truth = linear_gaussian(D, L)
    p, q, x = truth.generator(), truth.perturbed(), 2.0 * random(5, B, D)
    torch.manual_seed(0)
    made = make(p.bind(B), {"x": x}, q.bind(x), particles=particles, **options)
    _ = made.draw  # the same for all options, as it is made here
    return made, p, q


VALUES = {
    "iwae-6": ({}, iwae),
    "renyi(0.5)-6": ({"alpha": 0.5}, renyi(0.5)),
    "renyi(-1)-6": ({"alpha": -1.0}, renyi(-1.0)),
    "ciwae(0.05)-6": ({"elbo_share": 0.05}, mixed(0.05)),
    "miwae-2-3": ({"groups": 2}, split(2, iwae)),
    "miwae-3-2": ({"groups": 3}, split(3, iwae)),
    "cmrenyi": ({"groups": 3, "alpha": 2.0, "elbo_share": 0.3}, split(3, mixed(0.3, 2.0))),
}


@pytest.mark.parametrize("name", VALUES)
def test_value_is_the_average_of_the_weights(name):
    options, value = VALUES[name]
    made, _, _ = bound(**options)
    torch.testing.assert_close(made.value, value(made.log_weights), rtol=0, atol=1e-12)
    assert made.name == ("mcrenyi(2,0.3)-3-2" if name == "cmrenyi" else name)
    assert list(made.terms) == [made.name, "reconstruction", "kl"]
    assert made.terms[made.name].equal(made.value)


def test_weights_and_value_of_a_partial_bound_are_those_of_all_particles():
    partial, plain, grouped = (bound(**options)[0] for options in ({"groups": 3, "partial": True}, {}, {"groups": 3}))
    assert partial.log_weights.equal(plain.log_weights)
    assert partial.value.equal(plain.value)
    assert partial.name == plain.name == "iwae-6"
    assert float((plain.value - grouped.value).min()) > 0  # Jensen: more draws under the logarithm


@pytest.mark.parametrize("estimator", ["sgvb", "dreg", "vimco", "reinforce"])
def test_partial_takes_each_gradient_from_its_bound(estimator):
    made = {}
    for name, options in {"partial": {"groups": 3, "partial": True}, "all": {}, "groups": {"groups": 3}}.items():
        one, p, q = bound(**options)
        cost = getattr(one, estimator)()
        made[name] = gradients(cost.sum(), p), gradients(cost.sum(), q)
    assert farthest(made["partial"][0], made["all"][0]) < 1e-10
    assert farthest(made["partial"][1], made["groups"][1]) < 1e-10
    assert farthest(made["groups"][0], made["all"][0]) > 1e-3
    assert farthest(made["groups"][1], made["all"][1]) > 1e-3


def test_orders_fall_from_renyi_to_the_evidence_lower_bound():
    """Draw by draw: a power mean rises with its power, 1 - alpha."""
    values = [bound(alpha=alpha)[0].value for alpha in (-2.0, -0.5, 0.0, 0.5, 0.999)]
    values += [bound(make=lb.elbo)[0].value, bound(alpha=1.001)[0].value, bound(alpha=3.0)[0].value]
    assert all(float((earlier - later).min()) > 0 for earlier, later in pairwise(values))
    assert float((values[4] - values[5]).max()) < 1e-2  # near alpha = 1


def expected(particles: int, make=lb.iw_objective, **options) -> float:
    """Return the exact expectation of a bound, summed over all tuples of draws."""
    p, q = Generator(), Posterior()
    z, k = tuples(particles)
    x = torch.full((z.shape[1],), X, dtype=torch.float64)
    made = make(p.bind(len(x)), {"x": x}, q.bind(z, k), particles=particles, **options)
    return float((log_q(q.t, z, k).sum(0).exp() * made.value).sum().detach())


def evidence() -> float:
    z, k = tuples(1)
    return float(log_p(Generator().t, z, k).logsumexp(1).detach())


CERTIFIED = [{"alpha": a} for a in (0.0, 0.5, 0.99, 2.0)] + [{"elbo_share": s} for s in (0.1, 1.0)]


@pytest.mark.parametrize("options", CERTIFIED)
def test_certified_bounds_lie_below_the_evidence(options):
    assert bound(**options)[0].certified
    assert lb.objectives.IWAE(tiny.vae(), **options).certified
    for particles in (1, 2, 4):
        assert expected(particles, **options) < evidence() - 1e-3
    assert lb.elbo(Generator().bind(1), {}, Posterior().bind(), beta=1.5).certified


def test_negative_orders_are_no_bound_and_say_so():
    """One draw gives the evidence lower bound, whatever the order; more draws climb past log p(x)."""
    options = {"alpha": -9.0}
    found = [expected(particles, **options) for particles in (1, 2, 4)]
    assert found[0] < evidence() < found[2]
    assert not bound(**options)[0].certified
    objective = lb.objectives.IWAE(tiny.vae(), **options)
    assert not objective.certified
    assert objective.describe()["certified"] is False


def test_light_divergences_are_no_bound_and_say_so():
    """At the exact posterior the weighted bound is log p(x) + (1 - beta) KL, which lies above where beta < 1.

    The standard error of 20,000 draws is 0.007 nats on every row; seven of them are allowed.
    """
    truth, x = linear_gaussian(D, L), 2.0 * random(5, B, D)
    p, q = truth.generator().bind(B), truth.posterior().bind(x)
    for beta in (0.5, 1.0, 4.0):
        torch.manual_seed(0)
        exact = lb.elbo(p, {"x": x}, q, particles=20_000, analytic_kl=True, beta=beta)
        wanted = truth.log_evidence(x) + (1 - beta) * exact.terms["kl"]
        torch.testing.assert_close(exact.value, wanted, rtol=0, atol=0.05)
        assert float(exact.terms["kl"].min()) > 1.0
    made, _, _ = bound(make=lb.elbo, beta=0.5)
    assert (made.certified, made.name) == (False, "beta-elbo(0.5)")
    assert not lb.objectives.ELBO(tiny.vae(), beta=0.5).certified
    assert lb.objectives.ELBO(tiny.vae(), beta=2.0).certified


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_beta_belongs_to_the_value_and_the_warm_up_to_the_cost(analytic_kl):
    made, _, _ = bound(make=lb.elbo, beta=4.0, analytic_kl=analytic_kl)
    plain, _, _ = bound(make=lb.elbo, analytic_kl=analytic_kl)
    terms = made.terms
    torch.testing.assert_close(made.value, terms["reconstruction"] - 4 * terms["kl"], rtol=0, atol=1e-12)
    assert made.log_weights.equal(plain.log_weights)
    cost = made.sgvb(kl_weight=0.25).detach()
    torch.testing.assert_close(cost, terms["kl"] - terms["reconstruction"], rtol=0, atol=1e-12)
    assert not made.value.equal(plain.value)


@pytest.mark.parametrize("average", [Average(), Average(0.5), Average(-1.0, 0.3), Average(0.0, 1.0), Average(2.5)])
def test_derivatives_are_those_of_the_average(average):
    log_weights = random(3, 4, 2).requires_grad_()
    (slope,) = torch.autograd.grad(average(log_weights).sum(), log_weights, create_graph=True)
    bend = torch.stack([torch.autograd.grad(slope[k].sum(), log_weights, retain_graph=True)[0][k] for k in range(4)])
    found, factor = average.derivatives(log_weights.detach(), 0.7)
    torch.testing.assert_close(found, slope.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found * factor, slope.detach() - 0.7 * bend, rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimator", ["sgvb", "dreg"])
def test_gradients_survive_weights_that_are_far_apart(estimator):
    """In float32 a weight of exp(-400) is zero, which divides nothing."""

    class Far(lb.BayesianNet):
        def forward(self, bn, n):
            z = bn.sample("z", torch.distributions.Normal(torch.zeros(n), 1.0))
            bn.sample("x", torch.distributions.Normal(400 * z, 1.0))

    class Q(lb.BayesianNet):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(()))

        def forward(self, bn, n):
            bn.sample("z", torch.distributions.Normal(self.loc.expand(n), 1.0))

    for options in ({}, {"alpha": 0.5}, {"elbo_share": 0.5}, {"groups": 3, "partial": True}, {"elbo_share": 1.0}):
        q = Q()
        made = lb.iw_objective(Far().bind(B), {"x": torch.zeros(B)}, q.bind(B), particles=K, **options)
        (grad,) = torch.autograd.grad(getattr(made, estimator)().sum(), q.loc)
        assert bool(grad.isfinite())
        assert bool(made.value.isfinite().all())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's compiler, of itself
def test_compiled_doubly_reparameterised_gradient_is_the_same():
    """A graph that is differentiated as a whole would lose what is done to gradients on their way."""
    goal = lb.objectives.IWAE(tiny.vae(), particles=K, gradient="dreg")
    torch.compiler.reset()
    found = []
    for forward in (goal, torch.compile(goal, backend="aot_eager")):
        torch.manual_seed(0)
        found.append(gradients(forward(torch.ones(B, tiny.WIDTH)).cost, goal.model))
    torch.compiler.reset()
    assert farthest(*found) < 1e-6
    assert max(float(grad.abs().max()) for grad in found[0].values()) > 1e-2


REFUSED = {
    "groups that do not divide": (
        {"groups": 4},
        r"groups: expected a divisor of particles=6, got 4\. Particles are all draws: 8 groups of 5 are particles=40",
    ),
    "no groups": ({"groups": 0}, r"groups: expected a positive integer, got 0\. Pass groups=1 or more"),
    "partial without groups": (
        {"partial": True},
        r"partial: expected several groups, got groups=1\. Pass groups=2 or more, or leave partial out",
    ),
    "alpha is 1": (
        {"alpha": 1.0},
        r"alpha: expected a number other than 1, got 1\.0\. There Rényi's bound is the evidence lower bound: use elbo",
    ),
    "alpha is not finite": ({"alpha": math.inf}, r"alpha: expected a finite number, got inf"),
    "alpha is a word": ({"alpha": "half"}, r"alpha: expected a finite number, got 'half'"),
    "share above 1": (
        {"elbo_share": 1.5},
        r"elbo_share: expected a finite number of at least 0 and at most 1, got 1\.5",
    ),
    "negative share": ({"elbo_share": -0.1}, r"elbo_share: expected a finite number of at least 0"),
}


@pytest.mark.parametrize("options, message", REFUSED.values(), ids=REFUSED)
def test_options_out_of_range(options, message):
    with pytest.raises(ArgumentError, match=message):
        bound(**options)
    with pytest.raises(ArgumentError, match=message):
        lb.objectives.IWAE(tiny.vae(), particles=K, **options)


def test_one_particle_in_each_group_cannot_be_compared():
    message = r"vimco: expected at least 2 particles, which it compares, got 1"
    with pytest.raises(ArgumentError, match=message):
        bound(groups=K)[0].vimco()
    with pytest.raises(ArgumentError, match=message):
        lb.objectives.IWAE(tiny.vae(), particles=K, groups=K, gradient="vimco")


@pytest.mark.parametrize("beta", [-0.1, math.nan, "4"])
def test_beta_is_a_number_that_is_not_negative(beta):
    with pytest.raises(ArgumentError, match=r"beta: expected a finite number of at least 0, got"):
        bound(make=lb.elbo, beta=beta)
    with pytest.raises(ArgumentError, match=r"beta: expected a finite number of at least 0, got"):
        lb.objectives.ELBO(tiny.vae(), beta=beta)


def test_moving_average_follows_a_weighted_bound():
    objective = lb.objectives.ELBO(tiny.vae(), gradient="reinforce", baseline="moving-average", beta=2.0)
    outcome = objective(torch.ones(B, tiny.WIDTH))
    assert float(objective.moving_average) == pytest.approx(0.1 * float(outcome.terms["beta-elbo(2)"]), rel=1e-5)


def test_training_on_what_is_no_bound_takes_the_last_weights():
    run = tiny.fit(lb.objectives.IWAE(tiny.vae(), particles=4, alpha=-1.0), validation=tiny.rows(16, seed=1))
    assert "renyi(-1)-4" in run.history[-1]["validation"]
    with pytest.raises(ArgumentError, match=r"patience: expected an objective that is a bound, got IWAE"):
        tiny.fit(lb.objectives.IWAE(tiny.vae(), alpha=-1.0), validation=tiny.rows(16, seed=1), patience=2)


def test_particles_of_no_weight_count_for_nothing():
    values = torch.tensor([2.0, -math.inf], requires_grad=True)
    found = _weighted(torch.tensor([1.0, 0.0]), values)
    assert found.tolist() == [2.0, 0.0]
    assert torch.autograd.grad(found.sum(), values)[0].tolist() == [1.0, 0.0]
