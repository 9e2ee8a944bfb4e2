"""Where the evidence and the posterior are known: x = W z + mu + noise.

At the exact posterior every log-weight is log p(x), so every bound with any number of particles is, draw by draw.
"""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import lowerbound as lb
from exact import farthest, gauss_hermite, gradients, linear_gaussian, random

TOLERANCE = 1e-10
SIZES = [(5, 1), (7, 2), (3, 4)]  # more latents than values, too
PARTICLES = [1, 2, 3, 7, 64]


def case(x_dim: int, z_dim: int, rows: int = 11):
    truth = linear_gaussian(x_dim, z_dim)
    x = 2.0 * random(5, rows, x_dim)
    return truth, x, truth.log_evidence(x)


@pytest.mark.parametrize("particles", PARTICLES)
@pytest.mark.parametrize("size", SIZES)
def test_every_bound_is_the_evidence_at_the_exact_posterior(size, particles):
    truth, x, evidence = case(*size)
    for bound in (lb.elbo, lb.iw_objective):
        made = bound(truth.generator().bind(len(x)), {"x": x}, truth.posterior().bind(x), particles=particles)
        assert made.value.shape == evidence.shape
        torch.testing.assert_close(made.value, evidence, rtol=0, atol=TOLERANCE)
        weights = evidence.expand(particles, len(x))
        torch.testing.assert_close(made.log_weights, weights, rtol=0, atol=TOLERANCE)
    for chunk in (1, 5, 1000):
        found = lb.is_loglikelihood(
            truth.generator().bind(len(x)), {"x": x}, truth.posterior().bind(x), particles=particles, chunk=chunk
        )
        torch.testing.assert_close(found, evidence, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("bound", [lb.elbo, lb.iw_objective])
def test_other_posteriors_are_off(bound):
    truth, x, evidence = case(7, 2)
    made = bound(truth.generator().bind(len(x)), {"x": x}, truth.perturbed().bind(x), particles=3)
    assert float((made.value - evidence).abs().min()) > 1e-4


STICKING = {
    "elbo, stl": lambda p, x, q: lb.elbo(p, {"x": x}, q, particles=3).sgvb(stl=True),
    "elbo, stl, one particle": lambda p, x, q: lb.elbo(p, {"x": x}, q).sgvb(stl=True),
    "dreg": lambda p, x, q: lb.iw_objective(p, {"x": x}, q, particles=3).dreg(),
    "dreg, one particle": lambda p, x, q: lb.iw_objective(p, {"x": x}, q, particles=1).dreg(),
    "renyi": lambda p, x, q: lb.iw_objective(p, {"x": x}, q, particles=3, alpha=-0.7).dreg(),
    "ciwae": lambda p, x, q: lb.iw_objective(p, {"x": x}, q, particles=3, elbo_share=0.2).dreg(),
    "miwae": lambda p, x, q: lb.iw_objective(p, {"x": x}, q, particles=6, groups=3).dreg(),
    "piwae": lambda p, x, q: lb.iw_objective(p, {"x": x}, q, particles=6, groups=3, partial=True).dreg(),
}
SLIPPING = {
    "elbo": lambda p, x, q: lb.elbo(p, {"x": x}, q, particles=3).sgvb(),
    "iwae": lambda p, x, q: lb.iw_objective(p, {"x": x}, q, particles=3).sgvb(),
}


@pytest.mark.parametrize("estimator", STICKING)
@pytest.mark.parametrize("size", SIZES)
def test_sticking_gradients_of_the_exact_posterior_are_zero_draw_by_draw(size, estimator):
    truth, x, _ = case(*size)
    p, q = truth.generator(), truth.posterior()
    cost = STICKING[estimator](p.bind(len(x)), x, q.bind(x))
    for row in cost:
        assert max(float(grad.abs().max()) for grad in gradients(row, q).values()) < TOLERANCE
    assert min(float(grad.abs().max()) for grad in gradients(cost.sum(), p).values()) > 1e-2  # the model's are not


@pytest.mark.parametrize("estimator", SLIPPING)
def test_plain_gradients_are_not_zero_draw_by_draw(estimator):
    truth, x, _ = case(7, 2)
    p, q = truth.generator(), truth.posterior()
    cost = SLIPPING[estimator](p.bind(len(x)), x, q.bind(x))
    assert min(float(grad.abs().max()) for grad in gradients(cost[0], q).values()) > 1e-2


class OnGrid(MultivariateNormal):
    """A Gaussian whose draws are loc + L node, for nodes ``[K, n, z_dim]``."""

    def __init__(self, loc, tril, nodes):
        super().__init__(loc, scale_tril=tril)
        self.nodes = nodes

    def rsample(self, sample_shape: torch.Size = torch.Size()):  # noqa: B008 (torch's own signature)
        return self.loc + (self.scale_tril @ self.nodes[..., None]).squeeze(-1)


class GridPosterior(lb.BayesianNet):
    """A `LinearPosterior` of one datum, drawn at given nodes."""

    def __init__(self, q):
        super().__init__()
        self.q = q

    def forward(self, bn, x, nodes):
        bn.sample("z", OnGrid(x @ self.q.gain.T + self.q.offset, self.q.tril.tril(), nodes))


def on_grid(particles: int, z_dim: int):
    """Return nodes ``[K, n, z_dim]`` and weights ``[n]``: three nodes an axis are exact for quadratics."""
    nodes, weights = gauss_hermite(3, particles * z_dim)
    return nodes.reshape(len(weights), particles, z_dim).transpose(0, 1), weights


@pytest.mark.parametrize("particles", [1, 2])
@pytest.mark.parametrize("estimator", ["sgvb", "dreg"])
def test_model_gradient_at_the_exact_posterior_is_that_of_the_evidence(estimator, particles):
    """Fisher's identity: the posterior mean of the gradient of log p(x, z) is the gradient of log p(x)."""
    truth, x, _ = case(3, 2, rows=1)
    nodes, weights = on_grid(particles, 2)
    p, q, rows = truth.generator(), GridPosterior(truth.posterior()), x.expand(len(weights), -1)
    bound = lb.iw_objective(p.bind(len(rows)), {"x": rows}, q.bind(rows, nodes), particles=particles)
    found = gradients(-(weights * getattr(bound, estimator)()).sum(), p)
    covariance = p.weight @ p.weight.T + torch.diag(p.noise**2)
    wanted = gradients(MultivariateNormal(p.mean, covariance).log_prob(x).sum(), p)
    assert farthest(found, wanted) < TOLERANCE
    assert min(float(grad.abs().max()) for grad in wanted.values()) > 1


def test_stl_and_dreg_treat_what_is_bound_to_the_posterior_as_constant():
    """A posterior may get its parameters as inputs rather than own them."""

    class Given(lb.BayesianNet):
        def forward(self, bn, loc, tril):
            bn.sample("z", MultivariateNormal(loc, scale_tril=tril))

    truth, x, _ = case(7, 2)
    gain, offset, tril = truth.exact()
    loc, tril = (x @ gain.T + offset).requires_grad_(), tril.expand(len(x), 2, 2).clone().requires_grad_()
    for estimator in STICKING.values():
        cost = estimator(truth.generator().bind(len(x)), x, Given().bind(loc, tril))
        for grad in torch.autograd.grad(cost.sum(), (loc, tril)):
            assert float(grad.abs().max()) < TOLERANCE


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_elbo_of_another_posterior_is_evidence_minus_divergence(analytic_kl):
    truth, x, evidence = case(5, 2, rows=1)
    nodes, weights = on_grid(1, 2)
    p, q, rows = truth.generator(), GridPosterior(truth.perturbed()), x.expand(len(weights), -1)
    made = lb.elbo(p.bind(len(rows)), {"x": rows}, q.bind(rows, nodes), analytic_kl=analytic_kl)
    gain, offset, tril = truth.exact()
    exact = MultivariateNormal(x @ gain.T + offset, scale_tril=tril)
    other = MultivariateNormal(x @ q.q.gain.T + q.q.offset, scale_tril=q.q.tril.tril())
    wanted = (evidence - kl_divergence(other, exact)).squeeze()
    torch.testing.assert_close((weights * made.value).sum(), wanted.detach(), rtol=0, atol=TOLERANCE)
    wanted_gradients = gradients(wanted, q)
    for estimate in (made.sgvb(), made.sgvb(stl=True)):
        assert farthest(gradients(-(weights * estimate).sum(), q), wanted_gradients) < TOLERANCE
    assert min(float(grad.abs().max()) for grad in wanted_gradients.values()) > 1e-2
