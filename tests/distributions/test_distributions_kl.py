"""Divergences in closed form, against torch's registry, against quadrature, and against draws."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Beta,
    Cauchy,
    Gamma,
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    StudentT,
    Uniform,
)
from torch.distributions import kl_divergence as torch_kl

from exact import gauss_hermite, random
from lowerbound.distributions import DiscretizedLogistic, kl_divergence

B, D = 5, 3


def normal(seed: int, *shape: int) -> Normal:
    return Normal(random(seed, *shape), (0.5 * random(seed + 50, *shape)).exp())


def full(seed: int, *shape: int) -> MultivariateNormal:
    square = random(seed, *shape, shape[-1])
    tril = 0.5 * square.tril(-1) + torch.diag_embed((0.5 * square.diagonal(dim1=-2, dim2=-1)).exp())
    return MultivariateNormal(random(seed + 50, *shape), scale_tril=tril)


REGISTERED = {
    "normal": (normal(0, B), normal(1, B)),
    "normal, broadcast": (normal(0, 7, B), normal(1, B)),
    "events of normals": (Independent(normal(0, B, D), 1), Independent(normal(1, B, D), 1)),
    "events of two axes": (Independent(normal(0, B, D, 2), 2), Independent(normal(1, B, D, 2), 2)),
    "full": (full(0, B, D), full(1, B, D)),
    "events of full": (Independent(full(0, B, D), 1), Independent(full(1, B, D), 1)),
    "Bernoulli": (Bernoulli(logits=random(0, B)), Bernoulli(logits=random(1, B))),
    "Gamma": (Gamma(random(0, B).exp(), 1.5), Gamma(random(1, B).exp(), 0.5)),
    "Beta from uniform": (Beta(random(0, B).exp(), 1.5), Uniform(torch.zeros(B).double(), 1.0)),
}


@pytest.mark.parametrize("pair", REGISTERED)
def test_divergence_is_torchs(pair):
    q, p = REGISTERED[pair]
    found = kl_divergence(q, p)
    torch.testing.assert_close(found, torch_kl(q, p), rtol=0, atol=1e-12)
    assert float(found.abs().max()) > 1e-2
    assert kl_divergence(q, q).abs().max() < 1e-12 or "Beta" in pair


@pytest.mark.parametrize("shapes", [((B,), (7, B)), ((7, B), (B,)), ((), (B,)), ((7, 1), (B,))], ids=str)
def test_bernoulli_variables_are_broadcast(shapes):
    q, p = (Bernoulli(logits=random(i, *shape)) for i, shape in enumerate(shapes))
    lead = torch.broadcast_shapes(*shapes)
    found = kl_divergence(q, p)
    assert found.shape == lead
    torch.testing.assert_close(found, torch_kl(q.expand(lead), p.expand(lead)), rtol=0, atol=1e-12)


def test_sure_bernoulli_variables_have_a_finite_divergence():
    sure, even = Bernoulli(logits=torch.tensor([-200.0, 200.0])), Bernoulli(logits=torch.zeros(2))
    torch.testing.assert_close(kl_divergence(sure, even), torch.full((2,), 2.0).log())
    torch.testing.assert_close(kl_divergence(sure, sure), torch.zeros(2))


def test_normals_against_quadrature():
    nodes, weights = gauss_hermite(3, 1)
    q, p = normal(0, B), normal(1, B)
    z = q.loc + q.scale * nodes
    wanted = (weights[:, None] * (q.log_prob(z) - p.log_prob(z))).sum(0)
    torch.testing.assert_close(kl_divergence(q, p), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("first", [True, False])
def test_gradient_in_both_arguments(first):
    loc, log_scale, other = random(0, B).requires_grad_(), random(1, B).requires_grad_(), normal(3, B)

    def divergence(loc, log_scale):
        own = Normal(loc, log_scale.exp())
        return kl_divergence(own, other) if first else kl_divergence(other, own)

    assert torch.autograd.gradcheck(divergence, (loc, log_scale))


# --- Full covariance from diagonal, which torch does not register -----------------------------------------------------


def diagonal(base: Normal) -> Independent:
    return Independent(base, 1)


def test_full_from_diagonal_is_full_from_full():
    q, p = full(0, B, D), normal(1, B, D)
    wanted = torch_kl(q, MultivariateNormal(p.loc, torch.diag_embed(p.scale**2)))
    torch.testing.assert_close(kl_divergence(q, diagonal(p)), wanted, rtol=0, atol=1e-12)


def test_full_from_diagonal_is_diagonal_from_diagonal():
    base, p = normal(0, B, D), diagonal(normal(1, B, D))
    q = MultivariateNormal(base.loc, scale_tril=torch.diag_embed(base.scale))
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(diagonal(base), p), rtol=0, atol=1e-12)


def test_full_from_shared_diagonal_broadcasts():
    q, p = full(0, 7, B, D), normal(1, D)
    wanted = kl_divergence(q, diagonal(p.expand((7, B, D))))
    torch.testing.assert_close(kl_divergence(q, diagonal(p)), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pair", ["full from diagonal", "events of normals", "full"])
def test_divergence_is_the_mean_over_draws(pair):
    q, p = (full(0, B, D), diagonal(normal(1, B, D))) if pair == "full from diagonal" else REGISTERED[pair]
    z = q.sample((20_000,))
    log_ratio = q.log_prob(z) - p.log_prob(z)
    found = kl_divergence(q, p)
    # 5.6 standard errors: each of the 5 rows raises a false alarm in 5e7 runs, and none here, as the seed is fixed.
    errors = log_ratio.std(0) / len(z) ** 0.5
    assert bool(((log_ratio.mean(0) - found).abs() < 5.6 * errors).all())
    assert bool((found > 50 * errors).all())  # so half or twice the divergence would be seen


UNKNOWN = {
    "Cauchy from normal": (Cauchy(torch.zeros(B), 1.0), Normal(torch.zeros(B), 1.0)),
    "Student": (StudentT(3.0, torch.zeros(B)), StudentT(3.0, torch.zeros(B))),
    "discretised logistic": (DiscretizedLogistic(torch.zeros(B), 1.0), DiscretizedLogistic(torch.zeros(B), 1.0)),
    "events of unknown": (
        Independent(StudentT(3.0, torch.zeros(B, D)), 1),
        Independent(Normal(torch.zeros(B, D), 1.0), 1),
    ),
    "events of other sizes": (Independent(normal(0, B, D, 2), 2), Independent(normal(0, B, D, 2), 1)),
    "full from events of Laplace": (full(0, B, D), Independent(Laplace(torch.zeros(B, D), 1.0), 1)),
    "full from two event axes": (full(0, B, D), Independent(normal(0, B, D), 2)),
    "diagonal from full": (diagonal(normal(0, B, D)), full(0, B, D)),
}


@pytest.mark.parametrize("pair", UNKNOWN)
def test_unknown_divergence_is_none(pair):
    assert kl_divergence(*UNKNOWN[pair]) is None
