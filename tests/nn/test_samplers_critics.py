"""Samplers without a density and the critics that judge them: their formulas, moments and first values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from exact import random
from lowerbound.core.errors import ArgumentError, NodeError
from lowerbound.distributions import Implicit
from lowerbound.nn import MLP, BasisSampler, BilinearCritic, JointMLP, MLPCritic, NoiseSampler
from lowerbound.nn.mlp import ACTIVATIONS

K, B, H, L = 3, 5, 4, 2

# --- Implicit ---------------------------------------------------------------------------------------------------------


def grid(lead: tuple[int, ...]) -> torch.Tensor:
    """Draws 0, 1, 2, ... along the first axis, and ten times as much in the second column."""
    u = torch.arange(lead[0] if lead else 1, dtype=torch.float64)
    return (u[:, None, None] * torch.tensor([1.0, 10.0])).expand(-1, B, L).reshape(*lead, B, L)


def test_implicit_distribution_is_its_draw():
    q = Implicit(grid, (B,), (L,))
    assert (q.batch_shape, q.event_shape, q.has_rsample) == ((B,), (L,), True)
    assert q.rsample((K,)).equal(grid((K,)))
    assert q.rsample().shape == (B, L)
    assert q.sample((K,)).equal(grid((K,)))


@pytest.mark.parametrize("draws", [2, 5, 100])
def test_moments_of_an_implicit_distribution_are_those_of_repeated_draws(draws):
    q = Implicit(grid, (B,), (L,), draws=draws)
    variance = draws * (draws + 1) / 12  # of 0, ..., n - 1, with n - 1 below
    torch.testing.assert_close(q.mean, (draws - 1) / 2 * torch.tensor([1.0, 10.0]).double().expand(B, L))
    torch.testing.assert_close(q.variance, variance * torch.tensor([1.0, 100.0]).double().expand(B, L))
    torch.testing.assert_close(q.stddev, q.variance.sqrt())


def test_moments_that_are_known_are_asked_for_once():
    calls = []

    def moments():
        calls.append(1)
        return torch.zeros(B, L), torch.ones(B, L)

    q = Implicit(grid, (B,), (L,), moments=moments)
    assert calls == []
    assert (q.mean.sum(), q.variance.sum()) == (0, B * L)
    assert calls == [1]


def test_gradients_flow_through_draws_and_not_through_moments():
    w = torch.ones((), requires_grad=True)
    q = Implicit(lambda lead: w * grid(lead), (B,), (L,))
    assert torch.autograd.grad(q.rsample((K,)).sum(), w)[0] == grid((K,)).sum()
    assert not q.sample((K,)).requires_grad
    assert not q.mean.requires_grad
    assert not q.variance.requires_grad


def test_implicit_distribution_has_no_density():
    with pytest.raises(
        NodeError, match=r"log_prob: expected a distribution with a density, got a sampler\. Use an obj"
    ):
        Implicit(grid, (B,), (L,)).log_prob(torch.zeros(B, L))


# --- JointMLP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activate", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(7,), (7, 6)])
def test_joint_network_is_the_network_of_the_concatenation(hidden, activate):
    torch.manual_seed(0)
    joint = JointMLP([H, L, 1], hidden, 3, activate=activate, init="torch").double()
    plain = MLP(H + L + 1, hidden, 3, activate=activate).double()
    with torch.no_grad():
        for mine, theirs in zip(joint.parameters(), plain.parameters(), strict=True):
            theirs.copy_(mine)
    x, z, c = random(0, B, H), random(1, K, B, L), random(2, 1)
    both = torch.cat([x.expand(K, B, H), z, c.expand(K, B, 1)], -1)
    torch.testing.assert_close(joint(x, z, c), plain(both), rtol=0, atol=1e-13)
    assert float(joint(x, z, c).detach().std()) > 1e-3


def test_joint_network_starts_as_the_network_of_the_concatenation():
    """The scale of the first weights is that of all inputs together."""
    for init in ("glorot", "he", "lecun", "torch"):
        torch.manual_seed(0)
        joint = JointMLP([30, 70], [50], 2, init=init).first.weight.detach()
        torch.manual_seed(0)
        plain = MLP(100, [50], 2, init=init)[0].weight.detach()
        # the standard deviation of 5,000 weights has a standard error of 1 % or less: ten of them are allowed
        assert float(joint.std() / plain.std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "sizes, message",
    [
        (([H, 0], [3], 1), "in_features: expected a positive integer, got 0"),
        (([H, L], [0], 1), "hidden: expected a positive integer, got 0"),
        (([H, L], [3], 0), "out_features: expected a positive integer, got 0"),
    ],
)
def test_sizes_of_a_joint_network_are_positive(sizes, message):
    with pytest.raises(ArgumentError, match=message):
        JointMLP(*sizes)


# --- Samplers ---------------------------------------------------------------------------------------------------------

SAMPLERS = {
    "noise": lambda: NoiseSampler(H, L, hidden=(8,), noise_dim=3),
    "basis": lambda: BasisSampler(H, L, basis=3, noise_dim=3, width=8),
}


@pytest.mark.parametrize("lead", [(), (K,), (2, K)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_have_noise_of_their_own_in_every_place(name, lead):
    torch.manual_seed(0)
    sampler = SAMPLERS[name]()
    q = sampler(torch.randn(1, H).expand(B, H))  # all rows alike
    assert (q.batch_shape, q.event_shape) == ((B,), (L,))
    z = q.rsample(lead)
    assert z.shape == (*lead, B, L)
    assert len(z.reshape(-1, L).unique(dim=0)) == z.numel() // L
    assert not q.rsample(lead).equal(z)
    torch.manual_seed(1)
    first = q.rsample(lead)
    torch.manual_seed(1)
    assert q.rsample(lead).equal(first)


@pytest.mark.parametrize("name", SAMPLERS)
def test_gradients_reach_every_parameter_and_the_features(name):
    torch.manual_seed(0)
    sampler, h = SAMPLERS[name](), torch.randn(B, H, requires_grad=True)
    sampler(h).rsample((K,)).square().sum().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in sampler.parameters())
    assert float(h.grad.abs().max()) > 0


def test_noise_sampler_is_its_network(monkeypatch):
    sampler, noise = NoiseSampler(H, L, hidden=(8,), noise_dim=3).double(), random(0, K, B, 3)
    h = random(1, B, H)
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: noise)
    torch.testing.assert_close(sampler(h).rsample((K,)), sampler.net(h.expand(K, B, H), noise), rtol=0, atol=1e-13)


def test_basis_sampler_is_its_formula(monkeypatch):
    """z = z0 + sum of a_i v_i(noise_i), written out vector by vector."""
    torch.manual_seed(0)
    sampler = BasisSampler(H, L, basis=3, noise_dim=4, width=6, init="torch").double()
    nn.init.normal_(sampler.weights.bias)
    h, noise = random(0, B, H), random(1, 3, K * B, 4)
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: noise)
    z = sampler(h).rsample((K,))
    wanted = sampler.center(h).expand(K, B, L)
    for i in range(3):
        v = noise[i]
        for j, layer in enumerate(sampler.layers):
            v = v @ layer.weight[i] + layer.bias[i]
            v = nn.functional.elu(v) if j < 2 else v
        a = nn.functional.elu(sampler.weights(h)[:, i * L : (i + 1) * L]) + 1
        wanted = wanted + a * v.reshape(K, B, L)
    torch.testing.assert_close(z, wanted, rtol=0, atol=1e-12)


def test_moments_of_a_basis_sampler_are_exact_in_the_formula(monkeypatch):
    """z0 + sum a E v and sum a^2 Var v, with the moments of the vectors those of known draws."""
    sampler = BasisSampler(H, L, basis=3, draws=7).double()
    nn.init.normal_(sampler.weights.bias)
    h, vectors = random(0, B, H), random(1, 7, 3, L)
    monkeypatch.setattr(BasisSampler, "_vectors", lambda self, noise: vectors)
    q = sampler(h)
    a = (nn.functional.elu(sampler.weights(h)) + 1).reshape(B, 3, L)
    mean = sampler.center(h) + (a * vectors.mean(0)).sum(1)
    variance = (a**2 * vectors.var(0)).sum(1)
    torch.testing.assert_close(q.mean, mean.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(q.variance, variance.detach(), rtol=0, atol=1e-12)
    assert not q.mean.requires_grad


@pytest.mark.parametrize("kind", [NoiseSampler, BasisSampler])
def test_moments_are_a_function_of_the_row(kind):
    """Asked again, in another order, or after loading the weights: the same to rounding; and those of the draws."""
    torch.manual_seed(0)
    sampler, twin = kind(H, L, draws=500), kind(H, L, draws=500)
    h = torch.randn(B, H)
    mean, variance = sampler(h).mean, sampler(h).variance
    order = torch.randperm(B)
    torch.testing.assert_close(sampler(h[order]).mean, mean[order])
    torch.testing.assert_close(sampler(h).variance, variance)
    assert not torch.allclose(twin(h).mean, mean)
    twin.load_state_dict(sampler.state_dict())
    torch.testing.assert_close(twin(h).mean, mean)
    draws = sampler(h).rsample((4000,)).detach()
    error = (draws.mean(0) - mean).abs() / (variance / 500 + variance / 4000).sqrt()
    assert float(error.max()) < 6  # standard errors, of few means: a false alarm in 1e7 runs


def test_moments_of_a_basis_sampler_are_those_of_many_draws():
    """Both sides are means over draws: they differ by their standard errors, of which five are allowed.

    Ten means and ten variances: with five standard errors the false-alarm rate is 20 times 6e-7 nearly, 1e-5.
    """
    torch.manual_seed(0)
    n = 20_000
    sampler = BasisSampler(H, L, basis=4, noise_dim=3, width=8, draws=n)
    nn.init.zeros_(sampler.weights.bias)
    q = sampler(torch.randn(B, H))
    z = q.rsample((n,)).detach().double()
    mean, variance = z.mean(0), z.var(0)
    fourth = (z - mean).pow(4).mean(0)
    assert bool(((q.mean - mean).abs() < 5 * (2 * variance / n).sqrt()).all())
    assert bool(((q.variance - variance).abs() < 5 * (2 * (fourth - variance**2) / n).sqrt()).all())
    assert float(variance.min()) > 1e-3


def test_basis_sampler_starts_narrow_around_the_mean_of_the_prior():
    torch.manual_seed(0)
    q = BasisSampler(H, L)(torch.randn(1000, H))
    assert float(q.mean.abs().max()) < 0.2
    assert float(q.stddev.max()) < 0.5
    assert float(BasisSampler(H, L).center.weight.detach().abs().max()) < 0.01


@pytest.mark.parametrize("kind", [NoiseSampler, BasisSampler])
@pytest.mark.parametrize("name", ["features", "noise_dim"])
def test_sizes_of_samplers_are_positive(kind, name):
    with pytest.raises(ArgumentError, match=f"{name}: expected a positive integer, got 0"):
        kind(**{"in_features": H, "features": L, name: 0})


@pytest.mark.parametrize("name", ["basis", "draws", "width"])
def test_sizes_of_the_basis_are_positive(name):
    with pytest.raises(ArgumentError, match=f"{name}: expected a positive integer, got 0"):
        BasisSampler(H, L, **{name: 0})


# --- Critics ----------------------------------------------------------------------------------------------------------

SHAPE = (2, 3)
CRITICS = {
    "mlp": lambda **options: MLPCritic(SHAPE, L, hidden=(8,), **options),
    "bilinear": lambda **options: BilinearCritic(SHAPE, L, hidden=(8,), features=4, **options),
}


def ready(name: str):
    """Return a critic whose every weight is drawn."""
    torch.manual_seed(0)
    critic = CRITICS[name]().double()
    for parameter in critic.parameters():
        nn.init.normal_(parameter, std=0.5)
    return critic


@pytest.mark.parametrize("name", CRITICS)
def test_critic_starts_at_zero_and_learns(name):
    torch.manual_seed(0)
    critic = CRITICS[name]()
    t = critic(torch.randn(K, B, L), torch.rand(B, *SHAPE))
    assert t.shape == (K, B)
    assert float(t.detach().abs().max()) == 0
    t.sum().backward()
    assert max(float(parameter.grad.abs().max()) for parameter in critic.parameters()) > 1e-3
    moving = [parameter for parameter in critic.parameters() if float(parameter.grad.abs().max()) > 0]
    with torch.no_grad():
        for parameter in moving:
            parameter -= 0.1 * parameter.grad
    second = critic(torch.randn(K, B, L), torch.rand(B, *SHAPE))
    second.square().sum().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in critic.parameters())


@pytest.mark.parametrize("name", CRITICS)
def test_critic_sees_rows_between_minus_one_and_one(name):
    critic = ready(name)
    z, x = random(0, K, B, L), random(1, B, *SHAPE)
    seen = (2 * x - 1).reshape(B, 6)
    torch.testing.assert_close(critic.rows(x), seen, rtol=0, atol=1e-14)
    if name == "mlp":
        wanted = critic.net(seen, z).squeeze(-1)
    else:
        theta, s = critic.row_tower(seen), critic.latent_tower(z)
        wanted = torch.einsum("bf,kbf->kb", theta[:, :4], s[..., :4]) + theta[:, 4] + s[..., 4]
    torch.testing.assert_close(critic(z, x), wanted, rtol=0, atol=1e-12)
    assert float(wanted.detach().std()) > 0.1


@pytest.mark.parametrize("name", CRITICS)
def test_critic_sees_standardised_rows_where_it_was_told_to(name):
    critic = ready(name)
    x, center, spread = random(1, B, *SHAPE), random(2, *SHAPE), 1 + random(3, *SHAPE).square()
    z = random(0, K, B, L)
    plain = critic(z, ((x - center) / spread + 1) / 2)
    critic.standardize(center, spread)
    torch.testing.assert_close(critic(z, x), plain, rtol=0, atol=1e-12)
    critic.standardize(torch.tensor(0.5), torch.tensor(0.5))
    torch.testing.assert_close(critic.rows(x), (2 * x - 1).reshape(B, 6), rtol=0, atol=1e-14)
    assert {"center", "spread"} <= critic.state_dict().keys()  # saved with the weights


@pytest.mark.parametrize("name", CRITICS)
def test_every_draw_is_judged_by_itself_and_its_row(name):
    critic = ready(name)
    z, x = random(0, K, B, L), random(1, B, *SHAPE)
    t = critic(z, x).detach()
    for k in range(K):
        for b in range(B):
            torch.testing.assert_close(critic(z[k : k + 1, b : b + 1], x[b : b + 1]).detach(), t[k : k + 1, b : b + 1])
    assert float(t.std(0).min()) > 1e-3
    assert float(t.std(1).min()) > 1e-3


@pytest.mark.parametrize("name", CRITICS)
def test_logits_are_float32_under_autocast(name):
    critic = ready(name).float()
    z, x = random(0, K, B, L).float(), random(1, B, *SHAPE).float()
    with torch.autocast("cpu", torch.bfloat16):
        t = critic(z, x)
    assert t.dtype == torch.float32
    torch.testing.assert_close(t, critic(z, x), rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MLPCritic((), L), "event_shape: expected positive sizes"),
        (lambda: MLPCritic(SHAPE, 0), "latent_dim: expected a positive integer, got 0"),
        (lambda: BilinearCritic(SHAPE, 0), "latent_dim: expected a positive integer, got 0"),
        (lambda: BilinearCritic(SHAPE, L, features=0), "features: expected a positive integer, got 0"),
        (lambda: MLPCritic(SHAPE, L, activate="rleu"), "activation: expected one of the known names, got 'rleu'"),
    ],
)
def test_wrong_arguments_of_critics(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_first_weights_of_a_basis_are_drawn_one_by_one():
    sampler = BasisSampler(H, L, basis=3)
    for layer in sampler.layers:
        assert layer.weight.shape[0] == 3
        assert not layer.weight[0].equal(layer.weight[1])
        fan_in, fan_out = layer.weight.shape[1:]
        bound = math.sqrt(6 / (fan_in + fan_out))  # glorot
        assert 0.8 * bound < float(layer.weight.detach().abs().max()) <= bound
