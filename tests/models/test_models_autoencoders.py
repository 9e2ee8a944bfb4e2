"""VAE and ConvVAE: one contract over a table of shapes, sizes, posteriors and likelihoods."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from torch import nn
from torch.distributions import Normal

import lowerbound as lb
from lowerbound.core.errors import ArgumentError, ShapeError
from lowerbound.models import VAE, ConvVAE, LatentVariableModel
from lowerbound.models.base import EncoderDecoder

B = 5
SMALL = {"VAE": {"hidden": (8, 6)}, "ConvVAE": {"width": 4, "features": 6}}
SHAPES = {
    "VAE": [(7,), (5, 3), (28, 28), (3, 7, 9), (1,)],
    "ConvVAE": [(28, 28), (3, 7, 9), (8, 8), (1, 5, 4), (2, 1, 1)],
}
LIKELIHOODS = {
    "bernoulli": {},
    "gaussian": {"scale": "per-dimension"},
    "logistic": {"scale": "shared", "levels": 17},
}
CASES = [
    (kind, shape, latent, posterior, likelihood)
    for kind in SHAPES
    for shape, latent, posterior, likelihood in itertools.chain(
        ((shape, 2, "diagonal", "bernoulli") for shape in SHAPES[kind]),
        itertools.product([SHAPES[kind][1]], [1, 11], ["diagonal", "full"], ["gaussian"]),
        itertools.product([SHAPES[kind][0]], [2], ["full"], LIKELIHOODS),
    )
]


def make(kind, shape, latent=2, posterior="diagonal", likelihood="bernoulli", **options):
    options = {
        "event_shape": shape,
        "latent_dim": latent,
        "posterior": posterior,
        "likelihood": likelihood,
        "likelihood_options": LIKELIHOODS.get(likelihood),
        **SMALL[kind],
        **options,
    }
    return {"VAE": VAE, "ConvVAE": ConvVAE}[kind](**options)


def rows(model, n=B):
    with torch.no_grad():
        return model.sample(n)["x"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes(case):
    model = make(*case)
    shape, latent = case[1], case[2]
    x = rows(model)
    q, p = model.encode(x), model.decode(torch.randn(3, B, latent))
    assert (q.batch_shape, q.event_shape) == ((B,), (latent,))
    assert (p.batch_shape, p.event_shape) == ((3, B), shape)
    assert model.decode(torch.randn(latent)).event_shape == shape
    assert model.reconstruct(x).shape == x.shape == (B, *shape)
    assert model.prior().sample((3,)).shape == (3, latent)
    trace = model.sample(3)
    assert {name: tuple(value.shape) for name, value in trace.items()} == {
        "z": (3, latent),
        "x_mean": (3, *shape),
        "x": (3, *shape),
    }
    assert (model.event_shape, model.latent_dim) == (shape, latent)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_log_joint_is_prior_plus_decoder(case):
    model = make(*case)
    x, z = rows(model), torch.randn(3, B, case[2])
    trace = model.generator.bind(B).run({"x": x, "z": z}, particles=3, batch=(B,))
    assert bool(trace.log_joint().isfinite().all())
    wanted = Normal(0, 1).log_prob(z).sum(-1) + model.decode(z).log_prob(x)
    torch.testing.assert_close(trace.log_joint(), wanted)
    torch.testing.assert_close(model.prior().log_prob(z), trace.log_prob("z"))
    posterior = model.posterior.bind(x).run({"z": z}, particles=3, batch=(B,))
    torch.testing.assert_close(posterior.log_joint(), model.encode(x).log_prob(z))


OBJECTIVES = {
    "elbo": lambda m: lb.objectives.ELBO(m, particles=3),
    "stl": lambda m: lb.objectives.ELBO(m, particles=3, gradient="stl"),
    "dreg": lambda m: lb.objectives.IWAE(m, particles=3, gradient="dreg"),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_reaches_every_parameter(case, objective):
    model = make(*case, activation="elu")  # an ELU is nowhere flat, so no unit is dead by chance
    x = rows(model)
    OBJECTIVES[objective](model)(x).cost.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_description_rebuilds_the_model(case):
    model = make(*case, init="he", activation="tanh")
    description = json.loads(json.dumps(model.describe()))
    assert description["class"] == type(model).__name__ == case[0]
    twin = {"VAE": VAE, "ConvVAE": ConvVAE}[description["class"]](**description["arguments"])
    assert twin.describe() == model.describe()
    model.standardize(torch.tensor(0.2), torch.tensor(1.7))
    twin.load_state_dict(model.state_dict())
    x, z = rows(model), torch.randn(3, case[2])
    assert twin.encode(x).mean.equal(model.encode(x).mean)
    assert twin.encode(x).variance.equal(model.encode(x).variance)
    assert twin.decode(z).mean.equal(model.decode(z).mean)
    assert twin.decode(z).log_prob(x[:3]).equal(model.decode(z).log_prob(x[:3]))


@pytest.mark.parametrize("kind", SMALL)
def test_rows_are_independent_of_each_other(kind):
    model, shape = make(kind, (9, 7)).double(), (9, 7)
    x, z = (torch.rand(B, *shape) > 0.5).double(), torch.randn(3, B, 2).double()
    for i in range(B):
        torch.testing.assert_close(model.encode(x).mean[i], model.encode(x[i : i + 1]).mean[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(model.decode(z).mean[1, i], model.decode(z[1, i]).mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", SMALL)
def test_every_value_of_a_row_counts(kind):
    """Odd sizes are halved, doubled and cut: no pixel may be lost on either way."""
    model = make(kind, (3, 7, 9), activation="elu").double()
    x = torch.rand(1, 3, 7, 9, dtype=torch.float64, requires_grad=True)
    (seen,) = torch.autograd.grad(model.encode(x).mean.sum(), x)
    assert float(seen.abs().min()) > 0
    z = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    drawn = torch.autograd.functional.jacobian(lambda z: model.decode(z).mean, z)
    assert float(drawn.abs().amax((-1, -2)).min()) > 0


@pytest.mark.parametrize("kind", SMALL)
def test_half_precision_networks_have_float32_distributions(kind):
    model = make(kind, (8, 8))
    x = rows(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bound = lb.objectives.ELBO(model, analytic_kl=False).bound(x)
        assert bound.value.dtype == torch.float32


# --- The networks -----------------------------------------------------------------------------------------------------


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_conv_vae_is_the_network_of_the_source():
    """28 x 28 and two latents: the sizes of its layers, counted by hand."""
    model = ConvVAE(event_shape=(28, 28), latent_dim=2)
    encoder = [
        1 * 32 * 9 + 32,  # 3 x 3, 28 x 28
        32 * 64 * 9 + 64,  # stride 2, to 14 x 14
        64 * 64 * 9 + 64,
        64 * 64 * 9 + 64,
        14 * 14 * 64 * 32 + 32,  # dense
        32 * 2 + 2,  # mean
        32 * 2 + 2,  # log-variance
    ]
    decoder = [
        2 * 14 * 14 * 64 + 14 * 14 * 64,  # dense
        64 * 32 * 9 + 32,  # transposed, stride 2, to 28 x 28
        32 * 1 * 9 + 1,
    ]
    assert count(model.posterior) == sum(encoder) == 494_244
    assert count(model.generator) == sum(decoder) == 56_385


def test_vae_is_the_network_of_the_source():
    """784-500-500-40 and back, as in the tutorial of ZhuSuan."""
    model = VAE(event_shape=(28, 28), latent_dim=40)
    assert count(model.posterior) == 784 * 500 + 500 + 500 * 500 + 500 + 2 * (500 * 40 + 40)
    assert count(model.generator) == 40 * 500 + 500 + 500 * 500 + 500 + 500 * 784 + 784


def test_decoder_has_the_hidden_layers_in_reverse():
    model = VAE(event_shape=(7,), latent_dim=2, hidden=(6, 4))
    sizes = [(layer.in_features, layer.out_features) for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert sorted(sizes) == sorted([(7, 6), (6, 4), (4, 2), (4, 2), (2, 4), (4, 6), (6, 7)])


# --- Standardising ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SMALL)
def test_standardized_encoder_sees_rows_in_units_of_the_data(kind):
    shape = (9, 7)
    model = make(kind, shape, likelihood="gaussian").double()
    u = torch.randn(B, *shape).double()
    before = model.encode(u).mean
    center, spread = torch.randn(shape).double(), torch.rand(shape).double() + 0.5
    model.standardize(center, spread)
    torch.testing.assert_close(model.encode(center + spread * u).mean, before, rtol=0, atol=1e-10)


def test_spread_is_positive():
    model = make("VAE", (7,))
    with pytest.raises(
        ArgumentError, match=r"spread: expected positive values, got 0\.0\. Put 1 where a value never varies"
    ):
        model.standardize(torch.zeros(7), torch.zeros(7))


# --- Wrong shapes and names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(28, 28), (B, 784), (B, 1, 28, 28), (B, 28, 27), (B, 1, 28), (784,), ()], ids=str)
@pytest.mark.parametrize("kind", SMALL)
def test_rows_of_another_shape_are_refused_everywhere(kind, shape):
    model, x = make(kind, (28, 28)), torch.zeros(shape)
    message = r"x: expected shape \(B, 28, 28\), got .*The first axis counts rows; reshape each row to the event shape"
    uses = [model.encode, model.reconstruct]
    if x.dim():
        uses += [lb.objectives.ELBO(model).validate, lb.objectives.ELBO(model), lb.objectives.IWAE(model)]
    for use in uses:
        with pytest.raises(ShapeError, match=message):
            use(x)


@pytest.mark.parametrize("shape", [(3,), (B, 3), ()], ids=str)
def test_latents_of_another_size_are_refused(shape):
    with pytest.raises(ShapeError, match=r"z: expected shape \(\.\.\., 2\), got .*The last axis is the latent vector"):
        make("VAE", (7,)).decode(torch.zeros(shape))


WRONG = [
    ({"latent_dim": 0}, ArgumentError, r"latent_dim: expected a positive integer, got 0\. Pass latent_dim=1 or more"),
    ({"latent_dim": 2.0}, ArgumentError, r"latent_dim: expected a positive integer, got 2\.0"),
    ({"event_shape": ()}, ArgumentError, r"event_shape: expected positive sizes, got \(\)"),
    ({"event_shape": (28, 0)}, ArgumentError, r"event_shape: expected positive sizes, got \(28, 0\)"),
    ({"posterior": "diag"}, ArgumentError, r"posterior: .*got 'diag'\. Did you mean 'diagonal'"),
    (
        {"posterior": "planar", "posterior_options": {"bins": 4}},
        ArgumentError,
        r"posterior option: expected an option of planar \(covariance, context, transforms\), got 'bins'\. Leave it",
    ),
    ({"prior": "vampire"}, ArgumentError, r"prior: .*got 'vampire'\. Did you mean 'vamp'"),
    (
        {"prior_options": {"components": 4}},
        ArgumentError,
        r"prior option: expected an option of standard \(it has none\), got 'components'",
    ),
    ({"posterior": "iaf", "posterior_options": {"transforms": 0}}, ArgumentError, r"transforms: .*got 0"),
    ({"likelihood": "bernouli"}, ArgumentError, r"likelihood: .*Did you mean 'bernoulli'"),
    (
        {"likelihood_options": {"scale": 1.0}},
        ArgumentError,
        r"likelihood option: expected an option of bernoulli \(it has none\)",
    ),
    ({"activation": "swish"}, ArgumentError, r"activation: .*got 'swish'"),
    ({"init": "orthogonal"}, ArgumentError, r"init: .*got 'orthogonal'"),
]


@pytest.mark.parametrize("options, error, message", WRONG)
@pytest.mark.parametrize("kind", SMALL)
def test_options_are_checked(kind, options, error, message):
    with pytest.raises(error, match=message):
        make(kind, **{"shape": (8, 8), **{"shape" if k == "event_shape" else k: v for k, v in options.items()}})


def test_options_of_one_kind():
    with pytest.raises(ArgumentError, match=r"hidden: expected a positive integer, got 0"):
        make("VAE", (7,), hidden=(3, 0))
    with pytest.raises(ArgumentError, match=r"width: expected a positive integer, got 0"):
        make("ConvVAE", (8, 8), width=0)
    with pytest.raises(ArgumentError, match=r"features: expected a positive integer, got -2"):
        make("ConvVAE", (8, 8), features=-2)
    for shape in ((64,), (1, 3, 8, 8)):
        with pytest.raises(ShapeError, match=r"event_shape: expected \(height, width\) or .*Take the model VAE"):
            make("ConvVAE", shape)


@pytest.mark.parametrize("n", [0, -1, 2.0])
def test_samples_are_counted_from_one(n):
    with pytest.raises(ArgumentError, match="n: expected a positive integer"):
        make("VAE", (7,)).sample(n)


# --- Pairs of one's own -----------------------------------------------------------------------------------------------


class P(lb.BayesianNet):
    def forward(self, bn, n):
        z = bn.sample("z", Normal(torch.zeros(n, 2), 1.0), event_dims=1)
        bn.sample("x", Normal(z, 1.0), event_dims=1)


class Q(lb.BayesianNet):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)

    def forward(self, bn, x):
        bn.sample("z", Normal(self.net(x), 1.0), event_dims=1)


def test_a_pair_of_programs_is_a_model():
    model = LatentVariableModel(P(), Q())
    assert model.describe() == {"class": "LatentVariableModel", "generator": "P"}
    assert model.sample(3)["x"].shape == (3, 2)
    outcome = lb.objectives.IWAE(model, particles=2)(torch.zeros(B, 2))
    outcome.cost.backward()
    assert float(model.posterior.net.weight.grad.abs().max()) == 0.0  # its input is zero
    assert float(model.posterior.net.bias.grad.abs().max()) > 0.0


def test_a_pair_must_be_programs():
    for pair, name in (((nn.Linear(1, 1), Q()), "generator"), ((P(), nn.Linear(1, 1)), "posterior")):
        with pytest.raises(ArgumentError, match=rf"{name}: expected a BayesianNet, got Linear\. Derive the class"):
            LatentVariableModel(*pair)


def test_any_encoder_and_decoder_make_a_model():
    from lowerbound.nn import GaussianHead, GaussianLikelihood

    model = EncoderDecoder(
        event_shape=(7,),
        latent_dim=2,
        encoder=GaussianHead(7, 2),
        decoder=nn.Linear(2, 7),
        likelihood=GaussianLikelihood((7,)),
    )
    assert model.reconstruct(torch.zeros(B, 7)).shape == (B, 7)
    assert lb.objectives.ELBO(model).bound(torch.zeros(B, 7)).value.shape == (B,)
    with pytest.raises(ArgumentError, match="latent_dim: expected a positive integer"):
        EncoderDecoder(
            event_shape=(7,),
            latent_dim=0,
            encoder=GaussianHead(7, 2),
            decoder=nn.Linear(2, 7),
            likelihood=GaussianLikelihood((7,)),
        )


def test_encoder_of_counts_sees_their_logarithms() -> None:
    model = lb.models.VAE(event_shape=(3,), latent_dim=2, hidden=(), likelihood="poisson")
    seen = []
    model.posterior.encoder.features.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    center, x = torch.tensor([0.5, 4.0, 100.0]), torch.tensor([[0.0, 7.0, 1e5]])
    model.standardize(center, torch.ones(()))
    model.encode(x)
    torch.testing.assert_close(seen[0], x.log1p() - center.log1p())
    torch.testing.assert_close(model.decode(torch.zeros(1, 2)).mean, center[None], rtol=1e-5, atol=0)  # biases are zero


@pytest.mark.parametrize("likelihood", ["zero-inflated-poisson", "logistic-mixture"])
@pytest.mark.parametrize(
    "make",
    [
        lambda **a: lb.models.VAE(hidden=(5,), **a),
        lambda **a: lb.models.ConvVAE(width=2, features=3, **a),
        lambda **a: lb.models.ImplicitVAE(hidden=(5,), critic_hidden=(5,), **a),
        lambda **a: lb.models.ImplicitVAE(hidden=(5,), critic_hidden=(5,), network="conv", width=2, **a),
        lambda **a: lb.models.HierarchicalVAE(hidden=(5,), above=(2,), between=(3,), **a),
    ],
    ids=["dense", "conv", "implicit", "implicit conv", "hierarchical"],
)
def test_decoders_give_the_likelihood_as_many_outputs_as_it_takes(make, likelihood) -> None:
    for shape in ((3, 5), (2, 3, 5)):
        model = make(event_shape=shape, latent_dim=2, likelihood=likelihood)
        x = model.sample(7)["x"]
        assert x.shape == (7, *shape)
        p = model.decode(torch.zeros(4, 7, 2))
        assert (p.batch_shape, p.event_shape) == ((4, 7), shape)
        assert p.log_prob(x).shape == (4, 7)
