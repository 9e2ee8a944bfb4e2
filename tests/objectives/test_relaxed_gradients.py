"""Relaxed gradients: what they estimate, that they come to the exact gradient as they cool, and what they refuse.

The noise of a Bernoulli latent is one logistic number, so that the expectation of a gradient is an integral over a
line. The integrand is smooth, and the trapezoid rule over a fine grid is exact to rounding; one grid point is one row.
"""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal, OneHotCategorical, Poisson

import lowerbound as lb
import tiny
from exact import Scalars, farthest, gradients, random
from lowerbound.core.errors import ArgumentError, NodeError
from lowerbound.distributions import SoftBernoulli, SoftOneHotCategorical, relaxed, soften

THETA = {"a": 1.1, "b": -0.4}
PHI = {"u": 0.7}
X, SCALE = 0.9, 0.8


class Generator(Scalars):
    def __init__(self) -> None:
        super().__init__(**THETA)

    def forward(self, bn, n):
        z = bn.sample("z", Bernoulli(logits=self.t["b"].expand(n)))
        bn.sample("x", Normal(self.t["a"] * z, SCALE))


class Posterior(Scalars):
    def __init__(self) -> None:
        super().__init__(**PHI)

    def forward(self, bn, n):
        bn.sample("z", Bernoulli(logits=self.t["u"].expand(n)))


def logistic_grid(temperature: float) -> tuple[Tensor, Tensor]:
    """Return logistic noise and its weights, dense where the relaxed draw turns from 0 to 1."""
    step = min(temperature, 1.0) / 8
    noise = torch.arange(-30.0, 30.0, step, dtype=torch.float64)
    return noise, step * torch.sigmoid(noise) * torch.sigmoid(-noise)


def by_hand(temperature: float, *, analytic_kl: bool = False, kl_weight: float = 1.0) -> dict[str, float]:
    """Return the mean gradient of log p(x|s) + w (s b + log sigma(-b) - s u - log sigma(-u)), derived on paper."""
    a, b, u = (torch.tensor(v, dtype=torch.float64) for v in (*THETA.values(), *PHI.values()))
    noise, weights = logistic_grid(temperature)
    s = torch.sigmoid((u + noise) / temperature)
    speed = s * (1 - s) / temperature
    slope = a * (X - a * s) / SCALE**2
    prior, q = torch.sigmoid(b), torch.sigmoid(u)
    if analytic_kl:
        divergence = (kl_weight * (q - prior)).expand_as(s), (kl_weight * (b - u) * q * (1 - q)).expand_as(s)
        parts = {"a": s * (X - a * s) / SCALE**2, "b": divergence[0], "u": slope * speed + divergence[1]}
    else:
        w = kl_weight
        parts = {
            "a": s * (X - a * s) / SCALE**2,
            "b": w * (s - prior),
            "u": (slope + w * (b - u)) * speed - w * (s - q),
        }
    return {f"t.{name}": (weights * part).sum() for name, part in parts.items()}


def on_grid(monkeypatch, temperature: float, particles: int = 1, **options):
    """Return a bound whose relaxed draws lie on the grid, one point a row, with the rows' weights."""
    noise, weights = logistic_grid(temperature)
    monkeypatch.setattr(relaxed, "_uniform", lambda shape, like: torch.sigmoid(noise).expand(shape))
    p, q = Generator(), Posterior()
    x = torch.full(noise.shape, X, dtype=torch.float64)
    return lb.elbo(p.bind(len(x)), {"x": x}, q.bind(len(x)), particles=particles, **options), weights, p, q


def exact() -> dict[str, Tensor]:
    """Return the gradient of the evidence lower bound of hard draws, summed over both values."""
    p, q = Generator(), Posterior()
    z = torch.tensor([0.0, 1.0], dtype=torch.float64)
    log_q = Bernoulli(logits=q.t["u"]).log_prob(z)
    log_p = Bernoulli(logits=p.t["b"]).log_prob(z) + Normal(p.t["a"] * z, SCALE).log_prob(torch.tensor(X).double())
    return gradients((log_q.exp() * (log_p - log_q)).sum(), p, q)


@pytest.mark.parametrize("options", [{}, {"analytic_kl": True}])
@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
@pytest.mark.parametrize("temperature", [2.0, 0.5, 0.1])
def test_gradient_at_a_temperature_is_the_one_derived_by_hand(monkeypatch, temperature, kl_weight, options):
    made, weights, p, q = on_grid(monkeypatch, temperature, **options)
    cost = made.relaxed(temperature=temperature, kl_weight=kl_weight)
    found = gradients(-(weights * cost).sum(), p, q)
    assert farthest(found, by_hand(temperature, kl_weight=kl_weight, **options)) < 1e-10


@pytest.mark.parametrize("options", [{}, {"analytic_kl": True}])
def test_gradient_comes_to_the_exact_one_as_it_cools(monkeypatch, options):
    """The bias falls in proportion to the temperature: taken to zero along that line, it is gone."""
    found = []
    for temperature in (1.0, 0.3, 0.1, 0.02, 0.01):
        made, weights, p, q = on_grid(monkeypatch, temperature, **options)
        found.append(gradients(-(weights * made.relaxed(temperature=temperature)).sum(), p, q))
    errors = [farthest(gradient, exact()) for gradient in found]
    assert all(later < 0.6 * earlier for earlier, later in pairwise(errors))
    assert errors[0] > 1e-2  # hot draws are another model's
    assert errors[-1] < 5e-3
    limit = {name: 2 * found[-1][name] - found[-2][name] for name in found[-1]}
    assert farthest(limit, exact()) < 2e-4
    assert min(float(g.abs()) for g in exact().values()) > 1e-2


def test_straight_through_keeps_a_bias(monkeypatch):
    """With rounded draws the slope is that at 0 or 1, not the difference quotient between them."""
    for temperature in (0.3, 0.03):
        made, weights, p, q = on_grid(monkeypatch, temperature)
        found = gradients(-(weights * made.relaxed(temperature=temperature, straight_through=True)).sum(), p, q)
        assert float((found["t.a"] - exact()["t.a"]).abs()) < 1e-2  # the model sees what it is scored on
        a, b, u = (torch.tensor(v, dtype=torch.float64) for v in (*THETA.values(), *PHI.values()))
        noise, weights = logistic_grid(temperature)
        s = torch.sigmoid((u + noise) / temperature)
        z = (s > 0.5).double()
        slope = a * (X - a * z) / SCALE**2 + b - u
        by_hand = (weights * (slope * s * (1 - s) / temperature - (z - torch.sigmoid(u)))).sum()
        assert float((found["t.u"] - by_hand).abs()) < 1e-10


@pytest.mark.parametrize("straight_through", [False, True])
def test_value_is_that_of_hard_draws(straight_through):
    p, q, x = Generator(), Posterior(), torch.full((7,), X, dtype=torch.float64)
    made = lb.elbo(p.bind(7), {"x": x}, q.bind(7), particles=5)
    made.relaxed(temperature=0.5, straight_through=straight_through)
    z = made.draw.posterior["z"]
    assert set(z.unique().tolist()) <= {0.0, 1.0}
    log_q = Bernoulli(logits=q.t["u"]).log_prob(z)
    log_p = Bernoulli(logits=p.t["b"]).log_prob(z) + Normal(p.t["a"] * z, SCALE).log_prob(x)
    torch.testing.assert_close(made.log_weights, (log_p - log_q).detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(made.value, (log_p - log_q).mean(0).detach(), rtol=0, atol=1e-12)
    torch.manual_seed(3)
    before = lb.elbo(p.bind(7), {"x": x}, q.bind(7), particles=5)
    value = before.value
    before.relaxed(temperature=0.5)
    assert before.value.equal(value)


def test_rounded_draws_have_the_discrete_distribution():
    """40,000 draws each: a share is off by six standard errors with probability 2e-9."""
    torch.manual_seed(0)
    logits = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    for temperature in (0.1, 3.0):
        z = SoftBernoulli(logits, temperature).rsample((40_000,))
        assert float(((z > 0.5).double().mean(0) - logits.sigmoid()).abs().max()) < 6 * 0.5 / 200
        assert bool(((z > 0) & (z < 1)).any())
        y = SoftOneHotCategorical(logits, temperature).rsample((40_000,))
        torch.testing.assert_close(y.sum(-1), torch.ones(40_000, dtype=torch.float64))
        share = torch.nn.functional.one_hot(y.argmax(-1), 3).double().mean(0)
        assert float((share - logits.softmax(0)).abs().max()) < 6 * 0.5 / 200


def test_one_hot_draw_and_its_path_by_hand():
    logits, noise = random(1, 4, 3).requires_grad_(), torch.rand(4, 3, dtype=torch.float64)
    relaxed_noise = -(-noise.log()).log()
    soft = SoftOneHotCategorical(logits, 0.7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relaxed, "_uniform", lambda shape, like: noise)
        z = soft.rsample()
        hard = SoftOneHotCategorical(logits, 0.7, straight_through=True).rsample()
    log_p = logits.log_softmax(-1).detach()
    s = ((log_p + relaxed_noise) / 0.7).softmax(-1)
    torch.testing.assert_close(z.detach(), s, rtol=0, atol=1e-12)
    assert hard.detach().equal(torch.nn.functional.one_hot(s.argmax(-1), 3).double())
    v = random(2, 4, 3)
    jacobian = s * (v - (s * v).sum(-1, keepdim=True)) / 0.7
    for draw in (z, hard):
        (grad,) = torch.autograd.grad((draw * v).sum(), logits, retain_graph=True)
        torch.testing.assert_close(grad, jacobian, rtol=0, atol=1e-12)
    torch.testing.assert_close(soft.log_prob(s).detach(), (s * log_p).sum(-1), rtol=0, atol=1e-12)


def test_log_probability_at_hard_values_is_the_discrete_one():
    logits = random(3, 5, 3)
    for plain, values in (
        (Bernoulli(logits=logits), torch.ones_like(logits)),
        (Bernoulli(logits=logits), torch.zeros_like(logits)),
        (OneHotCategorical(logits=logits), torch.eye(3, dtype=torch.float64)[[0, 1, 2, 1, 0]]),
    ):
        soft = soften(plain, 0.5)
        torch.testing.assert_close(soft.log_prob(values), plain.log_prob(values), rtol=0, atol=1e-12)
        assert soft.has_rsample
    assert soften(Normal(0.0, 1.0), 0.5) is None
    assert soften(Categorical(logits=logits), 0.5) is None


# --- Programs ---------------------------------------------------------------------------------------------------------


class Pair(lb.models.LatentVariableModel):
    """A one-hot node of three, five binary latents below it, a Gaussian beside them, and six binary values."""

    class P(lb.BayesianNet):
        def __init__(self) -> None:
            super().__init__()
            self.below, self.net = lb.nn.MLP(3, [8], 5), lb.nn.MLP(6, [16], tiny.WIDTH)

        def forward(self, bn, n):
            c = bn.sample("c", OneHotCategorical(logits=torch.zeros(n, 3)))
            z = bn.sample("z", Bernoulli(logits=self.below(c)), event_dims=1)
            y = bn.sample("y", Normal(torch.zeros(n, 1), 1.0), event_dims=1)
            bn.sample("x", Bernoulli(logits=self.net(torch.cat([z, y.expand(*z.shape[:-1], 1)], -1))), event_dims=1)

    class Q(lb.BayesianNet):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.below = lb.nn.MLP(tiny.WIDTH, [16], 10), lb.nn.MLP(3, [8], 5)

        def forward(self, bn, x):
            c, z, loc, scale = self.net(x).split([3, 5, 1, 1], -1)
            c = bn.sample("c", OneHotCategorical(logits=c))
            bn.sample("z", Bernoulli(logits=z + self.below(c)), event_dims=1)
            bn.sample("y", Normal(loc, scale.exp()), event_dims=1)

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(self.P(), self.Q())


OBJECTIVES = {
    "elbo": lambda m, **o: lb.objectives.ELBO(m, gradient="relaxed", temperature=0.5, particles=3, **o),
    "straight through": lambda m: OBJECTIVES["elbo"](m, straight_through=True),
    "beta": lambda m: OBJECTIVES["elbo"](m, beta=2.0, analytic_kl=False),
    "iwae": lambda m: lb.objectives.IWAE(m, gradient="relaxed", temperature=0.5, particles=4, groups=2, alpha=0.5),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_train_mixed_hierarchies(name):
    """The importance-weighted bound with 50 draws rises by a sixth of a nat at least; an untrained model stays put."""
    goal, data = OBJECTIVES[name](Pair()), tiny.rows(512)
    before = {n: p.detach().clone() for n, p in goal.model.named_parameters()}
    start = lb.evaluate(goal.model, data, "iwae-50").measures["iwae-50"]["value"]
    run = tiny.fit(goal, data, epochs=8, batch_size=32, lr=1e-2)
    assert all(not torch.equal(p, before[n]) for n, p in goal.model.named_parameters())
    assert lb.evaluate(run.model, data, "iwae-50").measures["iwae-50"]["value"] > start + 0.15
    described = goal.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["temperature"] == 0.5


# --- Bad input --------------------------------------------------------------------------------------------------------


class Single(lb.BayesianNet):
    """A program with one latent of a given distribution, and a value around it if it is a model."""

    def __init__(self, distribution, x: bool = False) -> None:
        super().__init__()
        self.distribution, self.x = distribution, x

    def forward(self, bn):
        z = bn.sample("k", self.distribution)
        if self.x:
            bn.sample("x", Normal(z.float(), 1.0))


REFUSED = {
    "categorical": (
        Categorical(logits=torch.zeros(5, 3)),
        r"relaxed at node 'k': expected a Bernoulli, a OneHotCategorical or a distribution with rsample, got "
        r"Categorical\. Take OneHotCategorical, whose draw is a vector",
    ),
    "poisson": (Poisson(torch.ones(5)), r"relaxed at node 'k': .*got Poisson\. Use reinforce, which takes any"),
    "gaussian": (
        Normal(torch.zeros(5), 1.0),
        r"relaxed: expected a Bernoulli or a OneHotCategorical among the latents, got k\. Use sgvb, which has no bias",
    ),
}


@pytest.mark.parametrize("distribution, message", REFUSED.values(), ids=REFUSED)
def test_nodes_without_a_relaxation(distribution, message):
    made = lb.elbo(Single(distribution, x=True).bind(), {"x": torch.zeros(5)}, Single(distribution).bind())
    with pytest.raises(NodeError, match=message):
        made.relaxed(temperature=0.5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, torch.inf, "warm"])
def test_temperature_is_positive(temperature):
    made = lb.elbo(Generator().bind(1), {"x": torch.zeros(1)}, Posterior().bind(1))
    with pytest.raises(ArgumentError, match=r"temperature: expected a finite number above 0, got"):
        made.relaxed(temperature=temperature)


@pytest.mark.parametrize("kind", ["ELBO", "IWAE"])
def test_temperature_belongs_to_the_relaxed_gradient(kind):
    with pytest.raises(
        ArgumentError, match=r"temperature: expected a positive number, got None\. Pass temperature=0.5"
    ):
        tiny.objective(kind, gradient="relaxed")
    with pytest.raises(
        ArgumentError, match=r"temperature: expected none for gradient 'sgvb', got one\. Choose gradient"
    ):
        tiny.objective(kind, temperature=0.5)
    with pytest.raises(ArgumentError, match=r"straight_through: expected none for gradient 'sgvb', got one"):
        tiny.objective(kind, straight_through=True)
    with pytest.raises(
        NodeError, match=r"relaxed: expected a Bernoulli or a OneHotCategorical among the latents, got z"
    ):
        tiny.objective(kind, gradient="relaxed", temperature=0.5)(torch.ones(3, tiny.WIDTH))
