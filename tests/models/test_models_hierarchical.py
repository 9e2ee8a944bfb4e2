"""HierarchicalVAE: belief nets by enumeration, a linear-Gaussian chain, and one contract over a table of shapes."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal

import lowerbound as lb
import tiny
from exact import random
from lowerbound import runs
from lowerbound.core.errors import ArgumentError, ShapeError
from lowerbound.evaluation.latents import has_standard_prior
from lowerbound.models import HierarchicalVAE
from lowerbound.nn import BernoulliHead
from tiny import Steps, difference

B, K = 5, 3
SMALL = {"event_shape": (7,), "latent_dim": 2, "above": (3,), "hidden": (8,), "between": (6,)}
CASES = {
    "gaussian": {},
    "one gaussian layer": {"above": ()},
    "three gaussian layers": {"above": (3, 4)},
    "gaussian, no hidden layers": {"hidden": (), "between": ()},
    "binary": {"latent": "bernoulli"},
    "one binary layer": {"latent": "bernoulli", "above": ()},
    "belief net": {"latent": "bernoulli", "above": (3, 4), "hidden": (), "between": ()},
    "images": {"event_shape": (5, 3), "latent": "bernoulli"},
    "gaussian data": {"likelihood": "gaussian", "likelihood_options": {"scale": "per-dimension"}},
    "grey data": {"likelihood": "logistic", "likelihood_options": {"levels": 256}, "latent": "bernoulli"},
}
TABLE = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def make(**options) -> HierarchicalVAE:
    """Return a small model whose every parameter matters."""
    model = HierarchicalVAE(**{**SMALL, **options})
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, BernoulliHead):
                layer.logits.weight.mul_(10)  # it starts near fair coins, where tests see little
        for i, parameter in enumerate(model.parameters()):
            if not parameter.any():
                parameter.copy_(0.3 * random(i, *parameter.shape))
    return model


def sizes(options) -> dict[str, int]:
    """Return the size of every layer of latents by its name."""
    above = options.get("above", SMALL["above"])
    return {f"z{layer}": size for layer, size in enumerate((SMALL["latent_dim"], *above), 1)}


def objective(model, particles: int = K):
    binary = model.describe()["arguments"]["latent"] == "bernoulli"
    return lb.objectives.IWAE(model, particles=particles, gradient="vimco" if binary else "dreg")


# --- Truth ------------------------------------------------------------------------------------------------------------


def states(size: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=size)), dtype=torch.float64)


@torch.no_grad()
def chain_evidence(model, x: torch.Tensor) -> torch.Tensor:
    """Return log p(x) of a binary model without the library: forward, as for a hidden Markov chain, layer by layer."""
    generator = model.generator
    above = states(len(generator.prior.logits))
    log_p = Bernoulli(logits=generator.prior.logits).log_prob(above).sum(-1)
    for link in reversed(generator.links):
        body, head = link
        z = states(head.logits.out_features)
        logits = head.logits(body(above))
        log_p = (log_p[:, None] + Bernoulli(logits=logits[:, None]).log_prob(z).sum(-1)).logsumexp(0)
        above = z
    logits = generator.decoder.body(above)
    return (log_p[:, None] + Bernoulli(logits=logits[:, None]).log_prob(x).sum(-1)).logsumexp(0)


BINARY = pytest.mark.parametrize("name", ["binary", "one binary layer", "belief net"])


@BINARY
@torch.no_grad()
def test_evidence_of_a_belief_net_is_the_sum_over_all_states(name: str) -> None:
    """The joint of the library, over all states of all layers at once, against the recursion; and sum_x p(x) = 1."""
    model = make(**CASES[name]).double()
    x = states(7)
    dims = sizes(CASES[name])
    joint = states(sum(dims.values()))
    parts = dict(zip(dims, joint.split(list(dims.values()), -1), strict=True))
    values = {layer: part[:, None].expand(-1, len(x), -1) for layer, part in parts.items()}
    trace = model.generator.bind(len(x)).run({**values, "x": x}, particles=len(joint))
    log_p = trace.log_joint().logsumexp(0)
    torch.testing.assert_close(log_p, chain_evidence(model, x), rtol=0, atol=1e-10)
    torch.testing.assert_close(log_p.logsumexp(0), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-10)
    posterior = model.posterior.bind(x).run(values, particles=len(joint))
    torch.testing.assert_close(posterior.log_joint().logsumexp(0), torch.zeros(len(x)).double(), rtol=0, atol=1e-10)
    # E_q log w, exactly, is the ELBO: below the evidence by KL(q || p(z|x)), which is not zero here
    gap = log_p - (posterior.log_joint().exp() * (trace.log_joint() - posterior.log_joint())).sum(0)
    assert float(gap.min()) > 1e-3


@BINARY
def test_bounds_of_a_belief_net_rise_to_the_evidence(name: str) -> None:
    """20,000 draws a row bring iwae-20000 to the evidence; the mean of 400 iwae-5 lies below it. False alarms: each
    row's deviation is bounded by 6 standard errors, 1e-8 in all."""
    model = make(**CASES[name]).double()
    x = (random(1, B, 7) > 0).double()
    exact = chain_evidence(model, x)
    with torch.no_grad():
        weights = lb.iw_objective(model.generator.bind(B), {"x": x}, model.posterior.bind(x), particles=20_000)
        log_w = weights.log_weights
    relative = (log_w - exact).exp()
    error = relative.std(0) / len(relative) ** 0.5
    assert bool(((relative.mean(0) - 1).abs() < 6 * error).all())
    assert float(error.max()) < 0.05
    groups = log_w.reshape(-1, 5, B)
    means = [log_w.mean(0), (groups.logsumexp(1) - torch.tensor(5.0).log()).mean(0), exact]
    assert bool((means[0] < means[1]).all())
    assert bool((means[1] < means[2]).all())


def test_linear_gaussian_chain() -> None:
    """z2 ~ N(0, I), z1 = A z2 + a + noise, x = W z1 + b + noise: the weights' mean is the closed-form evidence, and at
    the exact posterior every log-weight is it."""
    model = make(hidden=(), between=(), likelihood="gaussian", likelihood_options={"scale": 0.7}).double()
    head, output = model.generator.links[0][1], model.generator.decoder.body[-1]
    with torch.no_grad():
        head.log_variance.weight.zero_()
    A, a, s = head.loc.weight, head.loc.bias, (0.5 * head.log_variance.bias).exp()
    W, b = output.weight, output.bias
    cov1 = A @ A.T + torch.diag(s**2)
    covx = W @ cov1 @ W.T + torch.eye(7).double() * model.generator.likelihood.log_scale.exp() ** 2
    x = random(3, B, 7)
    exact = MultivariateNormal(W @ a + b, covx).log_prob(x).detach()
    cross = cov1 @ W.T
    gain = torch.linalg.solve(covx, cross.T).T
    posterior1 = MultivariateNormal(a + (x - W @ a - b) @ gain.T, cov1 - gain @ cross.T)
    gain2 = torch.linalg.solve(cov1, A).T
    covariance2 = torch.eye(3, dtype=torch.float64) - gain2 @ A

    class Exact(lb.BayesianNet):
        def forward(self, bn, x):
            z1 = bn.sample("z1", posterior1)
            bn.sample("z2", MultivariateNormal((z1 - a) @ gain2.T, covariance2))

    with torch.no_grad():
        bound = lb.iw_objective(model.generator.bind(B), {"x": x}, Exact().bind(x), particles=K)
        torch.testing.assert_close(bound.log_weights, exact.expand(K, B), rtol=0, atol=1e-9)
        own = lb.iw_objective(model.generator.bind(B), {"x": x}, model.posterior.bind(x), particles=K)
        assert float((own.log_weights - exact).abs().min()) > 1e-3  # the control: another posterior has other weights


def test_kl_of_a_layer_below_another_is_taken_given_its_parent() -> None:
    """The closed form at each draw and the mean log-ratio of draws agree: 6 standard errors, false alarm 1e-8."""
    model = make().double()
    x = (random(1, B, 7) > 0).double()
    with torch.no_grad():
        draws = 20_000
        bounds = [
            lb.elbo(model.generator.bind(B), {"x": x}, model.posterior.bind(x), particles=draws, analytic_kl=analytic)
            for analytic in (True, False)
        ]
        kl = [bound.terms["kl"] for bound in bounds]
        log_w = bounds[1].log_weights - bounds[1].draw.log_likelihood()
    assert bool(((kl[0] - kl[1]).abs() < 6 * 2**0.5 * log_w.std(0) / draws**0.5).all())
    assert float(kl[0].min()) > 0.05


# --- Laws -------------------------------------------------------------------------------------------------------------


@TABLE
def test_shapes(options) -> None:
    model = make(**options)
    shape, dims = model.event_shape, sizes(options)
    trace = model.sample(B)
    wanted = {**{name: (B, size) for name, size in reversed(dims.items())}, "x_mean": (B, *shape), "x": (B, *shape)}
    assert {name: tuple(value.shape) for name, value in trace.items()} == wanted
    x = trace["x"]
    q, p = model.encode(x), model.decode(torch.zeros(K, B, 2))
    assert (q.batch_shape, q.event_shape) == ((B,), (2,))
    assert (p.batch_shape, p.event_shape) == ((K, B), shape)
    assert model.reconstruct(x).shape == x.shape
    assert model.prior().sample((K,)).shape == (K, list(dims.values())[-1])
    drawn = model.posterior.bind(x).run(particles=K)
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {n: (K, B, d) for n, d in dims.items()}
    torch.testing.assert_close(drawn.log_prob("z1"), q.log_prob(drawn["z1"]))


@TABLE
def test_gradient_reaches_every_parameter(options) -> None:
    model = make(**options)
    x = model.sample(B)["x"].detach()
    objective(model)(x).cost.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().max()) > 0, name


@TABLE
def test_description_rebuilds_the_model(options) -> None:
    model = make(init="he", activation="elu", **options)
    model.standardize(torch.tensor(0.2), torch.tensor(1.7))
    description = json.loads(json.dumps(model.describe()))
    twin = lb.models.MODELS[description["class"]](**description["arguments"])
    assert twin.describe() == model.describe()
    twin.load_state_dict(model.state_dict())
    x = model.sample(B)["x"].detach()
    results = []
    for each in (model, twin):
        torch.manual_seed(0)
        results.append(objective(each)(x).terms)
    assert results[0] == results[1]


def test_network_of_the_iwae_paper() -> None:
    """784-200-200-100 and 100-100-100-50, and back: the weights of all layers, counted by hand."""
    model = HierarchicalVAE(event_shape=(28, 28))

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    def dense(*widths: int) -> int:
        return sum(a * b + b for a, b in itertools.pairwise(widths))

    assert count(model.posterior) == dense(784, 200, 200) + 2 * dense(200, 100) + dense(100, 100, 100) + 2 * dense(
        100, 50
    )
    assert count(model.generator) == dense(50, 100, 100) + 2 * dense(100, 100) + dense(100, 200, 200, 784)


def test_belief_net_has_no_hidden_layers() -> None:
    model = HierarchicalVAE(
        event_shape=(784,), latent_dim=200, above=(200, 200), hidden=(), between=(), latent="bernoulli"
    )
    layers = [(m.in_features, m.out_features) for m in model.generator.modules() if isinstance(m, nn.Linear)]
    assert sorted(layers) == [(200, 200), (200, 200), (200, 784)]
    assert model.generator.prior.logits.shape == (200,)


@TABLE
def test_start_is_the_mean_of_the_data(options) -> None:
    """Biases of a Bernoulli likelihood are the logits of the mean; the encoder sees rows without it."""
    model = HierarchicalVAE(**{**SMALL, **options})
    mean = torch.linspace(0.0, 0.9, 15)[: model.event_size].reshape(model.event_shape)
    x = model.sample(B)["x"].detach()
    before = model.encode(x).mean
    model.standardize(mean, torch.ones(()))
    torch.testing.assert_close(model.encode(x + mean).mean, before)
    bias = model.generator.decoder.body[-1].bias
    if options.get("likelihood") is None:
        torch.testing.assert_close(bias.sigmoid(), mean.clamp_min(1e-3).flatten())
    else:
        assert not bias.any()


def test_binary_layers_start_near_each_other() -> None:
    """Of 200-200-200, a few hundredths of a nat a unit part posterior and prior; with weights of full size, many."""
    start = {"event_shape": (784,), "latent_dim": 200, "above": (200, 200), "hidden": (), "between": ()}
    model = HierarchicalVAE(**start, latent="bernoulli")
    x = (random(0, B, 784) > 0).float()
    kl = []
    for _ in range(2):
        with torch.no_grad():
            kl.append(float(lb.elbo(*model.programs(x), analytic_kl=True).terms["kl"].mean()))
            for layer in model.modules():
                if isinstance(layer, BernoulliHead):
                    layer.logits.weight.mul_(10)
    assert 0 < kl[0] < 0.03 * 600
    assert kl[1] > 10 * kl[0]


@pytest.mark.parametrize("between", [(), (30,)])
def test_gaussian_layers_start_from_variances_near_one(between) -> None:
    """Also given a draw of the other layer far from its prior, where a variance of exp(-10) would cost thousands."""
    model = HierarchicalVAE(event_shape=(7,), latent_dim=20, above=(20,), between=between)
    with torch.no_grad():
        for link in (*model.posterior.links, *model.generator.links):
            variance = link(3 * random(1, 100, 20).float()).variance
            assert float(variance.min()) > 0.1
            assert float(variance.max()) < 10
            assert float(variance.std()) > 0.01  # it is no constant


@TABLE
def test_networks_see_binary_latents_as_signs(options) -> None:
    model = make(**options)
    z = torch.tensor([0.0, 1.0])
    seen = 2 * z - 1 if options.get("latent") == "bernoulli" else z
    layers = [layer for layer in model.generator.decoder.body if isinstance(layer, (nn.Linear, nn.Tanh))]
    torch.testing.assert_close(model.generator.decoder(z).flatten(), nn.Sequential(*layers)(seen))


# --- Runs -------------------------------------------------------------------------------------------------------------


@TABLE
def test_train_evaluate_save_load_and_resume(options, tmp_path) -> None:
    """Two runs, one of them stopped in the middle, are the same bit for bit; what is loaded has the same scores."""
    binary_rows = options.get("likelihood", "bernoulli") == "bernoulli"
    options = {**options, "event_shape": (tiny.WIDTH,)}
    data = tiny.rows(40, binarize="dynamic" if binary_rows else "none")

    def goal():
        torch.manual_seed(0)
        return objective(make(**options))

    whole = tiny.fit(goal(), data, out=tmp_path / "whole")

    def stop(made: int) -> None:
        if made == 7:
            raise KeyboardInterrupt

    parts = {"out": tmp_path / "parts", "checkpoint_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        tiny.fit(goal(), data, callbacks=[Steps(stop)], **parts)
    resumed = tiny.fit(goal(), data, resume=True, **parts)
    assert not difference(resumed.model.state_dict(), whole.model.state_dict())
    assert tiny.unclocked(resumed.history) == tiny.unclocked(whole.history)

    loaded = lb.load(tmp_path / "whole")
    measures = ["elbo", "iwae-7"]
    scores = [lb.evaluate(model, data, measures) for model in (whole.model, loaded.model)]
    assert scores[0].measures == scores[1].measures
    assert scores[0].measures["elbo"]["value"] < scores[0].measures["iwae-7"]["value"]
    assert scores[0].latents["latent_dim"] == 2
    assert scores[0].latents["unit_kl"] is None or sizes(options).keys() == {"z1"}


def test_run_of_a_recipe_samples_encodes_and_reconstructs(tmp_path) -> None:
    from lowerbound.recipes import RECIPES, train

    for name in ("sbn", "hvae"):
        recipe = RECIPES[name].changed(latent_dim=3, model_options={"above": [2]}, training={"epochs": 1})
        train(recipe, out=tmp_path / name, progress=False)
        x, means = runs.sample(tmp_path / name, 4)
        assert x.shape == means.shape == (4, 8, 8)
        latents, labels = runs.encode(tmp_path / name, "digits")
        assert latents.shape == (len(labels), 3)
        inputs, outputs = runs.reconstruct(tmp_path / name, "digits")
        assert inputs.shape == outputs.shape
    lb.report.write(tmp_path / "sbn", runs.evaluate_run(tmp_path / "sbn", ["elbo"], limit=20))
    assert (tmp_path / "sbn" / "report.html").exists()


@pytest.mark.parametrize("name, standard", [("gaussian", False), ("one gaussian layer", True), ("binary", False)])
def test_units_have_a_kl_where_their_prior_is_standard_normal(name: str, standard: bool) -> None:
    model = make(**CASES[name])
    data = tiny.Rows(model.sample(20)["x"].detach())
    assert has_standard_prior(model, data.values) is standard
    scores = lb.evaluate(model, data, "elbo")
    assert (scores.latents["unit_kl"] is not None) is standard
    assert (scores.gallery.manifold is not None) is standard


# --- Bad input --------------------------------------------------------------------------------------------------------

WRONG = [
    (
        {"latent": "binary"},
        ArgumentError,
        r"latent: expected one of the known names, got 'binary'.*bernoulli, gaussian",
    ),
    ({"latent_dim": 0}, ArgumentError, r"latent_dim: expected a positive integer, got 0"),
    ({"above": (3, 0)}, ArgumentError, r"above: expected a positive integer, got 0"),
    ({"hidden": (-1,)}, ArgumentError, r"hidden: expected a positive integer, got -1"),
    ({"between": (2.0,)}, ArgumentError, r"hidden: expected a positive integer, got 2\.0"),
    ({"event_shape": ()}, ArgumentError, r"event_shape: expected positive sizes"),
    ({"activation": "swish"}, ArgumentError, r"activation: .*got 'swish'"),
    ({"likelihood": "student"}, ArgumentError, r"likelihood: .*got 'student'"),
    ({"init": "orthogonal"}, ArgumentError, r"init: .*got 'orthogonal'"),
]


@pytest.mark.parametrize("options, error, message", WRONG)
def test_options_are_checked(options, error, message) -> None:
    with pytest.raises(error, match=message):
        make(**options)


def test_rows_and_latents_of_another_shape_are_refused() -> None:
    model = make()
    with pytest.raises(ShapeError, match=r"x: expected shape \(B, 7\), got \(5, 8\)"):
        lb.objectives.IWAE(model).validate(torch.zeros(B, 8))
    with pytest.raises(ShapeError, match=r"z: expected shape \(\.\.\., 2\), got \(5, 3\)"):
        model.decode(torch.zeros(B, 3))


def test_pathwise_gradient_of_binary_layers_is_refused() -> None:
    model = make(latent="bernoulli")
    for goal in (lb.objectives.ELBO(model), lb.objectives.IWAE(model, particles=K, gradient="dreg")):
        with pytest.raises(lb.LowerboundError, match=r"at node 'z1': expected a pathwise draw, got Bernoulli"):
            goal(torch.zeros(B, 7))


def test_importance_sampling_from_a_gaussian_is_refused_for_binary_layers() -> None:
    model = make(latent="bernoulli")
    data = tiny.Rows(model.sample(20)["x"].detach())
    with pytest.raises(ArgumentError, match=r"measure 'is-K': expected latents on the whole real line"):
        lb.evaluate(model, data, "is-5")
    one = make(latent="bernoulli", above=())
    with pytest.raises(ArgumentError, match=r"measure 'quadrature': expected"):
        lb.evaluate(one, data, "quadrature")
