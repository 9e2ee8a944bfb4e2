"""Flows, planar maps and mixtures: densities against Jacobians, and gradients against integrals."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import (
    AffineTransform,
    ExpTransform,
    Independent,
    MultivariateNormal,
    Normal,
    TanhTransform,
    TransformedDistribution,
)
from torch.func import jacrev, vmap

from exact import random
from lowerbound.distributions import (
    Flow,
    GaussianMixture,
    LowRankGaussian,
    PlanarTransform,
    TriangularTransform,
    kl_divergence,
    standard_normal,
)

K, B, D = 2, 3, 5


def log_det(f, x):
    """Return log |det f'(x)| of rows [n, D], by automatic differentiation."""
    return torch.linalg.slogdet(vmap(jacrev(f))(x)).logabsdet


# --- The planar map ---------------------------------------------------------------------------------------------------

EDGES = {"ordinary": 1.0, "strong": 5.0, "far beyond the edge": 40.0}  # w'u of -40 leaves a determinant of 0.05


def planar(size: float, seed: int = 0, dims: int = D, sign: float = -1.0) -> PlanarTransform:
    w = random(seed, dims)
    return PlanarTransform(sign * size * w / w.square().sum() + 0.3 * random(seed + 1, dims), w, random(seed + 2))


@pytest.mark.parametrize("dims", [1, 2, D])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("edge", EDGES)
def test_determinant_of_a_planar_map_is_its_jacobians(edge, sign, dims):
    f = planar(EDGES[edge], dims=dims, sign=sign)
    x = random(9, 50, dims)
    y, found = f.call_and_ladj(x)
    torch.testing.assert_close(found, log_det(f, x), rtol=0, atol=1e-10)
    torch.testing.assert_close(f.log_abs_det_jacobian(x, y), found, rtol=0, atol=0)
    assert y.equal(f(x))
    assert bool((torch.linalg.det(vmap(jacrev(f))(x)) > 0).all())  # it never folds the space


def test_determinant_at_the_edge():
    f = planar(40.0, dims=1)
    x = -f.b / f.w  # where tanh is steepest and the determinant least
    torch.testing.assert_close(
        f.log_abs_det_jacobian(x, x).exp(), torch.tensor([0.05], dtype=torch.float64).squeeze(), rtol=1e-10, atol=0
    )


def test_planar_map_at_the_edge_is_inverted_in_single_precision():
    f = planar(40.0)
    single = PlanarTransform(f.u.float(), f.w.float(), f.b.float())
    x = random(9, 50, D).float()
    torch.testing.assert_close(single.inv(single(x)), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dims", [1, D])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_planar_maps_are_inverted_with_gradients(sign, dims):
    x = random(9, 50, dims).requires_grad_()
    u, w, b = (random(seed, *shape).requires_grad_() for seed, shape in ((1, (dims,)), (2, (dims,)), (3, ())))

    def maps():
        return PlanarTransform(3 * sign * u, w, b)

    back = maps().inv(maps()(x))
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)
    # x = f^-1(f(x)) for all parameters and all x: its derivatives are 0 and the identity.
    found = torch.autograd.grad((back * random(4, 50, dims)).sum(), (x, u, w, b))
    torch.testing.assert_close(found[0], random(4, 50, dims), rtol=0, atol=1e-8)
    assert all(float(gradient.abs().max()) < 1e-8 for gradient in found[1:])


def test_planar_map_without_a_shear_is_the_identity():
    x = random(0, 7, D)
    f = PlanarTransform(torch.zeros(D).double(), random(1, D), random(2))
    y, found = f.call_and_ladj(x)
    assert (y - x).abs().max() < 1e-15
    assert found.abs().max() < 1e-15
    nothing = PlanarTransform(random(1, D), torch.zeros(D).double(), random(2))
    assert bool(nothing(x).isfinite().all())


# --- Flows ------------------------------------------------------------------------------------------------------------


def flow(*, dims: int = D, rows: int = B, seed: int = 0) -> Flow:
    base = Independent(Normal(random(seed, rows, dims), (0.3 * random(seed + 1, rows, dims)).exp()), 1)
    maps = [
        PlanarTransform(2 * random(seed + 2, rows, dims), random(seed + 3, rows, dims), random(seed + 4, rows)),
        AffineTransform(random(seed + 5, dims), random(seed + 6, dims).exp(), event_dim=1),
        PlanarTransform(random(seed + 7, dims), random(seed + 8, dims), random(seed + 9)),
    ]
    return Flow(base, maps)


def test_density_of_a_flow_is_the_change_of_variables():
    q = flow()
    torch.manual_seed(0)
    z, log_q = q.rsample_and_log_prob((K,))
    assert (z.shape, log_q.shape) == ((K, B, D), (K, B))
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=0, atol=1e-10)
    one = flow(rows=1)
    eps = one.base.sample((11,)).squeeze(1)

    def push(x):
        for transform in one.transforms:
            x = transform(x)
        return x.reshape(D)

    values = torch.stack([push(x) for x in eps])
    wanted = one.base.log_prob(eps) - log_det(push, eps)
    torch.testing.assert_close(one.log_prob(values), wanted, rtol=0, atol=1e-10)


def test_expanded_flow_is_the_same():
    q = flow(rows=1)
    wide = q.expand((7, B))
    z = random(3, 7, B, D)
    assert (wide.batch_shape, wide.event_shape, wide.rsample((K,)).shape) == ((7, B), (D,), (K, 7, B, D))
    torch.testing.assert_close(wide.log_prob(z), q.log_prob(z), rtol=0, atol=0)


def test_moments_of_a_flow():
    q = flow()
    torch.manual_seed(0)
    draws = q.sample((40_000,))
    # Of 64 points: within 0.1 of a standard deviation here; 64 draws would be within 0.35.
    assert float(((q.mean - draws.mean(0)) / draws.std(0)).abs().max()) < 0.1
    torch.testing.assert_close(q.stddev, draws.std(0), rtol=0.25, atol=0)
    assert q.mean.equal(flow().mean)
    first = Flow(Independent(Normal(q.base.mean[:1], q.base.stddev[:1]), 1), q.transforms[1:])
    torch.testing.assert_close(
        Flow(q.base, q.transforms[1:]).mean[0], first.mean[0], rtol=0, atol=1e-12
    )  # a row's, whatever rows stand beside it
    affine = Flow(q.base, q.transforms[1:2])
    wanted = q.transforms[1](q.base.mean)
    torch.testing.assert_close(affine.mean, wanted, rtol=0, atol=1e-10)


def test_flow_of_torchs_maps_is_torchs():
    base, maps = (
        Independent(Normal(random(0, B, D), 0.7), 1),
        [ExpTransform(), AffineTransform(-1.0, 2.0), TanhTransform()],
    )
    torch.manual_seed(0)
    z, log_q = Flow(base, maps).rsample_and_log_prob((K,))
    wanted = TransformedDistribution(base, [ExpTransform(), AffineTransform(-1.0, 2.0)])
    inner = maps[2].inv(z)
    torch.testing.assert_close(log_q, wanted.log_prob(inner) - maps[2].log_abs_det_jacobian(inner, z).sum(-1))
    torch.testing.assert_close(Flow(base, maps[:2]).log_prob(inner), wanted.log_prob(inner), rtol=0, atol=1e-10)


# --- Mixtures ---------------------------------------------------------------------------------------------------------

C = 3


def parameters(dims: int, *, apart: float = 1.0, seed: int = 0):
    logits, loc = 0.7 * random(seed, C), apart * random(seed + 1, C, dims)
    return [p.requires_grad_() for p in (logits, loc, 0.3 * random(seed + 2, C, dims))]


class AtNodes(GaussianMixture):
    """A mixture whose draws are given nodes."""

    nodes: torch.Tensor

    def sample(self, sample_shape=()):
        return self.nodes


def grid(dims: int, reach: float, points: int):
    side = torch.linspace(-reach, reach, points, dtype=torch.float64)
    nodes = torch.cartesian_prod(*[side] * dims).reshape(-1, dims)
    return nodes, float((side[1] - side[0]) ** dims)


TESTS = {
    "sine": lambda z: torch.sin(z.cumsum(-1)).sum(-1),
    "square": lambda z: (z.sum(-1) - 0.3) ** 2,
    "product": lambda z: torch.exp(-0.5 * (z - 0.2).square().sum(-1)) * (1 + z.prod(-1)),
}


@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize("dims, points", [(1, 400), (2, 130)])
@pytest.mark.parametrize("apart", [0.5, 2.0])
def test_gradient_of_a_mixtures_draws_is_exact(apart, dims, points, name):
    logits, loc, log_scale = parameters(dims, apart=apart)
    nodes, volume = grid(dims, 11.0, points)
    mixture = AtNodes(logits, loc, log_scale.exp())
    mixture.nodes = nodes
    weights = mixture.log_prob(nodes).exp() * volume
    assert float(weights.detach().sum()) == pytest.approx(1, abs=1e-12)
    exact = torch.autograd.grad((weights * TESTS[name](nodes)).sum(), (logits, loc, log_scale), retain_graph=True)
    pathwise = (weights.detach() * TESTS[name](mixture.rsample())).sum()
    found = torch.autograd.grad(pathwise, (logits, loc, log_scale))
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    assert all(float(gradient.abs().max()) > 1e-3 for gradient in exact)


def test_gradient_that_ignores_the_choice_of_the_component_would_be_seen():
    logits, loc, log_scale = parameters(1)
    nodes, volume = grid(1, 11.0, 400)
    mixture = GaussianMixture(logits, loc, log_scale.exp())
    weights = mixture.log_prob(nodes).exp() * volume
    exact = torch.autograd.grad((weights * TESTS["sine"](nodes)).sum(), (logits, loc), retain_graph=True)
    # z = mu_c + sigma_c eps with c drawn: what a mixture of reparameterised components would give.
    terms = 0.0
    eps, step = grid(1, 11.0, 400)
    for c in range(C):
        density = torch.exp(-0.5 * eps.square()).squeeze(-1) * step / math.sqrt(2 * math.pi)
        z = loc[c] + log_scale[c].exp() * eps
        terms = terms + logits.softmax(0)[c].detach() * (density * TESTS["sine"](z)).sum()
    (wrong,) = torch.autograd.grad(terms, logits, allow_unused=True, retain_graph=True)
    assert wrong is None
    assert float(exact[0].abs().max()) > 1e-2


def test_gradients_of_draws_are_finite_far_out():
    logits = torch.tensor([-8.0, 0.0, 0.0], requires_grad=True)
    loc = torch.tensor([[-30.0] * 20, [0.0] * 20, [40.0] * 20], requires_grad=True)
    q = GaussianMixture(logits, loc, torch.tensor([[1e-3] * 20, [1.0] * 20, [5.0] * 20]))
    torch.manual_seed(0)
    z = q.rsample((20_000,))
    z.sum().backward()
    assert bool(loc.grad.isfinite().all() & logits.grad.isfinite().all())
    # apart as far as here, a draw moves with the mean of its own component
    share = logits.detach().softmax(0)
    torch.testing.assert_close(loc.grad.mean(1) / 20_000, share, rtol=0, atol=0.02)


def test_mixture_is_torchs():
    logits, loc, log_scale = parameters(D)
    q = GaussianMixture(logits, loc, log_scale.exp())
    z = random(5, K, B, D)
    parts = Independent(Normal(loc, log_scale.exp()), 1).log_prob(z.unsqueeze(-2)) + logits.log_softmax(0)
    torch.testing.assert_close(q.log_prob(z), parts.logsumexp(-1), rtol=0, atol=1e-12)
    wide = q.expand((7, B))
    assert (wide.batch_shape, wide.event_shape, wide.rsample((K,)).shape) == ((7, B), (D,), (K, 7, B, D))
    torch.testing.assert_close(wide.log_prob(z[:1]), q.log_prob(z[:1]).expand(7, B), rtol=0, atol=0)
    torch.testing.assert_close(q.mean, (logits.softmax(0).unsqueeze(-1) * loc).sum(0))


# --- Triangular maps and low rank -------------------------------------------------------------------------------------


def test_triangular_map_is_a_gaussians():
    tril = random(1, B, D, D).tril(-1) + torch.diag_embed(random(2, B, D).exp())
    loc, z = random(0, B, D), random(5, K, B, D)
    q = Flow(standard_normal(loc), [TriangularTransform(loc, tril)])
    torch.testing.assert_close(q.log_prob(z), MultivariateNormal(loc, scale_tril=tril).log_prob(z), rtol=0, atol=1e-10)
    f = TriangularTransform(loc, tril)
    torch.testing.assert_close(f.inv(f(z)), z, rtol=0, atol=1e-10)
    torch.testing.assert_close(f.log_abs_det_jacobian(z, f(z)), torch.linalg.slogdet(tril).logabsdet.expand(K, B))
    with torch.autocast("cpu", torch.bfloat16):
        half = TriangularTransform(loc.float(), tril.float())
        torch.testing.assert_close(half(z.float()), f(z).float(), rtol=1e-5, atol=1e-5)


def low_rank(rows: int = B) -> LowRankGaussian:
    return LowRankGaussian(random(0, rows, D), random(1, rows, D, 2), random(2, rows, D).exp())


def dense(q: LowRankGaussian) -> MultivariateNormal:
    return MultivariateNormal(q.loc, q.cov_factor @ q.cov_factor.mT + torch.diag_embed(q.cov_diag))


def test_low_rank_gaussian_is_the_dense_one():
    q, z = low_rank(), random(5, K, B, D)
    torch.testing.assert_close(q.log_prob(z), dense(q).log_prob(z), rtol=0, atol=1e-10)
    wide = low_rank(1).expand((7, B))
    torch.testing.assert_close(
        wide.log_prob(z[:1]), dense(low_rank(1)).log_prob(z[:1]).expand(7, B), rtol=0, atol=1e-10
    )
    assert wide.rsample((K,)).shape == (K, 7, B, D)
    prior = Independent(Normal(random(6, D), random(7, D).exp()), 1)
    torch.testing.assert_close(kl_divergence(q, prior), kl_divergence(dense(q), prior), rtol=0, atol=1e-10)


def test_low_rank_gaussian_keeps_its_precision_under_autocast():
    q = low_rank()
    single = LowRankGaussian(q.loc.float(), q.cov_factor.float(), q.cov_diag.float())
    with torch.autocast("cpu", torch.bfloat16):
        half = LowRankGaussian(q.loc.float(), q.cov_factor.float(), q.cov_diag.float())
        torch.manual_seed(0)
        z = half.rsample((K,))
        log_q = half.log_prob(z)
    torch.manual_seed(0)
    assert z.equal(single.rsample((K,)))
    assert (log_q.dtype, log_q.equal(single.log_prob(z))) == (torch.float32, True)
