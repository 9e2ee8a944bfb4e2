"""Expected score-function gradients equal the exact ones: every K-tuple of discrete draws is enumerated.

Each row of a batch is one tuple of draws, so that an expectation is a sum over rows with the tuples' probabilities. The
exact gradient is automatic differentiation through that sum, of the bound itself, written here with torch only.
"""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

import lowerbound as lb
import tiny
from averages import elbo, iwae
from discrete_case import (
    ESTIMATORS,
    PHI,
    THETA,
    Generator,
    GivenBernoulli,
    Posterior,
    X,
    exact_gradient,
    expected_gradient,
    given,
    log_p,
    log_prior,
    log_q,
    tuples,
)
from exact import OnNodes, Scalars, farthest, gauss_hermite, gradients
from lowerbound.core.errors import ArgumentError, NodeError
from lowerbound.objectives.score import leave_one_out, vimco_signal

TOLERANCE = 1e-10
WRONG = 1e-3  # a wrong estimator is at least this far off


@pytest.mark.parametrize("name, particles", [(name, k) for name, row in ESTIMATORS.items() for k in row.particles])
def test_expected_gradient_is_exact(name: str, particles: int) -> None:
    row = ESTIMATORS[name]
    found, wanted = expected_gradient(particles, row.bound, row.estimate, **row.options), row.truth(particles)
    assert farthest(found, wanted) < TOLERANCE
    for factor in (0.0, -1.0, 2.0):  # a zero gradient, a flipped sign and a doubled one are told apart in each player
        for player in (THETA, PHI):
            assert farthest(found | {f"t.{n}": factor * found[f"t.{n}"] for n in player}, wanted) > WRONG


def constant(bound):
    """Return what score-function costs are made of: f without its own score, and log q."""
    draws, log_q_live, fixed, score = bound._score_draws(pathwise=False)
    return draws.log_weights(1.0, fixed), draws.log_weights(1.0, log_q_live), score


WRONGS = {
    "no score": (lb.elbo, elbo, lambda b: -constant(b)[0].mean(0)),
    "flipped sign": (lb.elbo, elbo, lambda b: -(constant(b)[0] - constant(b)[0].detach() * constant(b)[2]).mean(0)),
    "own particle in the baseline": (
        lb.elbo,
        elbo,
        lambda b: -(constant(b)[0] + (constant(b)[0] - constant(b)[0].mean(0)).detach() * constant(b)[2]).mean(0),
    ),
    "iwae as Pyro has it": (lb.iw_objective, iwae, lambda b: -iwae(constant(b)[0])),
    "iwae without the path of the weights": (
        lb.iw_objective,
        iwae,
        lambda b: -iwae(constant(b)[0]) - iwae(constant(b)[0]).detach() * constant(b)[2].sum(0),
    ),
    "vimco without the signal": (lb.iw_objective, iwae, lambda b: -iwae(constant(b)[1])),
    "vimco with the sum of signals": (
        lb.iw_objective,
        iwae,
        lambda b: -iwae(constant(b)[1]) - vimco_signal(constant(b)[0].detach()).sum(0) * constant(b)[2].sum(0),
    ),
}


@pytest.mark.parametrize("name", WRONGS)
def test_wrong_estimators_are_told_apart(name: str) -> None:
    make, value, estimate = WRONGS[name]
    assert farthest(expected_gradient(2, make, estimate), exact_gradient(2, value)) > WRONG


# --- Draw by draw -----------------------------------------------------------------------------------------------------


def bound_of(make, particles: int, rows: int = 40, **options):
    p, q = Generator(), Posterior()
    table = tuples(particles)
    z, k = (values[:, :: max(1, values.shape[1] // rows)] for values in table)
    x = torch.linspace(-1, 2, z.shape[1], dtype=torch.float64)
    return make(p.bind(len(x)), {"x": x}, q.bind(z, k), particles=particles, **options), p, q


@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_vargrad_is_leave_one_out(kl_weight: float) -> None:
    for row in range(5):
        pair = []
        for estimate in (
            lambda b: b.vargrad(kl_weight=kl_weight),
            lambda b: b.reinforce(baseline="leave-one-out", kl_weight=kl_weight),
        ):
            bound, p, q = bound_of(lb.elbo, 3)
            pair.append(gradients(estimate(bound)[7 * row], p, q))
        assert farthest(*pair) < 1e-12


def test_at_the_exact_posterior_comparing_estimators_are_silent() -> None:
    """log w is the same for every draw: leave-one-out and VarGrad give q no gradient at all."""

    class Model(Scalars):
        def forward(self, bn, n):
            z = bn.sample("z", Bernoulli(logits=self.t["b"].expand(n)))
            bn.sample("x", Normal(z, 1.0))

    class Exact(Scalars):
        def forward(self, bn, x):
            bn.sample("z", Bernoulli(logits=self.t["b"] + x - 0.5))

    x = torch.linspace(-2, 2, 20, dtype=torch.float64)
    for make, estimate in (
        (lb.elbo, lambda b: b.reinforce(baseline="leave-one-out")),
        (lb.elbo, lambda b: b.vargrad()),
    ):
        p, q = Model(b=0.4), Exact(b=0.4)
        torch.manual_seed(0)
        found = gradients(estimate(make(p.bind(20), {"x": x}, q.bind(x), particles=4)).sum(), q)
        assert float(found["t.b"].abs()) < 1e-12


def test_signals_by_hand() -> None:
    values = torch.tensor([[1.0], [2.0], [6.0]], dtype=torch.float64)
    assert leave_one_out(values).flatten().tolist() == [4.0, 3.5, 1.5]
    signal = vimco_signal(values)
    for k in range(3):
        others = [float(values[j]) for j in range(3) if j != k]
        replaced = math.log((sum(map(math.exp, others)) + math.exp(sum(others) / 2)) / 3)
        assert float(signal[k]) == pytest.approx(float(iwae(values)) - replaced, abs=1e-12)


def test_value_does_not_depend_on_the_estimator() -> None:
    for row in ESTIMATORS.values():
        bound, p, q = bound_of(row.bound, row.particles[-1], **row.options)
        z, k = (bound.draw.posterior[name] for name in ("z", "k"))
        row.estimate(bound)
        x = torch.linspace(-1, 2, z.shape[1], dtype=torch.float64)
        prior, score = log_prior(p.t, z, k), log_q(q.t, z, k)
        log_weights = log_p(p.t, z, k, x) - score
        torch.testing.assert_close(bound.log_weights, log_weights, rtol=0, atol=1e-12)
        weighted = log_weights + (row.options.get("beta", 1.0) - 1) * (prior - score)
        expected = (row.model_value or row.value)(weighted).detach()
        assert float((bound.value - expected).abs().max()) < 1e-12
        assert not bound.value.requires_grad


# --- A Gaussian node beside a discrete one ----------------------------------------------------------------------------


class MixedGenerator(Scalars):
    def forward(self, bn, n):
        z = bn.sample("z", Bernoulli(logits=self.t["b"].expand(n)))
        y = bn.sample("y", Normal(z, 1.0))
        s = bn.sample("s", Bernoulli(logits=self.t["a"] * y))
        bn.sample("x", Normal(torch.sin(self.t["a"] * y) + 0.5 * s, 0.7))


class MixedPosterior(Scalars):
    """z is discrete, y is a Gaussian below it, and s a discrete node below y: paths and scores are entangled."""

    def forward(self, bn, z_values, nodes, s_values):
        n = z_values.shape[1]
        z = bn.sample("z", given(GivenBernoulli, z_values, self.t["u"].expand(n)))
        y = bn.sample("y", OnNodes(self.t["v"] + self.t["w"] * z, self.t["r"].exp(), nodes))
        bn.sample("s", given(GivenBernoulli, s_values, self.t["u"] + 0.8 * y))


def mixed_grid(particles: int, points: int) -> tuple[Tensor, ...]:
    nodes, weights = gauss_hermite(points, particles)
    states = torch.tensor(list(product(range(2), repeat=2 * particles)), dtype=torch.float64)
    rows = [(s, n) for s in range(len(states)) for n in range(len(nodes))]
    state, node = (torch.tensor(index) for index in zip(*rows, strict=True))
    z, s = states[state].T.reshape(2, particles, -1)
    return z, nodes[node].T.contiguous(), s, weights[node]


@pytest.mark.parametrize("particles, points", [(1, 60), (2, 30)])
def test_mixed_posteriors_keep_the_path_of_their_gaussian_node(particles: int, points: int) -> None:
    phi = {"u": 0.2, "v": -0.3, "w": 0.4, "r": -0.2}
    theta = {"a": 0.9, "b": 0.3}
    z, nodes, s, weights = mixed_grid(particles, points)
    x = torch.full((z.shape[1],), 0.6, dtype=torch.float64)
    cases = [(lb.elbo, elbo, lambda b: b.reinforce(pathwise=True))]
    cases += [(lb.iw_objective, iwae, lambda b: b.reinforce(pathwise=True, baseline=0.7))]
    if particles > 1:
        cases += [(lb.elbo, elbo, lambda b: b.reinforce(pathwise=True, baseline="leave-one-out"))]
        cases += [(lb.iw_objective, iwae, lambda b: b.vimco(pathwise=True))]
    for make, value, estimate in cases:
        p, q = MixedGenerator(**theta), MixedPosterior(**phi)
        y = q.t["v"] + q.t["w"] * z + q.t["r"].exp() * nodes
        discrete = Bernoulli(logits=q.t["u"]).log_prob(z) + Bernoulli(logits=q.t["u"] + 0.8 * y).log_prob(s)
        log_weights = (
            Bernoulli(logits=p.t["b"]).log_prob(z)
            + Normal(z, 1.0).log_prob(y)
            + Bernoulli(logits=p.t["a"] * y).log_prob(s)
            + Normal(torch.sin(p.t["a"] * y) + 0.5 * s, 0.7).log_prob(x)
            - discrete
            - Normal(q.t["v"] + q.t["w"] * z, q.t["r"].exp()).log_prob(y)
        )
        probability = weights * discrete.sum(0).exp()
        truth = gradients((probability * value(log_weights)).sum(), p, q)
        cost = estimate(make(p.bind(len(x)), {"x": x}, q.bind(z, nodes, s), particles=particles))
        found = gradients(-(probability.detach() * cost).sum(), p, q)
        assert farthest(found, truth) < 1e-8


def test_a_gaussian_posterior_may_be_scored_too() -> None:
    """After the pathwise draw was made, and before: the same expectation, by quadrature."""

    class Model(Scalars):
        def forward(self, bn, n):
            y = bn.sample("y", Normal(torch.zeros(n, dtype=torch.float64), 1.0))
            bn.sample("x", Normal(torch.sin(self.t["a"] * y), 0.7))

    class Q(Scalars):
        def forward(self, bn, nodes):
            bn.sample("y", OnNodes(self.t["v"].expand(nodes.shape[1]), self.t["r"].exp(), nodes))

    nodes, weights = gauss_hermite(80, 1)
    x = torch.full((len(weights),), 0.6, dtype=torch.float64)
    p, q = Model(a=0.8), Q(v=0.3, r=-0.4)
    y = q.t["v"] + q.t["r"].exp() * nodes.T
    value = Normal(0.0, 1.0).log_prob(y) + Normal(torch.sin(p.t["a"] * y), 0.7).log_prob(x)
    value = value - Normal(q.t["v"], q.t["r"].exp()).log_prob(y)
    truth = gradients((weights * value.mean(0)).sum(), p, q)
    bound = lb.elbo(p.bind(len(x)), {"x": x}, q.bind(nodes.T.contiguous()))
    assert bound.value.shape == x.shape  # drawn with a path
    found = gradients(-(weights * bound.reinforce()).sum(), p, q)
    assert farthest(found, truth) < TOLERANCE


# --- The inclusive divergence -----------------------------------------------------------------------------------------


def inclusive_gradient() -> dict[str, Tensor]:
    """Return the gradient of -KL(p(z|x) || q(z|x)) in q, by enumeration."""
    p, q = Generator(), Posterior()
    z, k = tuples(1)
    with torch.no_grad():
        posterior = log_p(p.t, z, k).softmax(1)
    return gradients((posterior * log_q(q.t, z, k)).sum(), q)


def test_wake_phases() -> None:
    """The model's is the gradient of the importance-weighted bound; the posterior's comes near the divergence's."""
    truth = exact_gradient(3, iwae)
    found = expected_gradient(3, lb.klpq, lambda b: b.wake())
    assert (
        farthest({n: g for n, g in found.items() if n[2:] in THETA}, {n: truth[n] for n in truth if n[2:] in THETA})
        < TOLERANCE
    )
    assert all(float(found[f"t.{name}"].abs()) == 0 for name in PHI)
    goal = inclusive_gradient()
    errors = []
    for particles in (2, 3, 4):
        wake = expected_gradient(particles, lb.klpq, lambda b: b.importance())
        assert all(float(wake[f"t.{name}"].abs()) == 0 for name in THETA)
        errors.append(farthest({name: wake[name] for name in goal}, goal))
    assert errors[0] > errors[1] > errors[2]  # the bias of self-normalised weights falls with K
    zero = {name: torch.zeros_like(gradient) for name, gradient in goal.items()}
    assert errors[2] < 0.5 * farthest(zero, goal)


def test_divergence_comes_near_from_below() -> None:
    p, q = Generator(), Posterior()
    z, k = tuples(1)
    joint = log_p(p.t, z, k).squeeze(0)
    truth = float((joint.softmax(0) * (joint.log_softmax(0) - log_q(q.t, z, k).squeeze(0))).sum().detach())
    z, k = tuples(5)
    x = torch.full((z.shape[1],), X, dtype=torch.float64)
    value = lb.klpq(p.bind(len(x)), {"x": x}, q.bind(z, k), particles=5).value
    expected = float((log_q(q.t, z, k).sum(0).exp() * value).sum().detach())
    assert 0.5 * truth < expected < truth  # biased down by the normalisation
    assert truth > 0.05


# --- Objectives -------------------------------------------------------------------------------------------------------


class BernoulliPair(lb.models.LatentVariableModel):
    """Eight binary latents over six binary values."""

    class P(lb.BayesianNet):
        def __init__(self) -> None:
            super().__init__()
            self.net = lb.nn.MLP(8, [16], tiny.WIDTH)

        def forward(self, bn, n):
            z = bn.sample("z", Bernoulli(logits=torch.zeros(n, 8)), event_dims=1)
            bn.sample("x", Bernoulli(logits=self.net(z)), event_dims=1)

    class Q(lb.BayesianNet):
        def __init__(self) -> None:
            super().__init__()
            self.net = lb.nn.MLP(tiny.WIDTH, [16], 8)

        def forward(self, bn, x):
            bn.sample("z", Bernoulli(logits=self.net(x)), event_dims=1)

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(self.P(), self.Q())


OBJECTIVES = {
    "reinforce": lambda m: lb.objectives.ELBO(m, gradient="reinforce"),
    "leave one out": lambda m: lb.objectives.ELBO(m, gradient="reinforce", baseline="leave-one-out", particles=4),
    "moving average": lambda m: lb.objectives.ELBO(m, gradient="reinforce", baseline="moving-average"),
    "network": lambda m: lb.objectives.ELBO(m, gradient="reinforce", baseline=lb.nn.MLP(tiny.WIDTH, [8], 1)),
    "vargrad": lambda m: lb.objectives.ELBO(m, gradient="vargrad", particles=4),
    "vimco": lambda m: lb.objectives.IWAE(m, gradient="vimco", particles=4),
    "iwae reinforce": lambda m: lb.objectives.IWAE(m, gradient="reinforce", particles=4),
    "wake": lambda m: lb.objectives.RWS(m, particles=4),
    "sleep": lambda m: lb.objectives.RWS(m, particles=4, posterior_phase="sleep"),
    "both": lambda m: lb.objectives.RWS(m, particles=4, posterior_phase="both"),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_discrete_posteriors_are_trained(name: str) -> None:
    """The importance-weighted bound with 50 draws rises by a sixth of a nat at least; an untrained model stays put."""
    goal = OBJECTIVES[name](BernoulliPair())
    before = {n: p.detach().clone() for n, p in goal.model.named_parameters()}
    data = tiny.rows(512)
    start = lb.evaluate(goal.model, data, "iwae-50").measures["iwae-50"]["value"]
    run = tiny.fit(goal, data, epochs=12, batch_size=32, lr=1e-2)
    assert all(not torch.equal(p, before[n]) for n, p in goal.model.named_parameters())
    assert lb.evaluate(run.model, data, "iwae-50").measures["iwae-50"]["value"] > start + 0.15
    assert all(math.isfinite(value) for value in run.history[-1]["train"].values())


def test_baselines_learn() -> None:
    goal = OBJECTIVES["moving average"](BernoulliPair())
    run = tiny.fit(goal, tiny.rows(512), epochs=5, batch_size=32, lr=1e-3)
    assert abs(float(goal.moving_average) - run.history[-1]["train"]["elbo"]) < 0.5
    network = OBJECTIVES["network"](BernoulliPair())
    before = [p.detach().clone() for p in network.baseline.parameters()]
    tiny.fit(network, tiny.rows(512), epochs=5, batch_size=32, lr=1e-2)
    assert all(not torch.equal(a, b) for a, b in zip(before, network.baseline.parameters(), strict=True))
    with torch.no_grad():
        guess = float(network.baseline(torch.full((1, tiny.WIDTH), 0.5)))
    assert guess < -1.0  # the bound is about -3.5 nats, and the network began near zero


def test_dreams_teach_the_posterior_only() -> None:
    goal = OBJECTIVES["sleep"](BernoulliPair())
    cost = goal.sleep(torch.zeros(7, tiny.WIDTH), ["z"])
    assert cost.shape == (7,)
    assert all(bool((grad == 0).all()) for grad in gradients(cost.sum(), goal.model.generator).values())
    assert all(bool((grad != 0).any()) for grad in gradients(cost.sum(), goal.model.posterior).values())


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_a_discrete_node_has_no_pathwise_gradient() -> None:
    for make, estimate in ((lb.elbo, lambda b: b.sgvb()), (lb.iw_objective, lambda b: b.dreg())):
        bound, _, _ = bound_of(make, 2)
        with pytest.raises(NodeError, match=r"at node 'z': expected a pathwise draw, got GivenBernoulli"):
            estimate(bound)


@pytest.mark.parametrize(
    "make",
    [
        lambda: bound_of(lb.elbo, 1)[0].vargrad(),
        lambda: bound_of(lb.elbo, 1)[0].reinforce(baseline="leave-one-out"),
        lambda: bound_of(lb.iw_objective, 1)[0].vimco(),
        lambda: bound_of(lb.klpq, 1),
        lambda: lb.objectives.ELBO(tiny.vae(), gradient="vargrad"),
        lambda: lb.objectives.ELBO(tiny.vae(), gradient="reinforce", baseline="leave-one-out"),
        lambda: lb.objectives.IWAE(tiny.vae(), particles=1, gradient="vimco"),
        lambda: lb.objectives.RWS(tiny.vae(), particles=1),
    ],
)
def test_one_particle_cannot_be_compared(make) -> None:
    with pytest.raises(
        ArgumentError, match=r"expected at least 2 particles, which it compares, got 1. Pass particles=2"
    ):
        make()


def test_baselines_that_do_not_fit() -> None:
    bound, _, _ = bound_of(lb.elbo, 2)
    with pytest.raises(ArgumentError, match=r"baseline: expected shape \(\d+,\), got \(3,\). A baseline network ends"):
        bound.reinforce(baseline=torch.zeros(3))
    with pytest.raises(ArgumentError, match=r"baseline: expected one of the known names, got 'mean'"):
        bound.reinforce(baseline="mean")
    with pytest.raises(ArgumentError, match=r"baseline: expected a number or a tensor, got 'leave-one-out'. Use vimco"):
        bound_of(lb.iw_objective, 2)[0].reinforce(baseline="leave-one-out")
    with pytest.raises(ArgumentError, match=r"baseline: expected none for gradient 'sgvb', got one. Choose gradient="):
        lb.objectives.ELBO(tiny.vae(), baseline="moving-average")
    with pytest.raises(ArgumentError, match=r"gradient: expected one of the known names, got 'score'"):
        lb.objectives.ELBO(tiny.vae(), gradient="score")
    with pytest.raises(ArgumentError, match=r"posterior_phase: expected one of the known names, got 'nap'"):
        lb.objectives.RWS(tiny.vae(), posterior_phase="nap")
    assert isinstance(lb.objectives.ELBO(tiny.vae(), gradient="reinforce", baseline=nn.Flatten()), nn.Module)
