"""Flows, mixtures and VampPriors inside the bounds: exact posteriors give the evidence, and gradients are exact.

Noise is replaced by the nodes of a grid, one grid point a row; the exact gradient differentiates the integral of the
density instead, which goes through the inverse maps and never through a draw.
"""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

import lowerbound as lb
from exact import OnNodes, Scalars, farthest, gradients, linear_gaussian, random
from lowerbound.distributions import Flow, GaussianMixture, PlanarTransform
from lowerbound.nn import FLOWS, PRIORS, FlowHead

K, B, X, Z = 3, 5, 7, 3
TOLERANCE = 1e-10


# --- A flow that is the exact posterior -------------------------------------------------------------------------------


class FlowPosterior(lb.BayesianNet):
    """The exact posterior of a linear-Gaussian model as one affine autoregressive map in the units of a Gaussian."""

    def __init__(self, name: str) -> None:
        super().__init__()
        gain, offset, tril = linear_gaussian(X, Z).exact()
        self.head = FlowHead(X, Z, flow=FLOWS[name], covariance="diagonal", transforms=1, hidden=(), context=2).double()
        with torch.no_grad():
            self.head.gaussian.loc.weight.copy_(gain)
            self.head.gaussian.loc.bias.copy_(offset)
            self.head.gaussian.log_variance.weight.zero_()
            self.head.gaussian.log_variance.bias.copy_(2 * tril.diagonal().log())
            # In units of L's diagonal, L is U = D^-1 L: draws are U eps (iaf), or eps = U^-1 y (maf).
            unit = tril / tril.diagonal().unsqueeze(1)
            shift = (unit if name == "iaf" else torch.linalg.inv(unit)).tril(-1)
            self.head.transforms.layers[0].hyper[0].weight[::2, :Z] = shift

    def forward(self, bn, x):
        bn.sample("z", self.head(x))


@pytest.mark.parametrize("name", ["iaf", "maf"])
def test_bound_of_the_exact_flow_is_the_evidence(name):
    case, x = linear_gaussian(X, Z), random(3, B, X)
    p, q = case.generator(), FlowPosterior(name)
    for bound in (
        lb.elbo(p.bind(B), {"x": x}, q.bind(x), particles=K),
        lb.elbo(p.bind(B), {"x": x}, q.bind(x), particles=K, analytic_kl=True),  # there is no closed form: draws
        lb.iw_objective(p.bind(B), {"x": x}, q.bind(x), particles=K),
    ):
        torch.testing.assert_close(bound.value, case.log_evidence(x), rtol=0, atol=TOLERANCE)
    wanted = case.log_evidence(x).expand(K, B)
    torch.testing.assert_close(bound.log_weights, wanted, rtol=0, atol=TOLERANCE)
    with torch.no_grad():
        q.head.gaussian.loc.bias.add_(0.1)
    other = lb.elbo(p.bind(B), {"x": x}, q.bind(x), particles=K)
    assert float((other.value - case.log_evidence(x)).abs().max()) > 1e-2


@pytest.mark.parametrize("name", ["iaf", "maf"])
def test_sticking_the_landing_and_dreg_are_zero_at_the_exact_flow(name):
    x = random(3, B, X)
    p, q = linear_gaussian(X, Z).generator(), FlowPosterior(name)
    costs = {
        "stl": lb.elbo(p.bind(B), {"x": x}, q.bind(x), particles=K).sgvb(stl=True),
        "dreg": lb.iw_objective(p.bind(B), {"x": x}, q.bind(x), particles=K).dreg(),
        "sgvb": lb.elbo(p.bind(B), {"x": x}, q.bind(x), particles=K).sgvb(),
    }
    largest = {
        estimator: max(float(gradient.abs().max()) for gradient in gradients(cost.sum(), q).values())
        for estimator, cost in costs.items()
    }
    assert largest["stl"] < 1e-8
    assert largest["dreg"] < 1e-8
    assert largest["sgvb"] > 0.1


# --- One latent, a planar flow: every estimator against the integral of the density -----------------------------------

PHI = {"loc": 0.2, "log_scale": -0.4, "u": 1.1, "w": 0.8, "b": -0.3, "u2": -1.7, "w2": 0.6, "b2": 0.5}


class LogisticGenerator(Scalars):
    """z ~ N(0, 1), x ~ Bernoulli(sigmoid(a z + c))."""

    def __init__(self) -> None:
        super().__init__(a=1.3, c=0.2)

    def forward(self, bn, n):
        z = bn.sample("z", Independent(Normal(torch.zeros(n, 1, dtype=torch.float64), 1.0), 1))
        bn.sample("x", Bernoulli(logits=self.t["a"] * z.squeeze(-1) + self.t["c"]))


class PlanarPosterior(Scalars):
    """Two planar maps of a Gaussian whose noise stands at given nodes ``[K, n]``; with None, nothing is drawn."""

    def __init__(self) -> None:
        super().__init__(**PHI)

    def flow(self, n: int, nodes=None) -> Flow:
        t = self.t
        loc, scale = t["loc"].expand(n, 1), t["log_scale"].exp().expand(n, 1)
        normal = Normal(loc, scale) if nodes is None else OnNodes(loc, scale, nodes.unsqueeze(-1))
        maps = [PlanarTransform(t[f"u{i}"].reshape(1), t[f"w{i}"].reshape(1), t[f"b{i}"]) for i in ("", "2")]
        return Flow(Independent(normal, 1), maps)

    def forward(self, bn, nodes):
        bn.sample("z", self.flow(nodes.shape[1], nodes))


def line(points: int, reach: float):
    """Return nodes ``[points]`` and their step: sums converge faster than any power of it, all being analytic."""
    nodes = torch.linspace(-reach, reach, points, dtype=torch.float64)
    return nodes, nodes[1] - nodes[0]


def grid(particles: int):
    """Return noise ``[K, n]`` and the weights ``[n]`` of its combinations."""
    nodes, step = line(131, 8.5)
    weights = step * torch.exp(-0.5 * nodes.square()) / math.sqrt(2 * math.pi)
    tuples = torch.cartesian_prod(*[nodes] * particles).reshape(-1, particles)
    return tuples.T.contiguous(), torch.cartesian_prod(*[weights] * particles).reshape(-1, particles).prod(-1)


def exact(particles: int):
    """Return the gradient of the bound as an integral over the densities of all draws."""
    p, q = LogisticGenerator(), PlanarPosterior()
    z, step = line(401, 14.0)
    log_q = q.flow(1).log_prob(z.reshape(-1, 1, 1)).squeeze(-1)
    logits = p.t["a"] * z + p.t["c"]
    log_w = Bernoulli(logits=logits).log_prob(torch.ones_like(z)) + Normal(0.0, 1.0).log_prob(z) - log_q
    density = step * log_q.exp()
    if particles == 1:
        return gradients((density * log_w).sum(), p, q)
    pairs = torch.logaddexp(log_w[:, None], log_w[None, :]) - math.log(2)
    return gradients((density[:, None] * density[None, :] * pairs).sum(), p, q)


ESTIMATORS = {
    "elbo sgvb": (1, lb.elbo, lambda bound: bound.sgvb()),
    "elbo stl": (1, lb.elbo, lambda bound: bound.sgvb(stl=True)),
    "elbo reinforce": (1, lb.elbo, lambda bound: bound.reinforce()),
    "iwae sgvb": (2, lb.iw_objective, lambda bound: bound.sgvb()),
    "iwae dreg": (2, lb.iw_objective, lambda bound: bound.dreg()),
    "iwae vimco": (2, lb.iw_objective, lambda bound: bound.vimco()),
}


def estimated(name: str):
    particles, make, estimator = ESTIMATORS[name]
    nodes, weights = grid(particles)
    p, q = LogisticGenerator(), PlanarPosterior()
    x = torch.ones(len(weights), dtype=torch.float64)
    bound = make(p.bind(len(x)), {"x": x}, q.bind(nodes), particles=particles)
    return gradients(-(weights * estimator(bound)).sum(), p, q)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_expected_gradient_of_a_planar_flow_is_exact(name):
    wanted = exact(ESTIMATORS[name][0])
    assert farthest(estimated(name), wanted) < TOLERANCE
    assert all(float(gradient.abs()) > 1e-4 for gradient in wanted.values())


def test_determinant_without_the_outer_map_would_be_seen(monkeypatch):
    monkeypatch.setattr(PlanarTransform, "_determinant", lambda self, t: self.room + 0 * t)
    assert farthest(estimated("elbo sgvb"), exact(1)) > 1e-2


# --- A mixture as posterior -------------------------------------------------------------------------------------------


class MixturePosterior(lb.BayesianNet):
    """Two Gaussians, drawn at given values, or anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.t = nn.ParameterList([random(0, 2), random(1, 2, 1), 0.2 * random(2, 2, 1)])

    def mixture(self) -> GaussianMixture:
        return GaussianMixture(self.t[0], self.t[1], self.t[2].exp())

    def forward(self, bn, values):
        q = self.mixture().expand((values.shape[0],))
        q.sample = lambda shape=(): values.expand(*shape, *values.shape)
        bn.sample("z", q)


@pytest.mark.parametrize("estimator", ["sgvb", "stl", "reinforce"])
def test_expected_gradient_of_a_mixture_is_exact(estimator):
    p, q = LogisticGenerator(), MixturePosterior()
    z, step = line(401, 14.0)
    log_q = q.mixture().log_prob(z.unsqueeze(-1))
    log_w = (
        Bernoulli(logits=p.t["a"] * z + p.t["c"]).log_prob(torch.ones_like(z)) + Normal(0.0, 1.0).log_prob(z) - log_q
    )
    wanted = gradients((step * log_q.exp() * log_w).sum(), p, q)
    bound = lb.elbo(p.bind(len(z)), {"x": torch.ones_like(z)}, q.bind(z.unsqueeze(-1)))
    cost = {
        "sgvb": lambda: bound.sgvb(),
        "stl": lambda: bound.sgvb(stl=True),
        "reinforce": lambda: bound.reinforce(),
    }[estimator]()
    found = gradients(-(step * log_q.exp().detach() * cost).sum(), p, q)
    assert farthest(found, wanted) < TOLERANCE
    assert max(float(gradient.abs().max()) for gradient in wanted.values()) > 1e-2


# --- The VampPrior: the encoder's parameters are q's in one place and p's in the other --------------------------------


def vamp() -> lb.models.VAE:
    torch.manual_seed(0)
    return lb.models.VAE(
        event_shape=(2,), latent_dim=1, hidden=(3,), activation="tanh", prior="vamp", prior_options={"components": 2}
    ).double()


def exact_vamp(particles: int):
    model, x = vamp(), torch.tensor([[0.0, 1.0]]).double()
    nodes, weights = grid(particles)
    q = model.encode(x).base_dist
    z = q.loc + q.scale * nodes.reshape(particles, -1, 1)  # [K, n, 1]
    log_q = (-0.5 * nodes.square() - 0.5 * math.log(2 * math.pi)) - q.scale.log().squeeze()
    parts = model.encode(model.generator.prior.pseudo_inputs).base_dist
    log_prior = Normal(parts.loc.T, parts.scale.T).log_prob(z).logsumexp(-1) - math.log(2)
    log_likelihood = model.decode(z).log_prob(x)
    log_w = log_likelihood + log_prior - log_q
    return gradients((weights * (log_w.logsumexp(0) - math.log(particles))).sum(), model)


def estimated_vamp(name: str, model, monkeypatch):
    particles, make, estimator = ESTIMATORS[name]
    nodes, weights = grid(particles)
    monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda shape, **_: nodes.reshape(shape))
    monkeypatch.setattr(
        Normal, "sample", lambda self, shape=(): (self.loc + self.scale * nodes.reshape(*shape, -1, 1)).detach()
    )
    x = torch.tensor([[0.0, 1.0]]).double().expand(len(weights), 2)
    bound = make(model.generator.bind(len(x)), {"x": x}, model.posterior.bind(x), particles=particles)
    return gradients(-(weights * estimator(bound)).sum(), model)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_expected_gradient_under_a_vampprior_is_exact(name, monkeypatch):
    wanted = exact_vamp(ESTIMATORS[name][0])
    assert farthest(estimated_vamp(name, vamp(), monkeypatch), wanted) < TOLERANCE
    assert float(wanted["generator.prior.pseudo_inputs"].abs().min()) > 1e-4


def test_vampprior_whose_encoder_is_constant_would_be_seen(monkeypatch):
    class Constant(nn.Module):
        def __init__(self, posterior):
            super().__init__()
            self.whole = [posterior]

        def encode(self, u):
            q = self.whole[0].encode(u).base_dist
            return Independent(Normal(q.loc.detach(), q.scale.detach()), 1)

    model = vamp()
    model.generator.prior.posterior = Constant(model.posterior)
    names = {name.rpartition("encoder.")[2]: gradient for name, gradient in exact_vamp(1).items()}
    found = estimated_vamp("elbo sgvb", model, monkeypatch)
    assert farthest({name.rpartition("encoder.")[2]: gradient for name, gradient in found.items()}, names) > 1e-3


@pytest.mark.parametrize("prior", PRIORS)
def test_constant_generator_has_no_gradient_at_all(prior):
    model = lb.models.VAE(event_shape=(2,), latent_dim=2, hidden=(3,), prior=prior)
    z = torch.randn(K, B, 2, requires_grad=True)
    run = model.generator.bind(B).run
    values = {"z": z, "x": torch.ones(B, 2)}
    cost = run(values, particles=K, batch=(B,), detach_parameters=True).log_joint().sum()
    cost.backward()
    assert z.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(cost, run(values, particles=K, batch=(B,)).log_joint().sum())


def test_vampprior_is_saved_once_and_its_parameters_are_the_posteriors():
    model, twin = (
        vamp(),
        lb.models.VAE(
            event_shape=(2,),
            latent_dim=1,
            hidden=(3,),
            activation="tanh",
            prior="vamp",
            prior_options={"components": 2},
        ),
    )
    state = model.state_dict()
    assert [name for name in state if name.startswith("generator.prior")] == ["generator.prior.pseudo_inputs"]
    twin.double().load_state_dict(state)
    assert twin.prior().log_prob(torch.ones(1).double()).equal(model.prior().log_prob(torch.ones(1).double()))
    assert len(list(twin.parameters())) == len(list(lb.models.VAE(event_shape=(2,), hidden=(3,)).parameters())) + 1
    copy = deepcopy(model)
    assert copy.generator.prior.posterior is copy.posterior
    assert copy.posterior is not model.posterior
