"""What the explorer computes of latents, against the model itself and against scikit-learn."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import lowerbound as lb
from lowerbound.core.errors import ArgumentError, RunError, ShapeError
from lowerbound.data import Dataset
from lowerbound.explorer import cells
from lowerbound.explorer.latents import Latents, principal_axes
from lowerbound.recipes import RECIPES, train


def test_rows_are_encoded_in_order_with_their_labels(digits):
    rows = digits.rows
    with torch.no_grad():
        means = digits.model.encode(rows.rows(range(60))).mean
    assert len(digits) == 60 < len(rows)
    torch.testing.assert_close(digits.means, means)
    assert digits.labels.equal(rows.labels[:60])
    assert digits.observed([7, 3]).equal(rows.rows([7, 3]))


def test_decode_is_the_models(digits):
    z = torch.randn(4, 3)
    with torch.no_grad():
        torch.testing.assert_close(digits.decode(z).mean, digits.model.decode(z).mean)
    with pytest.raises(ShapeError, match=r"z: expected shape \(\.\.\., 3\), got \(4, 2\)"):
        digits.decode(torch.zeros(4, 2))


def test_principal_axes_are_scikit_learns():
    means = torch.randn(200, 5) @ torch.diag(torch.tensor([1.0, 3.0, 0.1, 2.0, 0.5])) + 7
    center, axes, share = principal_axes(means)
    pca = PCA(2).fit(means.double().numpy())
    np.testing.assert_allclose(center, pca.mean_, rtol=1e-6)
    np.testing.assert_allclose(share, pca.explained_variance_ratio_, rtol=1e-5)
    np.testing.assert_allclose(np.abs(axes.numpy() @ pca.components_.T), np.eye(2), atol=1e-5)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_nearest_rows_are_scikit_learns(digits):
    z = torch.randn(3)
    distances, indices = NearestNeighbors(n_neighbors=9).fit(digits.means.numpy()).kneighbors(z[None].numpy())
    found, apart = digits.nearest(z, 9)
    assert found.tolist() == indices[0].tolist()
    np.testing.assert_allclose(apart, distances[0], rtol=1e-4)
    assert digits.nearest(digits.means[17], 1)[0].tolist() == [17]
    assert len(digits.nearest(z, 64)[0]) == 60


def test_samples_repeat_by_their_seed_and_leave_the_generator_alone(digits):
    before = torch.get_rng_state()
    assert digits.sample(5, seed=3).equal(digits.sample(5, seed=3))
    assert not digits.sample(5, seed=3).equal(digits.sample(5, seed=4))
    assert torch.get_rng_state().equal(before)
    assert 0.8 < digits.sample(4000, seed=0).std() < 1.2  # the prior's, not the posterior's


def test_spans_hold_the_rows_and_most_of_the_prior(digits):
    low, high = torch.tensor(digits.spans).T
    assert (low <= digits.means.amin(0).clamp(max=-3)).all()
    assert (high >= digits.means.amax(0).clamp(min=3)).all()


def test_binary_layers():
    net = lb.models.HierarchicalVAE(event_shape=(4,), latent_dim=6, above=(3,), hidden=(), latent="bernoulli")
    latents = Latents(net, lb.data.four_points()[1], limit=8)
    assert latents.binary
    assert latents.spans == [[0.0, 1.0]] * 6
    drawn = latents.sample(50, seed=0)
    assert drawn.shape == (50, 6)  # the layer next to the rows
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}


def test_refusals(digits):
    with pytest.raises(ArgumentError, match="rows: expected 0 to 59, got 60"):
        digits.observed([0, 60])
    with pytest.raises(ArgumentError, match="limit: expected a positive integer, got 0"):
        Latents(digits.model, digits.rows, limit=0)
    model = lb.models.VAE(event_shape=(2,), latent_dim=2, hidden=(4,), likelihood="gaussian")
    with torch.no_grad():
        next(model.posterior.parameters()).fill_(torch.nan)
    with pytest.raises(RunError, match="run: expected a model with finite latents"):
        Latents(model, Dataset(torch.rand(5, 2)))


def test_umap_is_asked_once_and_in_one_thread(digits, monkeypatch):
    asked = []

    class UMAP:
        def __init__(self, **options):
            asked.append(options)

        def fit_transform(self, values):
            return values[:, :2] * 2.0

    fake = ModuleType("umap")
    fake.__spec__, fake.UMAP = ModuleSpec("umap", None), UMAP
    monkeypatch.setitem(sys.modules, "umap", fake)
    latents = Latents(digits.model, digits.rows, limit=20)
    assert latents.has_map
    np.testing.assert_allclose(latents.map(), latents.means[:, :2] * 2)
    assert latents.map() is latents.map()
    assert asked == [{"random_state": 0, "n_jobs": 1}]


def test_columns_of_a_table_of_numbers_keep_their_names(tmp_path):
    lines = ["height,weight", *(f"{150 + i},{50 + i % 7}" for i in range(40))]
    (tmp_path / "people.csv").write_text("\n".join(lines))
    recipe = RECIPES["vae"].changed(data=str(tmp_path / "people.csv"), latent_dim=1, training={"epochs": 1})
    train(recipe, out=tmp_path / "run", progress=False)
    latents = Latents.of_run(tmp_path / "run")
    rows = latents.rows.rows([0, 1])
    assert [column["name"] for column in cells.describe(rows, latents.columns)] == ["height", "weight"]
    assert [cell["value"] for cell in cells.observed(rows, latents.columns)[0]] == rows[0].tolist()
    found = cells.decoded(latents.decode(torch.zeros(1, 1)), latents.columns)
    assert [sorted(cell) for cell in found[0]] == [["spread", "value"]] * 2
