"""Measures against closed forms: a linear Gaussian model, whose evidence, posterior and bounds are known exactly."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy import stats
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

import lowerbound as lb
import tiny
from exact import LinearPosterior, linear_gaussian, random
from lowerbound.evaluation.latents import unit_kl
from tiny import Rows

X_DIM, Z_DIM, N = 5, 3, 211
CASE = linear_gaussian(X_DIM, Z_DIM)
X = random(9, N, X_DIM)
measures_module = sys.modules["lowerbound.evaluation.measures"]

# False alarms: every bar below is 5 standard errors wide, 6e-7 a comparison, and the seeds are fixed.
BAR = 5


def pair(posterior=None) -> lb.models.LatentVariableModel:
    return lb.models.LatentVariableModel(CASE.generator(), CASE.posterior() if posterior is None else posterior)


def poor() -> LinearPosterior:
    """Return a posterior that is far from the exact one."""
    gain, offset, tril = CASE.exact()
    return LinearPosterior(0.7 * gain, offset + 0.2, 1.4 * tril)


def closed_terms(posterior, x) -> tuple[torch.Tensor, torch.Tensor]:
    """Return E_q log p(x|z) and KL(q || p) of each row for q = N(gain x + offset, S)."""
    tril = posterior.tril.detach().tril()
    loc, covariance = x @ posterior.gain.detach().T + posterior.offset.detach(), tril @ tril.T
    residual = x - CASE.mean - loc @ CASE.weight.T
    spread = (CASE.weight @ covariance @ CASE.weight.T).diagonal()
    variance = CASE.noise**2
    reconstruction = -0.5 * ((residual**2 + spread) / variance + torch.log(2 * math.pi * variance)).sum(-1)
    kl = 0.5 * (covariance.trace() + loc.square().sum(-1) - Z_DIM) - tril.diagonal().log().sum()
    return reconstruction, kl


@pytest.mark.parametrize("measure", ["iwae-1", "iwae-2", "iwae-7", "iwae-199", "iwae-2001"])
def test_iwae_at_the_exact_posterior_is_the_evidence_of_every_row(measure: str) -> None:
    """Every weight is p(x), whatever is drawn: with 2001 particles in ten batches, in chunks and a rest."""
    scores = lb.evaluate(pair(), Rows(X[:23]), measure)
    truth = CASE.log_evidence(X[:23])
    np.testing.assert_allclose(scores.rows[measure], truth, rtol=0, atol=1e-10)
    found = scores.measures[measure]
    assert found["value"] == pytest.approx(float(truth.mean()), abs=1e-10)
    assert found["stderr"] == pytest.approx(float(truth.std() / math.sqrt(23)), abs=1e-10)
    assert (found["n"], found["particles"], found["unit"]) == (23, int(measure[5:]), "nats")


@pytest.mark.parametrize("posterior", [CASE.posterior(), poor()], ids=["exact", "poor"])
def test_elbo_and_its_terms_are_the_closed_forms(posterior) -> None:
    """One row 4000 times: the standard error is that of the draws, and nothing else."""
    x = X[:1].expand(4000, -1)
    reconstruction, kl = (float(term[0]) for term in closed_terms(posterior, x[:1]))
    scores = lb.evaluate(pair(posterior), Rows(x), ["elbo", "elbo-20"])
    for found in scores.measures.values():
        assert found["kl"] == pytest.approx(kl, abs=1e-9)
        assert abs(found["reconstruction"] - reconstruction) < BAR * found["stderr"]
        assert abs(found["value"] - (reconstruction - kl)) < BAR * found["stderr"]
    one, many = scores.measures["elbo"]["stderr"], scores.measures["elbo-20"]["stderr"]
    assert one < 0.1  # the bars above are narrow
    assert one / many == pytest.approx(math.sqrt(20), rel=0.1)


def test_elbo_at_the_exact_posterior_is_the_evidence_and_elsewhere_below_it_by_the_divergence() -> None:
    truth = float(CASE.log_evidence(X[:1]))
    posterior = poor()
    reconstruction, kl = closed_terms(CASE.posterior(), X[:1])
    assert float(reconstruction - kl) == pytest.approx(truth, abs=1e-10)
    exact = MultivariateNormal(X[0] @ CASE.exact()[0].T + CASE.exact()[1], scale_tril=CASE.exact()[2])
    tril = posterior.tril.detach().tril()
    q = MultivariateNormal(X[0] @ posterior.gain.detach().T + posterior.offset.detach(), scale_tril=tril)
    gap = float(torch.distributions.kl_divergence(q, exact))
    found = lb.evaluate(pair(posterior), Rows(X[:1].expand(4000, -1)), "elbo-20").measures["elbo-20"]
    assert gap > 20 * found["stderr"]
    assert abs(found["value"] - (truth - gap)) < BAR * found["stderr"]


def test_bounds_rise_with_the_particles_towards_the_evidence() -> None:
    measures = ["elbo", "iwae-1", "iwae-5", "iwae-50", "iwae-1000"]
    x = X[:1].expand(1500, -1)
    found = lb.evaluate(pair(poor()), Rows(x), measures).measures
    truth = float(CASE.log_evidence(X[:1]))
    for low, high in (("iwae-1", "iwae-5"), ("iwae-5", "iwae-50")):
        noise = math.hypot(found[low]["stderr"], found[high]["stderr"])
        assert found[high]["value"] - found[low]["value"] > BAR * noise
    noise = math.hypot(found["elbo"]["stderr"], found["iwae-1"]["stderr"])
    assert abs(found["elbo"]["value"] - found["iwae-1"]["value"]) < BAR * noise  # the same bound
    assert abs(found["iwae-1000"]["value"] - truth) < 0.005
    assert found["iwae-1000"]["value"] < truth + BAR * found["iwae-1000"]["stderr"]


@pytest.mark.parametrize("measure", ["elbo", "elbo-3", "iwae-6"])
def test_standard_error_is_over_rows(measure: str) -> None:
    scores = lb.evaluate(pair(poor()), Rows(X), measure)
    rows, found = scores.rows[measure], scores.measures[measure]
    mean = sum(rows) / N
    assert rows.shape == (N,)
    assert rows.dtype == np.float64
    assert found["value"] == pytest.approx(mean, abs=1e-12)
    assert found["stderr"] == pytest.approx(math.sqrt(sum((rows - mean) ** 2) / (N - 1) / N), abs=1e-12)
    assert found["stderr"] == pytest.approx(stats.sem(rows), abs=1e-12)


def test_rows_do_not_depend_on_the_batches_and_chunks_that_they_are_computed_in(monkeypatch) -> None:
    """At the exact posterior to 1e-10; elsewhere, where the draws are others, within their noise."""
    measures = ["iwae-30", "elbo-30"]
    x = X[:1].expand(900, -1)
    before = lb.evaluate(pair(), Rows(X), "iwae-30"), lb.evaluate(pair(poor()), Rows(x), measures)
    monkeypatch.setattr(measures_module, "ROWS_AT_ONCE", 77)
    after = lb.evaluate(pair(), Rows(X), "iwae-30"), lb.evaluate(pair(poor()), Rows(x), measures)
    np.testing.assert_allclose(before[0].rows["iwae-30"], after[0].rows["iwae-30"], rtol=0, atol=1e-10)
    for name in measures:
        assert not np.array_equal(before[1].rows[name], after[1].rows[name])
        noise = math.hypot(before[1].measures[name]["stderr"], after[1].measures[name]["stderr"])
        assert abs(before[1].measures[name]["value"] - after[1].measures[name]["value"]) < BAR * noise


class Fixed(lb.BayesianNet):
    """A program without parameters: z ~ N(0, 1), x ~ N(z, 1)."""

    def forward(self, bn, n):
        z = bn.sample("z", Normal(torch.zeros(n, 1).double(), 1.0), event_dims=1)
        bn.sample("x", Normal(z, 1.0), event_dims=1)


class FixedPosterior(lb.BayesianNet):
    """Its posterior, N(x / 2, 1 / 2)."""

    def forward(self, bn, x):
        bn.sample("z", Normal(x / 2, math.sqrt(0.5)), event_dims=1)


class OwnEncoder(lb.models.LatentVariableModel):
    """A model that encodes, and does not say how many latents it has."""

    def encode(self, x):
        return Normal(x / 2, math.sqrt(0.5))


@pytest.mark.parametrize("kind", [lb.models.LatentVariableModel, OwnEncoder])
def test_a_model_without_parameters_is_measured(kind) -> None:
    x = random(5, 30, 1)
    scores = lb.evaluate(kind(Fixed(), FixedPosterior()), Rows(x), ["iwae-1", "iwae-7"])
    truth = stats.norm(0, math.sqrt(2)).logpdf(x[:, 0])
    for name in scores.measures:
        np.testing.assert_allclose(scores.rows[name], truth, rtol=0, atol=1e-10)


def test_many_draws_are_averaged_in_chunks(monkeypatch) -> None:
    x = X[:1].expand(40, -1)
    whole = lb.evaluate(pair(poor()), Rows(x), "elbo-25").measures["elbo-25"]
    monkeypatch.setattr(measures_module, "ROWS_AT_ONCE", 400)  # ten draws of forty rows at once
    parts = lb.evaluate(pair(poor()), Rows(x), "elbo-25").measures["elbo-25"]
    assert parts["value"] != whole["value"]
    noise = math.hypot(whole["stderr"], parts["stderr"])
    assert abs(parts["value"] - whole["value"]) < BAR * noise
    assert parts["stderr"] == pytest.approx(whole["stderr"], rel=0.5)  # as many draws a row
    assert parts["value"] == pytest.approx(parts["reconstruction"] - parts["kl"], abs=1e-9)


def test_draws_of_rows_are_independent() -> None:
    """The same row at every place: if two places shared their noise, their values would go together."""
    x = X[:1].expand(1000, -1)
    rows = np.stack([lb.evaluate(pair(poor()), Rows(x), "iwae-1", seed=s).rows["iwae-1"] for s in range(60)])
    assert len(np.unique(rows)) == rows.size
    means = rows.mean(1)  # of 1000 independent values each
    expected = rows.std() / math.sqrt(1000)
    assert means.std(ddof=1) < expected * math.sqrt(stats.chi2.ppf(1 - 1e-6, 59) / 59)


def test_bound_of_a_trained_run_by_ten_lines_of_plain_torch(tmp_path) -> None:
    """From the file of weights alone: the ELBO that the run printed for its last epoch, within the noise of a draw."""
    train, test = lb.data.digits(binarize="threshold")
    model = lb.models.VAE(event_shape=(8, 8), latent_dim=4, hidden=(32,))
    lb.fit(lb.objectives.ELBO(model), train, validation=test, epochs=8, out=tmp_path, progress=False, keep="last")
    printed = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["validation"]["elbo"]

    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        w = {name.removeprefix("weights."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    x = torch.stack([row for batch in test.evaluation_batches(100) for row in batch]).flatten(1)

    def linear(name, v):
        return nn.functional.linear(v, w[f"{name}.weight"], w[f"{name}.bias"])

    values = []
    for _ in range(20):
        h = linear("posterior.encoder.features.body.0", x - w["posterior.center"].flatten()).relu()
        mean, log_variance = linear("posterior.encoder.head.loc", h), linear("posterior.encoder.head.log_variance", h)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        logits = linear("generator.decoder.body.2", linear("generator.decoder.body.0", z).relu())
        log_likelihood = (x * logits - nn.functional.softplus(logits)).sum(1)
        values.append(log_likelihood - 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1))
    by_hand = torch.stack(values)

    noise = float(by_hand.std(0).square().sum().sqrt()) / len(x)  # of one draw for every row, as training made it
    assert noise < 0.3
    assert abs(float(by_hand.mean()) - printed) < BAR * noise * math.sqrt(1 + 1 / 20)
    scores = lb.evaluate(lb.load(tmp_path).model, test, ["elbo", "elbo-200"]).measures
    assert abs(float(by_hand.mean()) - scores["elbo-200"]["value"]) < BAR * noise * math.sqrt(1 / 20 + 1 / 200)
    assert abs(scores["elbo"]["value"] - scores["elbo-200"]["value"]) < BAR * noise * math.sqrt(1 + 1 / 200)


# --- Latents ----------------------------------------------------------------------------------------------------------


def test_unit_divergences_by_hand_and_by_quadrature() -> None:
    loc, scale = random(1, 4, 3), random(2, 4, 3).exp()
    found = unit_kl(Independent(Normal(loc, scale), 1))
    expected = torch.distributions.kl_divergence(Normal(loc, scale), Normal(torch.zeros(4, 3).double(), 1.0))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    grid = torch.linspace(-60, 60, 400_001, dtype=torch.float64)
    q = Normal(loc[0, 0], scale[0, 0])
    integrand = q.log_prob(grid).exp() * (q.log_prob(grid) - Normal(0.0, 1.0).log_prob(grid))
    assert float(found[0, 0]) == pytest.approx(float(torch.trapezoid(integrand, grid)), abs=1e-8)


def test_unit_divergences_of_a_full_covariance_are_those_of_its_marginals() -> None:
    factor = torch.eye(3).double() + 0.4 * random(3, 3, 3).tril()
    q = MultivariateNormal(random(4, 2, 3), scale_tril=factor.tril())
    marginal = Normal(q.mean, q.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt())
    expected = torch.distributions.kl_divergence(marginal, Normal(torch.zeros(2, 3).double(), 1.0))
    torch.testing.assert_close(unit_kl(q), expected, rtol=0, atol=1e-12)


def test_no_divergences_where_there_is_no_gaussian() -> None:
    assert unit_kl(Independent(torch.distributions.Laplace(torch.zeros(2, 3), 1.0), 1)) is None


def test_summary_of_known_latents() -> None:
    """Unit 0 varies by 4, unit 1 by a little more than the threshold, unit 2 by a little less, unit 3 not at all."""
    deviation = torch.tensor([2.0, math.sqrt(0.0101), math.sqrt(0.0099), 0.0])
    means = torch.tensor([5.0, 0.0, -7.0, 3.0]) + deviation * torch.tensor([-1.0, 1.0])[:, None] / math.sqrt(2)
    summary = lb.evaluation.latent_summary(means, torch.tensor([1.5, 0.25, 0.0, 0.0]))
    assert summary["unit_variance"] == pytest.approx([4.0, 0.0101, 0.0099, 0.0], abs=2e-6)
    assert summary["active_units"] == 2
    assert summary["unit_kl"] == [1.5, 0.25, 0.0, 0.0]
    assert (summary["latent_dim"], summary["threshold"]) == (4, 0.01)
    json.dumps(summary)


def test_latents_of_a_model_with_a_known_encoder() -> None:
    """Unit 0 is x_0, unit 1 is the prior whatever is seen: collapsed."""
    model = tiny.vae(hidden=())
    with torch.no_grad():
        for parameter in model.posterior.parameters():
            parameter.zero_()
        model.posterior.encoder.head.loc.weight[0, 0] = 3.0
        model.posterior.encoder.head.log_variance.bias[0] = math.log(0.25)
    data = tiny.rows(40)
    scores = lb.evaluate(model, data, "elbo")
    x = torch.cat(list(data.evaluation_batches(7)))
    means = 3.0 * x[:, 0]
    expected = float((0.5 * (means**2 + 0.25 - 1 - math.log(0.25))).mean())
    assert scores.latents["active_units"] == 1
    assert scores.latents["unit_kl"] == pytest.approx([expected, 0.0], abs=1e-5)
    assert scores.latents["unit_variance"] == pytest.approx([float(means.var()), 0.0], abs=1e-5)
    assert scores.measures["elbo"]["kl"] == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(torch.tensor(scores.gallery.latents), torch.stack([means, torch.zeros(40)], 1))
