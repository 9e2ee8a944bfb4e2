"""What holds for every bound: one draw, a value apart from estimators, terms that add up, tighter with more draws."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal

import lowerbound as lb
from exact import LinearGenerator, LinearPosterior, farthest, gauss_hermite, gradients, linear_gaussian, random
from lowerbound.core.errors import ArgumentError
from lowerbound.objectives.log_weights import log_mean_exp

K, B, D, L = 3, 5, 7, 2


def pair() -> tuple[LinearGenerator, LinearPosterior, torch.Tensor]:
    truth = linear_gaussian(D, L)
    return truth.generator(), truth.perturbed(), 2.0 * random(5, B, D)


def make(bound, **options):
    p, q, x = pair()
    return bound(p.bind(B), {"x": x}, q.bind(x), particles=K, **options)


# --- One draw ---------------------------------------------------------------------------------------------------------

READERS = {
    "nothing": lambda b: None,
    "sgvb": lambda b: b.sgvb(),
    "weighted sgvb": lambda b: b.sgvb(kl_weight=0.1),
    "value": lambda b: b.value,
    "terms": lambda b: b.terms,
}
IW_READERS = {**READERS, "dreg": lambda b: b.dreg(), "damped": lambda b: b.dreg(kl_weight=0.1)}
BOUNDS = {
    "elbo": (lb.elbo, {}, {**READERS, "stl": lambda b: b.sgvb(stl=True)}),
    "elbo, analytic": (lb.elbo, {"analytic_kl": True}, {**READERS, "stl": lambda b: b.sgvb(stl=True)}),
    "beta elbo": (lb.elbo, {"beta": 4.0}, {**READERS, "stl": lambda b: b.sgvb(stl=True)}),
    "iwae": (lb.iw_objective, {}, IW_READERS),
    "miwae, ciwae, renyi": (lb.iw_objective, {"groups": 3, "alpha": 0.5, "elbo_share": 0.2}, IW_READERS),
    "piwae": (lb.iw_objective, {"groups": 3, "partial": True}, IW_READERS),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_no_reading_and_no_estimator_changes_the_draw(name):
    bound, options, readers = BOUNDS[name]
    for reader in readers.values():
        torch.manual_seed(3)
        first = make(bound, **options)
        value, weights = first.value, first.log_weights
        torch.manual_seed(3)
        second = make(bound, **options)
        reader(second)
        assert second.value.equal(value)
        assert second.log_weights.equal(weights)
        reader(second)
        assert second.value.equal(value)
        torch.manual_seed(4)
        assert not make(bound, **options).value.equal(value)


@pytest.mark.parametrize("name", BOUNDS)
def test_costs_read_twice_have_the_same_gradient(name):
    bound, options, readers = BOUNDS[name]
    for word in readers.keys() - {"nothing", "value", "terms"}:
        p, q, x = pair()
        made = bound(p.bind(B), {"x": x}, q.bind(x), particles=K, **options)
        first = gradients(readers[word](made).sum(), p, q)
        for other in readers.values():
            other(made)
        assert farthest(gradients(readers[word](made).sum(), p, q), first) < 1e-12


class Counting(LinearGenerator):
    """A generator that counts its runs."""

    runs = 0

    def forward(self, bn, n):
        self.runs += 1
        super().forward(bn, n)


@pytest.mark.parametrize("estimator", ["sgvb", "dreg"])
def test_a_training_step_runs_the_model_once(estimator):
    truth, (_, q, x) = linear_gaussian(D, L), pair()
    p = Counting(truth.weight, truth.mean, truth.noise)
    made = lb.iw_objective(p.bind(B), {"x": x}, q.bind(x), particles=K)
    assert p.runs == 0  # a bound is lazy
    getattr(made, estimator)()
    assert made.terms.keys() == {"iwae-3", "reconstruction", "kl"}
    assert p.runs == 1


# --- Numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOUNDS)
def test_what_is_read_is_detached_and_in_float64(name):
    bound, options, _ = BOUNDS[name]
    made = make(bound, **options)
    for tensor in (made.value, made.log_weights, *made.terms.values()):
        assert not tensor.requires_grad
        assert tensor.dtype == torch.float64
    assert made.value.shape == (B,)
    assert made.log_weights.shape == (K, B)
    assert made.sgvb().shape == (B,)
    assert made.sgvb().requires_grad


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_elbo_is_reconstruction_minus_kl(analytic_kl):
    made = make(lb.elbo, analytic_kl=analytic_kl)
    terms = made.terms
    assert list(terms) == ["elbo", "reconstruction", "kl"]
    torch.testing.assert_close(terms["elbo"], terms["reconstruction"] - terms["kl"], rtol=0, atol=1e-12)
    assert terms["elbo"].equal(made.value)
    z, x = made.draw.posterior["z"], made.draw.model["x"]
    p, _, _ = pair()
    log_x = Normal(z @ p.weight.T + p.mean, p.noise).log_prob(x).sum(-1)
    torch.testing.assert_close(terms["reconstruction"], log_x.mean(0).detach(), rtol=0, atol=1e-12)


def test_analytic_kl_is_closed_form_for_every_draw():
    first, second = make(lb.elbo, analytic_kl=True), make(lb.elbo, analytic_kl=True)
    assert first.terms["kl"].equal(second.terms["kl"])
    assert not first.terms["reconstruction"].equal(second.terms["reconstruction"])
    _, q, x = pair()
    loc, tril = x @ q.gain.T + q.offset, q.tril.tril()
    wanted = 0.5 * ((tril**2).sum() + (loc**2).sum(-1) - L) - tril.diagonal().log().sum()
    torch.testing.assert_close(first.terms["kl"], wanted.detach(), rtol=0, atol=1e-12)


def test_value_without_analytic_kl_is_the_mean_log_weight():
    made = make(lb.elbo)
    torch.testing.assert_close(made.value, made.log_weights.mean(0), rtol=0, atol=1e-12)


def test_iwae_is_the_log_of_the_mean_weight():
    made = make(lb.iw_objective)
    torch.testing.assert_close(made.value, made.log_weights.exp().mean(0).log(), rtol=0, atol=1e-12)
    assert float((made.value - made.log_weights.mean(0)).min()) > 0  # Jensen, strictly: the weights differ


def test_one_particle_makes_iwae_the_elbo():
    p, q, x = pair()
    torch.manual_seed(1)
    elbo = lb.elbo(p.bind(B), {"x": x}, q.bind(x))
    costs = elbo.sgvb(), elbo.sgvb(stl=True)
    torch.manual_seed(1)
    iwae = lb.iw_objective(p.bind(B), {"x": x}, q.bind(x), particles=1)
    assert iwae.value.equal(elbo.value)
    for ours, theirs in zip((iwae.sgvb(), iwae.dreg()), costs, strict=True):
        assert farthest(gradients(ours.sum(), p, q), gradients(theirs.sum(), p, q)) < 1e-12
    assert farthest(gradients(costs[0].sum(), p, q), gradients(costs[1].sum(), p, q)) > 1e-2


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_kl_weight_scales_the_cost_and_not_the_value(analytic_kl):
    made = make(lb.elbo, analytic_kl=analytic_kl)
    value, terms = made.value, made.terms
    for weight in (0.0, 0.25, 1.0, torch.tensor(0.25)):
        cost = made.sgvb(kl_weight=weight).detach()
        torch.testing.assert_close(cost, weight * terms["kl"] - terms["reconstruction"], rtol=0, atol=1e-12)
        assert made.value.equal(value)


def test_stl_cost_with_a_weight_is_the_tempered_mean_log_weight():
    made = make(lb.elbo)
    wanted = 0.25 * made.terms["kl"] - made.terms["reconstruction"]
    torch.testing.assert_close(made.sgvb(stl=True, kl_weight=0.25).detach(), wanted, rtol=0, atol=1e-12)


# --- Tighter with more draws ------------------------------------------------------------------------------------------


class Mixture(lb.BayesianNet):
    """z in {0, 1, 2} with known probabilities, x ~ Bernoulli of a probability that z picks."""

    def forward(self, bn, n):
        prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).expand(n, 3)
        z = bn.sample("z", Categorical(prior))
        bn.sample("x", Bernoulli(torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)[z.long()]))


class Guess(lb.BayesianNet):
    """q(z) as a table of draws that are handed in, so that every tuple of draws can be enumerated."""

    probs = (0.5, 0.3, 0.2)

    def forward(self, bn, z):
        class Table(Categorical):
            def sample(self, sample_shape: torch.Size = torch.Size()):  # noqa: B008 (torch's own signature)
                return z

        bn.sample("z", Table(torch.tensor(self.probs, dtype=torch.float64).expand(z.shape[1], 3)))


def enumerated(particles: int) -> float:
    """Return the exact expectation of the bound with this many draws, summed over all tuples of draws."""
    z = torch.cartesian_prod(*[torch.arange(3)] * particles).reshape(-1, particles).T
    x = torch.ones(z.shape[1], dtype=torch.float64)
    chance = torch.tensor(Guess.probs, dtype=torch.float64)[z].prod(0)
    bound = lb.iw_objective(Mixture().bind(len(x)), {"x": x}, Guess().bind(z), particles=particles)
    return float((chance * bound.value).sum())


def test_iwae_rises_with_its_particles_to_the_evidence():
    evidence = math.log(0.2 * 0.1 + 0.5 * 0.6 + 0.3 * 0.9)
    bounds = [enumerated(k) for k in (1, 2, 3, 5, 8)]
    gaps = [evidence - bound for bound in bounds]
    assert all(earlier > later for earlier, later in pairwise(gaps))
    assert gaps[-1] > 0
    kl = sum(
        q * math.log(q * math.exp(evidence) / joint) for q, joint in zip(Guess.probs, (0.02, 0.3, 0.27), strict=True)
    )
    assert gaps[0] == pytest.approx(kl, abs=1e-12)
    # To first order the gap is Var(w) / (2 K p(x)^2), so it shrinks like 1 / K.
    variance = sum(j**2 / q for q, j in zip(Guess.probs, (0.02, 0.3, 0.27), strict=True)) / math.exp(2 * evidence) - 1
    assert gaps[-1] == pytest.approx(variance / 16, rel=0.25)


def test_discrete_latents_have_a_value():
    z = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    bound = lb.elbo(Mixture().bind(9), {"x": torch.ones(9, dtype=torch.float64)}, Guess().bind(z), particles=2)
    joint, guess = torch.tensor([[0.02, 0.3, 0.27], Guess.probs], dtype=torch.float64)
    torch.testing.assert_close(bound.log_weights, (joint / guess).log()[z], rtol=0, atol=1e-12)


def test_log_mean_exp_survives_large_weights():
    x = torch.tensor([[-1e4], [-1e4 + 1], [-2e4]], dtype=torch.float64)
    assert float(log_mean_exp(x)) == pytest.approx(-1e4 + math.log((1 + math.e) / 3), abs=1e-9)


def test_is_loglikelihood_counts_every_draw_once():
    """Draws from a grid that is handed out in order: the result is the log-mean of all its weights, in any chunks."""
    nodes, _ = gauss_hermite(7, 1)
    served: list[int] = []

    class InOrder(lb.BayesianNet):
        def forward(self, bn, n):
            class Served(Normal):
                def rsample(self, sample_shape: torch.Size = torch.Size()):  # noqa: B008 (torch's own signature)
                    start = sum(served)
                    served.append(sample_shape[0])
                    return nodes[start : start + sample_shape[0]].expand(-1, n)

            bn.sample("z", Served(torch.zeros(n, dtype=torch.float64), 2.0))

    class P(lb.BayesianNet):
        def forward(self, bn, n):
            z = bn.sample("z", Normal(torch.zeros(n, dtype=torch.float64), 1.0))
            bn.sample("x", Normal(z, 0.5))

    x = random(2, B)
    z = nodes.expand(-1, B)
    wanted = (Normal(0, 1).log_prob(z) + Normal(z, 0.5).log_prob(x) - Normal(0, 2).log_prob(z)).exp().mean(0).log()
    for chunk, sizes in {1: [1] * 7, 3: [3, 3, 1], 7: [7], 100: [7]}.items():
        served.clear()
        found = lb.is_loglikelihood(P().bind(B), {"x": x}, InOrder().bind(B), particles=7, chunk=chunk)
        assert served == sizes
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_is_loglikelihood_accumulates_in_float64_without_a_graph():
    model = lb.models.VAE(event_shape=(D,), latent_dim=L, hidden=(4,))
    x = torch.ones(B, D)
    found = lb.is_loglikelihood(model.generator.bind(B), {"x": x}, model.posterior.bind(x), particles=4, chunk=3)
    assert (found.dtype, found.shape, found.requires_grad) == (torch.float64, (B,), False)


# --- The objectives as modules ----------------------------------------------------------------------------------------

OBJECTIVES = {
    "elbo": lambda m: lb.objectives.ELBO(m, particles=K),
    "elbo, sampled kl": lambda m: lb.objectives.ELBO(m, particles=K, analytic_kl=False),
    "elbo, stl": lambda m: lb.objectives.ELBO(m, particles=K, gradient="stl"),
    "iwae": lambda m: lb.objectives.IWAE(m, particles=K),
    "iwae, dreg": lambda m: lb.objectives.IWAE(m, particles=K, gradient="dreg"),
    "beta elbo": lambda m: lb.objectives.ELBO(m, particles=K, beta=2.5),
    "miwae": lambda m: lb.objectives.IWAE(m, particles=2 * K, groups=K),
    "piwae": lambda m: lb.objectives.IWAE(m, particles=K, groups=K, partial=True, gradient="dreg"),
    "ciwae": lambda m: lb.objectives.IWAE(m, particles=K, elbo_share=0.05),
    "renyi": lambda m: lb.objectives.IWAE(m, particles=K, alpha=0.5),
}
COSTS = {
    "elbo": lambda b: lb.elbo(*b, particles=K, analytic_kl=True).sgvb(),
    "elbo, sampled kl": lambda b: lb.elbo(*b, particles=K).sgvb(),
    "elbo, stl": lambda b: lb.elbo(*b, particles=K).sgvb(stl=True),
    "iwae": lambda b: lb.iw_objective(*b, particles=K).sgvb(),
    "iwae, dreg": lambda b: lb.iw_objective(*b, particles=K).dreg(),
    "beta elbo": lambda b: lb.elbo(*b, particles=K, analytic_kl=True, beta=2.5).sgvb(),
    "miwae": lambda b: lb.iw_objective(*b, particles=2 * K, groups=K).sgvb(),
    "piwae": lambda b: lb.iw_objective(*b, particles=K, groups=K, partial=True).dreg(),
    "ciwae": lambda b: lb.iw_objective(*b, particles=K, elbo_share=0.05).sgvb(),
    "renyi": lambda b: lb.iw_objective(*b, particles=K, alpha=0.5).sgvb(),
}
FIRST = {
    "beta elbo": "beta-elbo(2.5)",
    "miwae": "miwae-3-2",
    "piwae": "iwae-3",
    "ciwae": "ciwae(0.05)-3",
    "renyi": "renyi(0.5)-3",
    "iwae": "iwae-3",
    "iwae, dreg": "iwae-3",
}


def model() -> lb.models.VAE:
    torch.manual_seed(0)
    return lb.models.VAE(event_shape=(D,), latent_dim=L, hidden=(4,)).double()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_is_the_mean_of_its_bound(name):
    m, x = model(), (random(4, B, D) > 0).double()
    objective = OBJECTIVES[name](m)
    torch.manual_seed(2)
    outcome = objective(x)
    torch.manual_seed(2)
    cost = COSTS[name]((m.generator.bind(B), {"x": x}, m.posterior.bind(x))).mean()
    torch.testing.assert_close(outcome.cost, cost, rtol=0, atol=1e-12)
    assert farthest(gradients(outcome.cost, m), gradients(cost, m)) < 1e-12
    assert next(iter(outcome.terms)) == FIRST.get(name, "elbo")
    assert all(term.shape == () and not term.requires_grad for term in outcome.terms.values())
    assert objective.certified


@pytest.mark.parametrize("name", OBJECTIVES)
def test_kl_weight_of_an_objective_changes_its_gradient_and_not_its_terms(name):
    m, x = model(), (random(4, B, D) > 0).double()
    objective = OBJECTIVES[name](m)
    terms, grads = [], []
    for weight in (1.0, 0.2):
        objective.kl_weight.fill_(weight)
        torch.manual_seed(2)
        outcome = objective(x)
        terms.append(outcome.terms)
        grads.append(gradients(outcome.cost, m))
    for term in terms[0]:
        torch.testing.assert_close(terms[0][term], terms[1][term], rtol=0, atol=1e-12)
    assert farthest(*grads) > 1e-3
    assert "kl_weight" not in objective.state_dict()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_describes_itself_in_json(name):
    description = OBJECTIVES[name](model()).describe()
    assert json.loads(json.dumps(description)) == description
    assert description["particles"] % K == 0
    assert description["model"]["class"] == "VAE"
    descriptions = [json.dumps(make(model()).describe()) for make in OBJECTIVES.values()]
    assert len(set(descriptions)) == len(OBJECTIVES)


def test_player_moves_what_is_not_frozen():
    m = model()
    m.generator.requires_grad_(False)
    (player,) = lb.objectives.ELBO(m).players()
    assert player.name == "model"
    assert {id(p) for p in player.parameters} == {id(p) for p in m.posterior.parameters()}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_frozen_posterior_still_trains_the_model(name):
    m, x = model(), (random(4, B, D) > 0).double()
    m.posterior.requires_grad_(False)
    grads = torch.autograd.grad(OBJECTIVES[name](m)(x).cost, list(m.generator.parameters()))
    assert min(float(grad.abs().max()) for grad in grads) > 1e-6


def test_objective_refuses_what_is_no_model():
    with pytest.raises(ArgumentError, match=r"model: expected a module with a generator, a posterior and programs"):
        lb.objectives.ELBO(torch.nn.Linear(1, 1))
    with pytest.raises(ArgumentError, match=r"gradient.*got 'dregs'.*Did you mean 'dreg'"):
        lb.objectives.IWAE(model(), gradient="dregs")


@pytest.mark.parametrize("particles", [0, -1, 1.0, True, None])
def test_particles_are_counted_from_one(particles):
    p, q, x = pair()
    calls = [
        lambda: lb.elbo(p.bind(B), {"x": x}, q.bind(x), particles=particles),
        lambda: lb.iw_objective(p.bind(B), {"x": x}, q.bind(x), particles=particles),
        lambda: lb.is_loglikelihood(p.bind(B), {"x": x}, q.bind(x), particles=particles),
        lambda: lb.objectives.ELBO(model(), particles=particles),
        lambda: lb.objectives.IWAE(model(), particles=particles),
    ]
    for call in calls:
        with pytest.raises(ArgumentError, match=r"particles: expected a positive integer.*Pass particles=1 or more"):
            call()
    with pytest.raises(ArgumentError, match="chunk: expected a positive integer"):
        lb.is_loglikelihood(p.bind(B), {"x": x}, q.bind(x), particles=1, chunk=0)
