"""Recipes on every kind of data: the likelihood that fits, what is refused, and units that are the data's own."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import lowerbound as lb
from lowerbound.core.errors import ArgumentError, DataError, LowerboundError, ShapeError
from lowerbound.recipes import RECIPES, Recipe, train

SMALL = {
    "ImplicitVAE": {"hidden": [8], "critic_hidden": [8]},
    "VAE": {"hidden": [8]},
    "ConvVAE": {"width": 2, "features": 4},
    "HierarchicalVAE": {"above": [3], "hidden": [], "between": []},
}


def quick(name: str, data, **changes) -> Recipe:
    recipe = RECIPES[name]
    changes.setdefault("training", {"epochs": 1})
    return recipe.changed(**{"data": str(data), "latent_dim": 2, "model_options": SMALL[recipe.model], **changes})


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """One file or folder of each kind, of 40 rows."""
    folder, rng = tmp_path_factory.mktemp("sources"), np.random.default_rng(0)
    grey = rng.integers(0, 256, (40, 6, 6), dtype=np.uint8)
    np.save(folder / "float.npy", rng.normal(size=(40, 6, 6)))
    np.save(folder / "grey.npy", grey)
    np.save(folder / "binary.npy", (grey > 127).astype(np.uint8))
    np.save(folder / "bool.npy", grey > 127)
    np.save(folder / "unit.npy", grey / 255)
    np.save(folder / "colour.npy", rng.integers(0, 256, (40, 3, 6, 6), dtype=np.uint8))
    np.savez(folder / "labelled.npz", data=grey, labels=np.arange(40) % 3)
    lines = ["a,b,label", *(f"{a},{b},{'ant' if a < 0 else 'bee'}" for a, b in rng.normal(size=(40, 2)))]
    (folder / "table.csv").write_text("\n".join(lines))
    for i, picture in enumerate(grey):
        kind = folder / "pictures" / ("one" if i % 2 else "two")
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(kind / f"{i:02}.png")
    return folder


# data, the likelihood that fits, its levels, whether rows are pictures
KINDS = {
    "digits": ("bernoulli", None, True),
    "four-points": ("bernoulli", None, False),
    "float.npy": ("gaussian", None, True),
    "grey.npy": ("logistic", 256, True),
    "binary.npy": ("bernoulli", None, True),
    "bool.npy": ("bernoulli", None, True),
    "unit.npy": ("gaussian", None, True),
    "colour.npy": ("logistic", 256, True),
    "labelled.npz": ("logistic", 256, True),
    "table.csv": ("gaussian", None, False),
    "pictures": ("logistic", 256, True),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("data", KINDS)
def test_every_recipe_on_every_kind_of_data(recipe: str, data: str, sources, tmp_path) -> None:
    likelihood, levels, pictures = KINDS[data]
    source = data if data in lb.data.SOURCES else sources / data
    if recipe == "conv-vae" and not pictures:
        with pytest.raises(ShapeError, match="event_shape: .*Take the model VAE, or network='dense'"):
            train(quick(recipe, source), out=tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()
        return
    run = train(quick(recipe, source), out=tmp_path / "run", progress=False)
    arguments = run.config["objective"]["model"]["arguments"]
    assert arguments["likelihood"] == likelihood
    assert arguments["likelihood_options"].get("levels") == levels
    bound = next(iter((run.history[0].get("validation") or run.history[0]["train"]).values()))
    assert math.isfinite(bound)
    if likelihood != "gaussian" and run.config["objective"]["certified"]:
        assert bound < 0  # the probability of a discrete row is below one
    assert run.config["recipe"]["name"] == recipe


def test_grey_data_are_binarised_or_not_as_their_likelihood_asks(tmp_path) -> None:
    """digits: dynamic by default, not at all for a likelihood of grey values, and then with its 17 levels."""
    cases = [
        (None, None, "bernoulli", "dynamic", None),
        ("logistic", None, "logistic", "none", 17),
        ("gaussian", None, "gaussian", "none", None),
        (None, "none", "logistic", "none", 17),
        ("bernoulli", "static", "bernoulli", "static", None),
    ]
    for i, (likelihood, binarize, expected, kind, levels) in enumerate(cases):
        recipe = quick("vae", "digits", likelihood=likelihood, binarize=binarize)
        config = train(recipe, out=tmp_path / str(i), progress=False).config
        arguments = config["objective"]["model"]["arguments"]
        assert (arguments["likelihood"], config["data"]["binarize"]) == (expected, kind)
        assert arguments["likelihood_options"].get("levels") == levels


REFUSED = {
    "grey bernoulli": (
        {"data": "digits", "likelihood": "bernoulli", "binarize": "none"},
        DataError,
        r"digits for likelihood bernoulli: expected only 0 and 1, got values from 0 to 1. Binarise them",
    ),
    "real bernoulli": (
        {"data": "table.csv", "likelihood": "bernoulli"},
        DataError,
        "table for likelihood bernoulli: .*gaussian",
    ),
    "real logistic": (
        {"data": "float.npy", "likelihood": "logistic"},
        DataError,
        "float for likelihood logistic: expected 8-bit pixels.*uint8, or take --likelihood gaussian",
    ),
    "real binarised": ({"data": "table.csv", "binarize": "dynamic"}, DataError, r"values in \[0, 1\] to binarise"),
    "likelihood": ({"data": "digits", "likelihood": "student"}, ArgumentError, "likelihood: .*got 'student'"),
    "binarisation": ({"data": "digits", "binarize": "dynamix"}, ArgumentError, "binarize: .*Did you mean 'dynamic'"),
    "scale of a bernoulli": (
        {"data": "digits", "likelihood_options": {"scale": 1.0}},
        ArgumentError,
        "likelihood option: expected an option of bernoulli",
    ),
    "model": ({"model": "VEA"}, ArgumentError, "model: .*Did you mean 'VAE'"),
    "argument of the model": ({"model_options": {"width": 3}}, ArgumentError, "width: expected an argument of VAE"),
    "objective": ({"objective": "IWEA"}, ArgumentError, "objective: .*Did you mean 'IWAE'"),
    "argument of the objective": (
        {"objective_options": {"contrast": "prior"}},
        ArgumentError,
        "contrast: expected an argument of ELBO",
    ),
    "batch size": ({"training": {"batch_size": 0}}, ArgumentError, "batch_size: expected a positive integer, got 0"),
    "setting": ({"training": {"epoch": 1}}, ArgumentError, r"fit: expected known settings, got \['epoch'\]"),
    "validation": ({"validation": 1.0}, ArgumentError, "validation: expected a finite number"),
    "patience": (
        {"validation": 0, "training": {"epochs": 1, "patience": 1}},
        ArgumentError,
        "patience: .*validation rows",
    ),
    "latent size": ({"latent_dim": 0}, ArgumentError, "latent_dim: expected a positive integer"),
}


@pytest.mark.parametrize("changes, kind, message", REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_is_written(changes, kind, message, sources, tmp_path) -> None:
    data = changes.get("data", "four-points")
    changes = {**changes, "data": data if data in lb.data.SOURCES else str(sources / data)}
    with pytest.raises(kind, match=message):
        train(quick("vae", **changes), out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_changes_make_a_new_recipe_and_merge_mappings() -> None:
    recipe = RECIPES["iwae"]
    before = dataclasses.asdict(recipe)
    changed = recipe.changed(
        latent_dim=3, seed=None, training={"lr": 0.5, "clip": None}, objective_options={"particles": 7}, validation=0.0
    )
    assert changed.latent_dim == 3
    assert changed.seed == recipe.seed
    assert changed.training == {**recipe.training, "lr": 0.5}
    assert changed.objective_options == {"particles": 7, "gradient": "dreg"}
    assert changed.validation == 0.0
    assert dataclasses.asdict(recipe) == before


def test_steps_become_epochs(tmp_path) -> None:
    """four-points has 5,120 rows, 512 of which are held out: 144 batches of 32."""
    for steps, batches, epochs in ((1, 144, 1), (288, 144, 2), (289, 144, 3)):
        recipe = quick("vae", "four-points", steps=steps, training={"batch_size": 32})
        run = train(recipe, out=tmp_path / str(steps), progress=False)
        assert (len(run.history), run.history[-1]["step"]) == (epochs, epochs * batches)


@pytest.mark.parametrize("validation, rows", [(None, (90, 10)), (0.3, (70, 30)), (0.0, (100, None))])
def test_rows_that_are_held_out(validation, rows, tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(111, 3)))  # 11 are test rows
    config = train(quick("vae", tmp_path / "x.npy", validation=validation), out=tmp_path / "run", progress=False).config
    held_out = config["validation"]
    assert (config["data"]["n"], held_out and held_out["n"]) == rows


def test_few_rows_are_not_split_unless_told(tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(12, 3)))
    assert train(quick("vae", tmp_path / "x.npy"), out=tmp_path / "a", progress=False).config["validation"] is None
    config = train(quick("vae", tmp_path / "x.npy", validation=0.2), out=tmp_path / "b", progress=False).config
    assert config["validation"]["n"] == 2


def test_seed_of_the_data_may_be_another(tmp_path) -> None:
    runs = [
        train(quick("vae", "digits", seed=seed, data_seed=2), out=tmp_path / str(seed), progress=False)
        for seed in (0, 1)
    ]
    assert runs[0].config["data"] == runs[1].config["data"]
    assert runs[0].config["data"]["binarize_seed"] == runs[0].config["data"]["validation_split_seed"] == 2
    assert [run.config["training"]["seed"] for run in runs] == [0, 1]
    weights = [next(run.model.parameters()) for run in runs]
    assert not weights[0].equal(weights[1])


@pytest.mark.parametrize("seed", [0, 5])
def test_seed_of_a_recipe_is_the_seed_of_everything(seed: int, tmp_path) -> None:
    recipe = quick("vae", "digits", seed=seed)
    first = train(recipe, out=tmp_path / "a", progress=False)
    torch.rand(3)
    second = train(recipe, out=tmp_path / "b", progress=False)
    other = train(recipe.changed(seed=seed + 1), out=tmp_path / "c", progress=False)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])
    assert not torch.equal(*(run.model.generator.decoder.body[0].weight for run in (first, other)))
    for key in ("sha256", "split_seed", "binarize_seed", "validation_split_seed"):
        assert first.config["data"][key] == second.config["data"][key] != other.config["data"][key]
    assert first.config["training"]["seed"] == seed


def test_building_a_recipe_leaves_the_global_generator_alone(tmp_path) -> None:
    state = torch.get_rng_state()
    train(quick("conv-vae", "digits"), out=tmp_path / "run", progress=False)
    assert torch.equal(torch.get_rng_state(), state)


# --- Units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["shared", "per-dimension"])
def test_bound_of_a_badly_scaled_table_is_in_the_units_of_the_data(scale: str, tmp_path) -> None:
    """Columns of size 1e4, 1e-3 and 1, one constant far from zero: the bound lies between the closed-form fits of
    independent Gaussians and of one Gaussian with full covariance. Wrong units would be off by log 1e4 = 9.2."""
    rng = np.random.default_rng(0)
    factor, own = rng.normal(size=(700, 1)), rng.normal(size=(700, 3))
    standard = 0.8 * factor + 0.6 * own
    rows = standard * [1e4, 1e-3, 1.0] + [-3e5, 7.0, 0.0]
    np.save(tmp_path / "x.npy", rows)
    recipe = RECIPES["vae"].changed(
        data=str(tmp_path / "x.npy"), latent_dim=1, model_options={"hidden": [8]}, likelihood_options={"scale": scale},
        training={"epochs": 60, "lr": 0.01, "batch_size": 63}, validation=0.0,
    )  # fmt: skip
    run = train(recipe, out=tmp_path / "run", progress=False)
    _, test = lb.data.load(recipe.data, seed=0)
    seen = torch.cat(list(test.evaluation_batches(700))).double().numpy()
    data, _ = lb.data.load(recipe.data, seed=0)
    fitted = torch.cat(list(data.evaluation_batches(700))).double().numpy()
    independent = sum(stats.norm(fitted[:, i].mean(), fitted[:, i].std()).logpdf(seen[:, i]).mean() for i in range(3))
    # in units of the columns, whose sizes make the covariance singular in double precision; log|dx/du| brings it back
    centre, spread = fitted.mean(0), fitted.std(0)
    units = stats.multivariate_normal(np.zeros(3), np.cov(((fitted - centre) / spread).T))
    full = units.logpdf((seen - centre) / spread).mean() - np.log(spread).sum()
    found = lb.evaluate(run.model, test, "iwae-50").measures["iwae-50"]
    assert full - independent > 0.5
    assert independent + 0.2 < found["value"] < full + 0.1  # float32 rows at -3e5 are rounded by 1e-6 of their spread


def test_constant_columns_and_constant_pictures_train(tmp_path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4))
    rows[:, 2] = 5.0
    np.save(tmp_path / "table.npy", rows)
    np.save(tmp_path / "pictures.npy", np.full((60, 3, 3), 0.5))
    for name in ("table", "pictures"):
        recipe = quick("vae", tmp_path / f"{name}.npy", likelihood="gaussian")
        run = train(recipe, out=tmp_path / name, progress=False)
        assert math.isfinite(run.history[0]["train"]["elbo"])


def test_fixed_scale_is_in_units_of_the_data(tmp_path) -> None:
    rows = 100 * np.random.default_rng(0).normal(size=(60, 4))
    np.save(tmp_path / "x.npy", rows)
    recipe = quick("vae", tmp_path / "x.npy", likelihood_options={"scale": 7.0})
    run = train(recipe, out=tmp_path / "run", progress=False)
    with torch.no_grad():
        assert torch.allclose(run.model.decode(torch.zeros(2)).stddev, torch.tensor(7.0))


def test_out_folder_that_is_taken_is_refused_and_untouched(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LowerboundError, match="expected a new or empty folder, got other files"):
        train(quick("vae", "four-points"), out=tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
