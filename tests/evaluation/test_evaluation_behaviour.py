"""What an evaluation takes, leaves alone, records and keeps in files."""

from __future__ import annotations

import json
import random as python_random

import numpy as np
import pytest
import torch

import lowerbound as lb
import tiny
from lowerbound.core.errors import ArgumentError, NodeError, NonFiniteError, RunError, ShapeError
from lowerbound.evaluation import Gallery, Scores
from tiny import Rows, files

# --- The same call gives the same numbers -----------------------------------------------------------------------------


def test_seed_fixes_every_number() -> None:
    model, data = tiny.vae(), tiny.rows()
    first, second = (lb.evaluate(model, data, ["elbo", "iwae-5"]) for _ in range(2))
    other = lb.evaluate(model, data, ["elbo", "iwae-5"], seed=1)
    assert (first.measures, first.latents) == (second.measures, second.latents)
    for name in ("elbo", "iwae-5"):
        np.testing.assert_array_equal(first.rows[name], second.rows[name])
        assert not np.array_equal(first.rows[name], other.rows[name])
    np.testing.assert_array_equal(first.gallery.samples, second.gallery.samples)
    assert not np.array_equal(first.gallery.samples, other.gallery.samples)


def test_measures_do_not_feel_each_other() -> None:
    model, data = tiny.vae(), tiny.rows()
    together = lb.evaluate(model, data, ["iwae-3", "elbo", "iwae-5"])
    for name in together.rows:
        np.testing.assert_array_equal(lb.evaluate(model, data, name).rows[name], together.rows[name])


def test_a_measure_named_twice_is_measured_once() -> None:
    assert list(lb.evaluate(tiny.vae(), tiny.rows(), ["elbo", "iwae-2", "elbo"]).measures) == ["elbo", "iwae-2"]


def test_generators_modes_and_gradients_are_left_alone() -> None:
    model = tiny.vae()
    model.train()
    model.posterior.eval()  # a frozen half
    modes = [part.training for part in model.modules()]
    states = torch.get_rng_state(), python_random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    lb.evaluate(model, tiny.rows(), ["elbo", "iwae-5"])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (python_random.getstate(), np.random.get_state()[1].tolist()) == states[1:]  # noqa: NPY002
    assert [part.training for part in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_model_is_evaluated_in_evaluation_mode_and_put_back_after_an_error() -> None:
    model = tiny.vae()
    model.generator.decoder.body.append(torch.nn.Dropout(0.9))
    model.train()
    first = lb.evaluate(model, tiny.rows(), "elbo").measures["elbo"]["value"]
    model.eval()
    assert lb.evaluate(model, tiny.rows(), "elbo").measures["elbo"]["value"] == first
    model.train()
    with pytest.raises(NodeError, match="Bernoulli"):
        lb.evaluate(model, tiny.rows(binarize="none"))
    assert model.training


# --- Which rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit, n", [(1, 1), (7, 7), (48, 48), (1000, 48), (None, 48)])
def test_limit_takes_the_first_rows(limit: int | None, n: int) -> None:
    model, data = tiny.vae(), tiny.rows()
    scores = lb.evaluate(model, data, ["iwae-4"], limit=limit)
    assert scores.rows["iwae-4"].shape == (n,)
    assert (scores.measures["iwae-4"]["n"], scores.data["n_evaluated"], scores.data["n"]) == (n, n, 48)
    assert len(scores.gallery.latents) == n
    assert (scores.measures["iwae-4"]["stderr"] is None) == (n == 1)
    x = data.rows(range(min(n, 16)))
    np.testing.assert_array_equal(scores.gallery.inputs, x)


def test_dynamic_rows_are_drawn_once() -> None:
    """A model without a latent's help, so that a row's value tells which bits it had."""
    data = tiny.rows(binarize="dynamic")
    x = torch.cat(list(data.evaluation_batches(48)))
    for scores in (lb.evaluate(tiny.vae(), data, "elbo", seed=seed) for seed in (0, 1)):
        np.testing.assert_array_equal(scores.gallery.inputs, x[:16])


def test_what_is_recorded_of_the_data() -> None:
    data = tiny.rows(binarize="static")
    scores = lb.evaluate(tiny.vae(), data, "elbo", limit=9, seed=4)
    assert scores.data == {**data.describe(), "n_evaluated": 9, "evaluation_seed": 4, "log_p": "probability"}
    assert scores.data["sha256"]
    assert scores.data["binarize"] == "static"


def test_elbo_is_its_reconstruction_minus_its_kl() -> None:
    found = lb.evaluate(tiny.vae(), tiny.rows(), "elbo-3").measures["elbo-3"]
    assert found["value"] == pytest.approx(found["reconstruction"] - found["kl"], abs=1e-5)
    assert found["kl"] > 0
    assert found["kind"] == "lower bound"


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "measure",
    ["iwae", "iwae-", "iwae-0", "iwae--3", "iwae-2.5", "iwae-ten", "elbow", "elbo-", "elbo-0", "ELBO", "", "hais"],
)
def test_unknown_measure_is_refused(measure: str) -> None:
    with pytest.raises(ArgumentError, match=f"measure: expected .*got '{measure}'. Write elbo, elbo-16 or iwae-1000"):
        lb.evaluate(tiny.vae(), tiny.rows(), ["elbo", measure])


@pytest.mark.parametrize("limit", [0, -3, 2.5])
def test_limit_that_is_no_number_of_rows_is_refused(limit) -> None:
    with pytest.raises(ArgumentError, match="limit: expected a positive integer"):
        lb.evaluate(tiny.vae(), tiny.rows(), limit=limit)


@pytest.mark.parametrize("measure", ["elbo", "iwae-3"])
def test_grey_rows_into_a_bernoulli_model_are_refused_with_the_cure(measure: str) -> None:
    with pytest.raises(NodeError, match="node 'x'.*takes only 0 and 1: binarise the data"):
        lb.evaluate(tiny.vae(), tiny.rows(binarize="none"), measure)


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"x: expected shape \(B, 6\), got \(4, 5\)"):
        lb.evaluate(tiny.vae(), lb.data.Dataset(torch.ones(4, 5)))


def test_model_of_nan_is_refused() -> None:
    model = tiny.vae()
    torch.nn.init.constant_(model.generator.decoder.body[0].weight, float("nan"))
    with pytest.raises(NodeError, match="node 'x'.*not finite"):
        lb.evaluate(model, tiny.rows())


def test_rows_without_a_finite_value_are_counted_and_the_first_is_named() -> None:
    x = torch.randn(1200, tiny.WIDTH)
    x[1100:1103] = 1e30  # beyond the first batch, whose rows are checked one by one
    model = tiny.vae(likelihood="gaussian")
    with pytest.raises(NonFiniteError, match="measure 'elbo': .*3 of 1200 rows without one, first row 1100"):
        lb.evaluate(model, Rows(x), "elbo")


# --- Gallery ----------------------------------------------------------------------------------------------------------


def test_gallery_of_two_latents() -> None:
    model, data = tiny.vae(), tiny.rows()
    data.labels = torch.arange(48) % 3
    scores = lb.evaluate(model, data, "elbo")
    shown, x = scores.gallery, torch.cat(list(data.evaluation_batches(48)))
    with torch.no_grad():
        np.testing.assert_allclose(shown.reconstructions, model.reconstruct(x[:16]), atol=1e-6)
        np.testing.assert_allclose(shown.latents, model.encode(x).mean, atol=1e-6)
        np.testing.assert_allclose(shown.unit_kl, lb.evaluation.latents.unit_kl(model.encode(x)).mean(0), atol=1e-6)
        z = torch.tensor([shown.grid[11], shown.grid[2]])  # row 2, column 11
        np.testing.assert_allclose(shown.manifold[2, 11], model.decode(z).mean, atol=1e-6)
    np.testing.assert_array_equal(shown.labels, np.arange(48) % 3)
    normal = torch.distributions.Normal(0.0, 1.0)
    np.testing.assert_allclose(normal.cdf(torch.tensor(shown.grid)), np.linspace(0.05, 0.95, 20), atol=1e-6)
    assert shown.samples.shape == (64, 6)
    assert shown.event_shape == (6,)


def test_gallery_without_a_plane() -> None:
    shown = lb.evaluate(tiny.vae(latent_dim=3), tiny.rows(5), "elbo").gallery
    assert shown.manifold is None
    assert shown.grid is None
    assert shown.labels is None
    assert shown.inputs.shape == (5, 6)


# --- Files ------------------------------------------------------------------------------------------------------------


def scores() -> Scores:
    data = tiny.rows()
    data.labels, data.label_names = torch.arange(48) % 3, ("ant", "bee", "cat")
    return lb.evaluate(tiny.vae(), data, ["elbo", "iwae-3"])


def test_scores_round_trip(tmp_path) -> None:
    written = scores()
    written.write(tmp_path)
    read = Scores.read(tmp_path)
    assert {name: row.tobytes() for name, row in read.rows.items()} == {
        name: row.tobytes() for name, row in written.rows.items()
    }
    assert set(files(tmp_path)) == {"scores.json", "rows.npz", "gallery.npz"}
    assert (read.measures, read.data, read.latents) == (written.measures, written.data, written.latents)
    document = json.loads((tmp_path / "scores.json").read_text())
    assert document["measures"]["iwae-3"]["particles"] == 3
    for name in ("samples", "inputs", "reconstructions", "latents", "labels", "manifold", "grid", "unit_kl"):
        np.testing.assert_array_equal(getattr(read.gallery, name), getattr(written.gallery, name))
    assert read.gallery.label_names == ("ant", "bee", "cat")


def test_scores_without_a_gallery_round_trip(tmp_path) -> None:
    Scores({"elbo": {"value": -1.0}}, {"name": "x"}).write(tmp_path)
    read = Scores.read(tmp_path)
    assert (read.measures, read.latents, read.gallery) == ({"elbo": {"value": -1.0}}, {}, None)
    assert Gallery.read(tmp_path) is None


def test_no_scores_is_an_error_with_the_command_as_its_cure(tmp_path) -> None:
    with pytest.raises(RunError, match="scores.json: .*no such file. Evaluate the run first: lowerbound evaluate "):
        Scores.read(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"measures": {}}', '"text"', "3"])
def test_damaged_scores_are_an_error_with_its_cure(content: str, tmp_path) -> None:
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(RunError, match="scores.json: expected .*(again|restore)"):
        Scores.read(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-30], lambda c: b"", lambda c: b"PK" + c[:10], lambda c: c[:400] + c[500:]]
)
def test_damaged_gallery_is_an_error_with_its_cure(damage, tmp_path) -> None:
    scores().write(tmp_path)
    path = tmp_path / "gallery.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match="gallery.npz: expected arrays for the figures.*Evaluate the run again"):
        Scores.read(tmp_path)


def test_gallery_of_objects_is_not_unpickled(tmp_path) -> None:
    np.savez(tmp_path / "gallery.npz", samples=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RunError, match="gallery.npz: expected arrays"):
        Gallery.read(tmp_path)


@pytest.mark.parametrize(
    "likelihood, log_p", [("bernoulli", "probability"), ("logistic", "probability"), ("gaussian", "density")]
)
def test_probabilities_and_densities_are_told_apart(likelihood: str, log_p: str) -> None:
    data = tiny.rows(binarize="dynamic" if likelihood == "bernoulli" else "none")
    assert lb.evaluate(tiny.vae(likelihood=likelihood), data, "elbo", limit=5).data["log_p"] == log_p
