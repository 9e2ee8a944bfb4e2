"""Heads and likelihoods: from a network's output to a distribution, in units of x and in nats."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from exact import random
from lowerbound.core.errors import ArgumentError, ShapeError
from lowerbound.distributions import DiscretizedLogistic, NegativeBinomial, ZeroInflated
from lowerbound.nn import (
    BernoulliLikelihood,
    GaussianHead,
    GaussianLikelihood,
    Likelihood,
    LogisticLikelihood,
    make_likelihood,
)

K, B, D = 3, 5, 7

# --- GaussianHead -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [1, 2, 11])
@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_head_is_its_formula(features, covariance):
    head = GaussianHead(D, features, covariance=covariance).double()
    h = random(0, K, B, D)
    q = head(h)
    assert (q.batch_shape, q.event_shape) == ((K, B), (features,))
    torch.testing.assert_close(q.mean, head.loc(h), rtol=0, atol=1e-12)
    scale = torch.diag_embed((0.5 * head.log_variance(h)).exp())
    if covariance == "full" and features > 1:
        below = torch.zeros(K, B, features, features, dtype=torch.float64)
        rows, columns = zip(*[(i, j) for i in range(features) for j in range(i)], strict=True)
        below[..., rows, columns] = head.below(h)
        scale = scale + below
        assert float(below.detach().abs().max()) > 0.1
    z = random(1, K, B, features)
    wanted = MultivariateNormal(head.loc(h), scale_tril=scale).log_prob(z)
    torch.testing.assert_close(q.log_prob(z), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_full_covariance_is_positive_definite(size):
    head = GaussianHead(D, 4, covariance="full").double()
    q = head(size * random(0, 50, D))
    assert bool(
        (torch.linalg.eigvalsh(q.covariance_matrix / q.covariance_matrix.abs().amax((-1, -2), True)) > -1e-12).all()
    )
    assert bool((q.scale_tril.diagonal(dim1=-2, dim2=-1) >= math.exp(-9)).all())
    assert bool(q.log_prob(q.sample()).isfinite().all())


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("size", [-1e6, 1e6])
def test_scale_of_a_head_is_clamped_so_that_all_stays_finite(size, covariance):
    head = GaussianHead(1, 2, covariance=covariance)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.log_variance.bias.fill_(size)
    q = head(torch.zeros(B, 1))
    edge = math.exp(math.copysign(9.0, size))
    torch.testing.assert_close(q.stddev, torch.full((B, 2), edge), rtol=1e-5, atol=0)
    z = q.rsample()
    q.log_prob(z).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in head.parameters() if p.grad is not None)


def test_clamp_does_not_bind_in_between():
    head = GaussianHead(1, 1)
    with torch.no_grad():
        head.log_variance.weight.fill_(1.0)
    log_variance = torch.linspace(-17, 17, 9)[:, None]
    torch.testing.assert_close(head(log_variance).stddev.log(), 0.5 * log_variance, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_head_widens_half_precision(covariance):
    head = GaussianHead(D, 2, covariance=covariance).bfloat16()
    q = head(torch.zeros(B, D, dtype=torch.bfloat16))
    assert q.log_prob(q.rsample()).dtype == q.mean.dtype == torch.float32


def test_head_refuses_unknown_options():
    with pytest.raises(ArgumentError, match=r"covariance: .*got 'ful'\. Did you mean 'full'\? Known: diagonal, full"):
        GaussianHead(1, 2, covariance="ful")
    with pytest.raises(ArgumentError, match=r"features: expected a positive integer, got 0"):
        GaussianHead(1, 0)
    with pytest.raises(ArgumentError, match=r"init: "):
        GaussianHead(1, 2, init="xavier")


# --- Likelihoods ------------------------------------------------------------------------------------------------------

ALL = {
    "bernoulli": {},
    "gaussian": {"scale": "per-dimension"},
    "logistic": {"levels": 17},
    "logistic-mixture": {"levels": 17, "components": 3},
    "negative-binomial": {},
    "poisson": {},
    "zero-inflated-negative-binomial": {},
    "zero-inflated-poisson": {},
}
COUNTS = [name for name in ALL if name.endswith(("poisson", "binomial"))]


def outputs(likelihood: Likelihood, *leading: int, dtype=torch.float32) -> torch.Tensor:
    """Return random outputs of a decoder in the shape that a likelihood takes."""
    several = () if likelihood.outputs == 1 else (likelihood.outputs,)
    return torch.randn(*leading, *several, *likelihood.event_shape, dtype=dtype)


@pytest.mark.parametrize("shape", [(D,), (2, 3), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_events_and_leading_axes(name, shape):
    likelihood = make_likelihood(name, shape, **ALL[name])
    p = likelihood(outputs(likelihood, K, B))
    assert (p.batch_shape, p.event_shape) == ((K, B), shape)
    assert p.mean.shape == (K, B, *shape)
    x = p.sample()
    assert p.log_prob(x).shape == (K, B)
    output = outputs(likelihood, K, B)
    wanted = likelihood.values(output).log_prob(x).flatten(2).sum(-1)
    torch.testing.assert_close(likelihood(output).log_prob(x), wanted)
    assert p.log_prob(x[0]).shape == (K, B)


@pytest.mark.parametrize("name", ALL)
def test_densities_are_float32_whatever_the_network_puts_out(name):
    likelihood = make_likelihood(name, (D,), **ALL[name])
    p = likelihood(outputs(likelihood, B, dtype=torch.bfloat16))
    assert p.log_prob(torch.ones(B, D)).dtype == torch.float32


def test_bernoulli_is_exact_far_out():
    logits = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0], requires_grad=True)
    p = BernoulliLikelihood((5,))(logits)
    zeros, ones = p.log_prob(torch.zeros(5)), p.log_prob(torch.ones(5))
    assert zeros.item() == pytest.approx(-(200 + 30 + math.log(2)), rel=1e-6)
    assert ones.item() == pytest.approx(-(200 + 30 + math.log(2)), rel=1e-6)
    (grad,) = torch.autograd.grad(ones, logits)
    torch.testing.assert_close(grad, 1 - logits.detach().sigmoid())


def gaussian(scale) -> GaussianLikelihood:
    return GaussianLikelihood((D,), scale=scale).double()


@pytest.mark.parametrize("scale", [0.3, 2, "shared", "per-dimension"])
def test_gaussian_is_its_formula(scale):
    likelihood = gaussian(scale)
    if isinstance(scale, str):
        with torch.no_grad():
            likelihood.log_scale.copy_(random(0, *likelihood.log_scale.shape))
    else:
        torch.testing.assert_close(likelihood.log_scale.exp().item(), float(scale), rtol=1e-6, atol=0)
    output, x = random(1, K, B, D), random(2, B, D)
    wanted = Normal(output, likelihood.log_scale.exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(likelihood(output).log_prob(x), wanted)


@pytest.mark.parametrize("name", ["gaussian", "logistic"])
@pytest.mark.parametrize("scale, size", [(0.3, None), ("shared", ()), ("per-dimension", (D,))])
def test_learned_scales_get_gradients_and_fixed_ones_do_not(name, scale, size):
    likelihood = make_likelihood(name, (D,), scale=scale)
    parameters = dict(likelihood.named_parameters())
    assert likelihood.learned == (size is not None)
    if size is None:
        assert parameters == {}
        assert "log_scale" in likelihood.state_dict()
        return
    assert parameters["log_scale"].shape == size
    start = {"gaussian": 1.0, "logistic": 0.1}[name]
    assert parameters["log_scale"].exp().mean().item() == pytest.approx(start)
    x = torch.linspace(0, 1, D).expand(B, D)
    (grad,) = torch.autograd.grad(
        likelihood(torch.full((B, D), 0.4)).log_prob(x.round()).sum(), parameters["log_scale"]
    )
    assert float(grad.abs().min()) > 1e-3


@pytest.mark.parametrize("scale", ["shared", "per-dimension"])
def test_standardizing_a_gaussian_is_a_change_of_variables(scale):
    """log p(x) = log p(u) - sum log spread, for u = (x - center) / spread: the density stays one of x."""
    center, spread = random(0, D), random(1, D).exp()
    before, after = gaussian(scale), gaussian(scale)
    after.standardize(center, spread)
    with torch.no_grad():
        for likelihood in (before, after):
            likelihood.log_scale.fill_(-0.4)
    output, u = random(2, B, D), random(3, B, D)
    x = center + spread * u
    found = after(output).log_prob(x)
    torch.testing.assert_close(found, before(output).log_prob(u) - spread.log().sum(), rtol=0, atol=1e-10)
    torch.testing.assert_close(after(output).mean, center + spread * before(output).mean, rtol=0, atol=1e-12)


def test_standardizing_leaves_a_fixed_scale_in_units_of_x():
    likelihood = gaussian(0.5)
    likelihood.standardize(torch.tensor(3.0).double(), torch.tensor(10.0).double())
    p = likelihood(random(0, B, D))
    torch.testing.assert_close(p.stddev, torch.full((B, D), 0.5, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(p.mean, 3 + 10 * random(0, B, D))


@pytest.mark.parametrize("name", ["bernoulli", "logistic"])
def test_standardizing_leaves_bounded_values_alone(name):
    likelihood = make_likelihood(name, (D,))
    output, x = torch.randn(B, D), torch.ones(B, D)
    before = likelihood(output).log_prob(x)
    likelihood.standardize(torch.tensor(0.3), torch.tensor(0.1))
    assert likelihood(output).log_prob(x).equal(before)


def test_standardized_units_are_saved():
    likelihood = gaussian("shared")
    likelihood.standardize(random(0, D), random(1, D).exp())
    other = gaussian("shared")
    other.load_state_dict(likelihood.state_dict())
    x = random(2, B, D)
    assert other(x).log_prob(x).equal(likelihood(x).log_prob(x))


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_logistic_has_its_levels(levels):
    likelihood = LogisticLikelihood((1,), levels=levels, scale=0.2).double()
    grid = (torch.arange(levels, dtype=torch.float64) / (levels - 1))[:, None]
    p = likelihood(torch.full((1,), 0.7, dtype=torch.float64))
    log_prob = p.log_prob(grid)
    assert float(log_prob.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    # The first point takes all below its upper edge, by a logistic around sigmoid(0.7).
    edge = (0.5 / (levels - 1) - 1 / (1 + math.exp(-0.7))) / float(likelihood.log_scale.exp())
    assert float(log_prob[0].exp()) == pytest.approx(1 / (1 + math.exp(-edge)), rel=1e-10)
    assert set((p.sample((200,)) * (levels - 1)).round().flatten().tolist()) <= set(map(float, range(levels)))


@pytest.mark.parametrize("name", COUNTS)
def test_counts_start_from_the_mean_of_the_data(name):
    likelihood, center = make_likelihood(name, (D,)), torch.tensor([0.0, 1e-3, 0.5, 1.0, 3.0, 200.0, 1e5])
    likelihood.standardize(center, torch.ones(D))
    p = likelihood(0 * outputs(likelihood, B))
    share = 0.9 if "zero" in name else 1.0
    torch.testing.assert_close(p.mean, share * center.clamp(min=1e-4).expand(B, D), rtol=1e-5, atol=0)
    other = make_likelihood(name, (D,))
    other.load_state_dict(likelihood.state_dict())
    x = p.sample()
    assert other(0 * outputs(likelihood, B)).log_prob(x).equal(p.log_prob(x))


@pytest.mark.parametrize("name", COUNTS)
def test_encoders_see_the_logarithms_of_counts(name):
    likelihood = make_likelihood(name, (3,))
    assert likelihood.counts
    torch.testing.assert_close(
        likelihood.see(torch.tensor([0.0, 1.0, 1e6])), torch.tensor([0.0, 0.6931472, 13.8155116])
    )
    assert bool(likelihood.see(torch.tensor([-5.0])).isfinite().all())


@pytest.mark.parametrize("name", [*COUNTS, "logistic-mixture"])
@pytest.mark.parametrize("size", [-1e6, 0.0, 1e6])
def test_outputs_of_any_size_give_finite_values_and_gradients(name, size):
    likelihood = make_likelihood(name, (D,))
    output = (0 * outputs(likelihood, B) + size).requires_grad_()
    p = likelihood(output)
    for x in (torch.zeros(D), torch.ones(D), p.sample()):
        log_prob = p.log_prob(x)
        (gradient,) = torch.autograd.grad(log_prob.sum(), output, retain_graph=True)
        assert bool(log_prob.isfinite().all())
        assert bool(gradient.isfinite().all())


def test_every_output_of_a_mixture_has_its_meaning():
    """Against the sum written out for one value: weights, locations and scales, in this order."""
    likelihood = make_likelihood("logistic-mixture", (2,), components=3, levels=17).double()
    output, x = random(0, 9, 2), torch.tensor([5 / 16, 1.0], dtype=torch.float64)
    start = torch.logit(torch.tensor([1 / 6, 3 / 6, 5 / 6], dtype=torch.float64))
    total = torch.zeros((), dtype=torch.float64)
    for d in range(2):
        logits, loc, log_scale = output[:, d].unflatten(0, (3, 3))
        logistics = DiscretizedLogistic((loc + start).sigmoid(), 0.1 * log_scale.exp(), 17)
        total = total + (logits.log_softmax(0) + logistics.log_prob(x[d])).logsumexp(0)
    assert float(likelihood(output).log_prob(x)) == pytest.approx(float(total), rel=1e-7)  # its start is float32's


def test_gradients_lead_to_the_parameters_that_drew_the_counts():
    """20,000 draws: the errors of log m, log r and the share of zeros are about 0.01, 0.05 and 0.01."""
    torch.manual_seed(0)
    likelihood = make_likelihood("zero-inflated-negative-binomial", (1,)).double()
    truth = ZeroInflated(NegativeBinomial(torch.tensor(6.0).double(), 2.5), torch.tensor(-1.0).double())
    x = truth.sample((20_000, 1))
    output = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([output, *likelihood.parameters()], max_iter=100, line_search_fn="strong_wolfe")

    def cost():
        search.zero_grad()
        value = -likelihood(output).log_prob(x).mean()
        value.backward()
        return value

    search.step(cost)
    reached = -cost().item()
    with torch.no_grad():
        found = likelihood.values(output)
    assert float(found.base.mean) == pytest.approx(6.0, rel=0.05)
    assert float(found.base.concentration) == pytest.approx(2.5, rel=0.25)
    assert float(found.logits.sigmoid()) == pytest.approx(1 / (1 + math.e), abs=0.05)
    assert reached >= float(truth.log_prob(x).mean())


@pytest.mark.parametrize("name", ["zero-inflated-poisson", "logistic-mixture"])
def test_a_decoder_with_too_few_outputs_is_refused(name):
    likelihood = make_likelihood(name, (D,))
    with pytest.raises(
        ShapeError, match=rf"output of the decoder: expected shape \(\.\.\., {likelihood.outputs}, 7\), got"
    ):
        likelihood(torch.zeros(B, D))


WRONG = [
    ("logistic-mixture", {"components": 0}, r"components: expected a positive integer, got 0"),
    ("logistic-mixture", {"levels": 1}, r"levels: expected an integer of 2 or more, got 1"),
    ("poisson", {"scale": 1.0}, r"option of poisson \(it has none\), got 'scale'"),
    ("bernouli", {}, r"likelihood: .*got 'bernouli'\. Did you mean 'bernoulli'\? Known: bernoulli, gaussian, logistic"),
    ("bernoulli", {"scale": 1.0}, r"option of bernoulli \(it has none\), got 'scale'"),
    ("gaussian", {"levels": 3}, r"option of gaussian \(scale\), got 'levels'"),
    ("logistic", {"sclae": 1.0}, r"option of logistic \(scale, levels\), got 'sclae'"),
    ("gaussian", {"scale": 0.0}, r"scale: expected a finite number above 0, got 0\.0"),
    ("gaussian", {"scale": -1.0}, r"scale: expected a finite number above 0, got -1\.0"),
    ("gaussian", {"scale": math.inf}, r"scale: expected a finite number"),
    ("gaussian", {"scale": math.nan}, r"scale: expected a finite number"),
    ("gaussian", {"scale": "learned"}, r"scale: .*got 'learned'\. .*Known: per-dimension, shared"),
    ("logistic", {"levels": 1}, r"levels: expected an integer of 2 or more, got 1\. 8-bit images have 256"),
    ("logistic", {"levels": 2.5}, r"levels: expected an integer of 2 or more, got 2\.5"),
    ("logistic", {"levels": True}, r"levels: expected an integer of 2 or more, got True"),
]


@pytest.mark.parametrize("name, options, message", WRONG)
def test_unknown_options_are_refused(name, options, message):
    with pytest.raises(ArgumentError, match=message):
        make_likelihood(name, (D,), **options)


@pytest.mark.parametrize("shape", [(), (0,), (2, -1), (2.0,), (True,)], ids=str)
def test_event_shapes_are_positive(shape):
    with pytest.raises(ArgumentError, match=r"event_shape: expected positive sizes, got .*Pass the shape of one row"):
        BernoulliLikelihood(shape)


def test_a_likelihood_of_ones_own():
    class Unit(Likelihood):
        def values(self, output):
            return Normal(output, 1.0)

    p = Unit((D,))(torch.zeros(B, D))
    assert isinstance(p, Independent)
    assert p.event_shape == (D,)
    with pytest.raises(NotImplementedError):
        Likelihood((D,))(torch.zeros(B, D))
