"""scikit-learn's probabilistic PCA and factor analysis as outside oracles of a whole `VAE`.

Both are linear-Gaussian models, so a VAE without hidden layers can be set to them and to their exact posterior; its
bounds must then be the log-likelihoods that scikit-learn computes by its own formulas.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, FactorAnalysis

import lowerbound as lb
from exact import LinearGaussian, random

TOLERANCE = 1e-8


def rows(n: int = 60, x_dim: int = 6) -> np.ndarray:
    mixing, spread = random(8, x_dim, x_dim), torch.linspace(0.2, 2.0, x_dim, dtype=torch.float64)
    return (random(7, n, x_dim) @ mixing * spread + 3.0).numpy()


def pca(x: np.ndarray, z_dim: int):
    fitted = PCA(z_dim).fit(x)
    weight = fitted.components_.T * np.sqrt(fitted.explained_variance_ - fitted.noise_variance_)
    noise = np.full(x.shape[1], np.sqrt(fitted.noise_variance_))
    return fitted, LinearGaussian(*map(torch.from_numpy, (weight, fitted.mean_, noise)))


def factor_analysis(x: np.ndarray, z_dim: int):
    fitted = FactorAnalysis(z_dim).fit(x)
    parts = fitted.components_.T.copy(), fitted.mean_, np.sqrt(fitted.noise_variance_)
    return fitted, LinearGaussian(*map(torch.from_numpy, parts))


def as_vae(truth: LinearGaussian, scale: float | str) -> lb.models.VAE:
    """Return the VAE without hidden layers that is this model with its exact posterior."""
    x_dim, z_dim = truth.weight.shape
    options = {"scale": scale}
    sizes = {"event_shape": (x_dim,), "latent_dim": z_dim, "hidden": ()}
    model = lb.models.VAE(**sizes, likelihood="gaussian", likelihood_options=options, posterior="full").double()
    gain, offset, tril = truth.exact()
    (decoder,), head = model.generator.decoder.body, model.posterior.encoder.head
    with torch.no_grad():
        decoder.weight.copy_(truth.weight)
        decoder.bias.copy_(truth.mean)
        if isinstance(scale, str):
            model.generator.likelihood.log_scale.copy_(
                truth.noise.log() if scale == "per-dimension" else truth.noise[0].log()
            )
        head.loc.weight.copy_(gain)
        head.loc.bias.copy_(offset)
        head.log_variance.weight.zero_()
        head.log_variance.bias.copy_(2 * tril.diagonal().log())
        if z_dim > 1:
            head.below.weight.zero_()
            head.below.bias.copy_(tril[tuple(torch.tril_indices(z_dim, z_dim, -1))])
    return model


def check(fitted, model: lb.models.VAE, x: np.ndarray) -> None:
    data, wanted = torch.from_numpy(x), torch.from_numpy(fitted.score_samples(x))
    p, q = model.generator.bind(len(x)), model.posterior.bind(data)
    found = {
        "is_loglikelihood": lb.is_loglikelihood(p, {"x": data}, q, particles=7, chunk=3),
        "elbo": lb.elbo(p, {"x": data}, q, particles=2).value,
        "iwae": lb.iw_objective(p, {"x": data}, q, particles=5).value,
    }
    for name, value in found.items():
        assert float((value - wanted).abs().max()) < TOLERANCE, name
    assert float(wanted.std()) > 0.1


@pytest.mark.parametrize("z_dim", [1, 2, 4])
@pytest.mark.parametrize("scale", ["fixed", "shared", "per-dimension"])
def test_probabilistic_pca(z_dim, scale):
    x = rows()
    fitted, truth = pca(x, z_dim)
    # A fixed scale is kept as a float32 logarithm: give the oracle's noise to the buffer in full.
    model = as_vae(truth, float(truth.noise[0]) if scale == "fixed" else scale)
    if scale == "fixed":
        model.generator.likelihood.log_scale.copy_(truth.noise[0].log())
    check(fitted, model, x)


@pytest.mark.parametrize("z_dim", [1, 3])
def test_factor_analysis(z_dim):
    x = rows()
    fitted, truth = factor_analysis(x, z_dim)
    check(fitted, as_vae(truth, "per-dimension"), x)


def test_standardized_rows_score_the_same_in_units_of_x():
    """Centre and spread move where outputs and scales count from, never what a density is."""
    x = rows()
    fitted, truth = factor_analysis(x, 2)
    center, spread = torch.from_numpy(x.mean(0)), torch.from_numpy(x.std(0))
    scaled = LinearGaussian(truth.weight / spread[:, None], (truth.mean - center) / spread, truth.noise / spread)
    model = as_vae(scaled, "per-dimension")
    model.standardize(center, spread)
    check(fitted, model, x)
