"""Values and gradients of TensorFlow Probability on JAX, for the same draws.

Optional: skipped where JAX or TFP is not installed. To run: pip install -e '.[dev,oracles]', then
pytest tests/objectives/test_oracle_tfp.py. Passed with tfp-nightly 0.26.0.dev20261027 on jax 0.10.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

import lowerbound as lb
from exact import OnNodes, gradients, random

jax = pytest.importorskip("jax", reason="an oracle: pip install -e '.[oracles]'")
tfp: Any = pytest.importorskip("tensorflow_probability.substrates.jax", reason="an oracle", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's
tfd, Estimators = tfp.distributions, tfp.vi.GradientEstimators
K, B, D, L = 5, 3, 7, 2
TOLERANCE = 1e-10


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


PARAMETERS = {
    "weight": 0.7 * random(1, D, L), "bias": 0.3 * random(2, D), "prior": 0.4 * random(3, L),
    "gain": 0.4 * random(4, L, D), "offset": 0.2 * random(5, L), "log_scale": -0.3 + 0.2 * random(6, L),
}  # fmt: skip
THETA = ("weight", "bias", "prior")
X = (random(7, B, D) > 0).double()


class Generator(lb.BayesianNet):
    """z around a prior of its own, or coins with its logits; x Bernoulli with logits linear in z."""

    def __init__(self, discrete: bool) -> None:
        super().__init__()
        self.discrete = discrete
        self.p = nn.ParameterDict({name: nn.Parameter(PARAMETERS[name].clone()) for name in THETA})

    def forward(self, bn, n):
        prior = self.p["prior"].expand(n, L)
        z = bn.sample("z", Bernoulli(logits=prior) if self.discrete else Normal(prior, 1.3), event_dims=1)
        bn.sample("x", Bernoulli(logits=z @ self.p["weight"].T + self.p["bias"]), event_dims=1)


class Posterior(lb.BayesianNet):
    """Draws of the oracle: noise in the place of its normals, or its coins themselves."""

    def __init__(self, discrete: bool) -> None:
        super().__init__()
        self.discrete = discrete
        rest = PARAMETERS.keys() - set(THETA)
        self.p = nn.ParameterDict({name: nn.Parameter(PARAMETERS[name].clone()) for name in sorted(rest)})

    def forward(self, bn, x, given):
        loc = x @ self.p["gain"].T + self.p["offset"]
        if not self.discrete:
            bn.sample("z", OnNodes(loc, self.p["log_scale"].exp().expand_as(loc), given), event_dims=1)
            return

        class Given(Bernoulli):
            def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
                return given

        bn.sample("z", Given(logits=loc + self.p["log_scale"]), event_dims=1)


# --- The oracle -------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What the oracle says: its draws, their noise, its loss of each row, and the gradient of the losses' sum."""

    draws: np.ndarray
    noise: np.ndarray
    loss: np.ndarray
    gradients: dict[str, np.ndarray]


def surrogate(p, discrete: bool):
    loc = jax.numpy.asarray(X.numpy()) @ p["gain"].T + p["offset"]
    if discrete:
        return tfd.Independent(tfd.Bernoulli(logits=loc + p["log_scale"], dtype=jax.numpy.float64), 1)
    return tfd.MultivariateNormalDiag(loc, jax.numpy.exp(p["log_scale"]) * jax.numpy.ones_like(loc))


def log_joint(p, z, discrete: bool):
    prior = tfd.Bernoulli(logits=p["prior"]) if discrete else tfd.Normal(p["prior"], 1.3)
    likelihood = tfd.Bernoulli(logits=z @ p["weight"].T + p["bias"])
    return prior.log_prob(z).sum(-1) + likelihood.log_prob(X.numpy()).sum(-1)


def ask(estimator, *, discrete: bool = False, batches: int = 1, draws: int = K) -> Found:
    """Return the loss of `draws` draws under the logarithm, averaged over `batches` of them."""
    values = {name: jax.numpy.asarray(value.numpy()) for name, value in PARAMETERS.items()}
    seed = jax.random.PRNGKey(11)

    def loss(p):
        stopped = {name: jax.lax.stop_gradient(value) for name, value in p.items()}
        needs_copy = estimator == Estimators.DOUBLY_REPARAMETERIZED
        return tfp.vi.monte_carlo_variational_loss(
            lambda z: log_joint(p, z, discrete),
            surrogate(p, discrete),
            sample_size=batches,
            importance_sample_size=draws,
            gradient_estimator=estimator,
            stopped_surrogate_posterior=surrogate(stopped, discrete) if needs_copy else None,
            seed=seed,
        )

    shape = [draws, batches] if estimator == Estimators.VIMCO else [batches * draws]
    z = surrogate(values, discrete).sample(shape, seed=tfp.random.split_seed(seed, 2)[0])
    z = np.asarray(z).swapaxes(0, 1).reshape(-1, B, L) if estimator == Estimators.VIMCO else np.asarray(z)
    loc = (X @ PARAMETERS["gain"].T + PARAMETERS["offset"]).numpy()
    noise = (z - loc) / PARAMETERS["log_scale"].exp().numpy()
    found = jax.grad(lambda p: loss(p).sum())(values)
    return Found(z, noise, np.asarray(loss(values)), {name: np.asarray(g) for name, g in found.items()})


def ours(make, found: Found, *, discrete: bool = False, **options):
    """Return our bound on the oracle's draws, and both programs."""
    given = torch.from_numpy(np.array(found.draws if discrete else found.noise))
    p, q = Generator(discrete), Posterior(discrete)
    return make(p.bind(B), {"x": X}, q.bind(X, given), particles=len(given), **options), p, q


def differences(cost: Tensor, found: Found, p, q) -> dict[str, float]:
    """Return the largest difference of the gradients by parameter."""
    got = {name.removeprefix("p."): g for name, g in gradients(cost.sum(), p, q).items()}
    return {name: float(np.abs(got[name].numpy() - found.gradients[name]).max()) for name in found.gradients}


def assert_same_value(made, found: Found) -> None:
    assert found.loss.shape == (B,)
    assert float(np.abs(made.value.numpy() + found.loss).max()) < TOLERANCE


# --- Agreement --------------------------------------------------------------------------------------------------------

AGREES = {
    "elbo": (lb.elbo, {}, lambda b: b.sgvb(), "REPARAMETERIZATION", {"batches": K, "draws": 1}),
    "elbo, stl": (lb.elbo, {}, lambda b: b.sgvb(stl=True), "DOUBLY_REPARAMETERIZED", {"batches": K, "draws": 1}),
    "iwae": (lb.iw_objective, {}, lambda b: b.sgvb(), "REPARAMETERIZATION", {}),
    "miwae": (lb.iw_objective, {"groups": 2}, lambda b: b.sgvb(), "REPARAMETERIZATION", {"batches": 2, "draws": 3}),
    "vimco": (lb.iw_objective, {}, lambda b: b.vimco(), "VIMCO", {"discrete": True}),
    "vimco, grouped": (
        lb.iw_objective, {"groups": 2}, lambda b: b.vimco(), "VIMCO", {"discrete": True, "batches": 2, "draws": 3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AGREES)
def test_value_and_gradient_agree(name):
    make, options, estimate, estimator, asked = AGREES[name]
    found = ask(Estimators[estimator], **asked)
    made, p, q = ours(make, found, discrete=asked.get("discrete", False), **options)
    cost = estimate(made)
    assert_same_value(made, found)
    assert max(differences(cost, found, p, q).values()) < TOLERANCE
    assert min(float(np.abs(g).max()) for g in found.gradients.values()) > 1e-2


def test_dreg_agrees_for_the_posterior_and_differs_for_the_model_as_derived():
    """TFP gives the model the squared weights too, which biases its gradient: sum w^2 in the place of sum w."""
    found = ask(Estimators.DOUBLY_REPARAMETERIZED)
    made, p, q = ours(lb.iw_objective, found)
    off = differences(made.dreg(), found, p, q)
    assert_same_value(made, found)
    assert max(value for name, value in off.items() if name not in THETA) < TOLERANCE
    assert min(off[name] for name in THETA) > 1e-2
    weights = made.log_weights.softmax(0)
    log_joint = made.draw.model.log_joint()
    assert max(differences(-(weights**2 * log_joint).sum(0), found, p, q)[name] for name in THETA) < TOLERANCE
    assert max(differences(-(weights * log_joint).sum(0), found, p, q)[name] for name in THETA) > 1e-2


def test_score_function_differs_by_the_mean_score():
    """TFP also differentiates log q inside the signal; the mean score that this adds has the expectation zero."""
    found = ask(Estimators.SCORE_FUNCTION, discrete=True, batches=K, draws=1)
    made, p, q = ours(lb.elbo, found, discrete=True)
    cost = made.reinforce()
    assert_same_value(made, found)
    off = differences(cost, found, p, q)
    assert max(off[name] for name in THETA) < TOLERANCE
    assert max(off.values()) > 1e-2
    assert max(differences(cost + made.draw.log_posterior().mean(0), found, p, q).values()) < TOLERANCE
