"""What starts from a run folder: the same function, the same rows, and files that can be read again."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
import tiny
from exact import linear_gaussian
from lowerbound import runs
from lowerbound.core.errors import ArgumentError, DataError, EvaluationWarning, RunError, ShapeError
from lowerbound.core.random import seeded
from lowerbound.recipes import RECIPES, train
from tiny import Rows, difference, files


def quick(folder: Path, name: str = "vae", data: str = "digits", **changes):
    options = {"VAE": {"hidden": [8]}, "ConvVAE": {"width": 2, "features": 4}}[RECIPES[name].model]
    changes = {"latent_dim": 2, "training": {"epochs": 1}, **changes}
    recipe = RECIPES[name].changed(
        data=data, **{**changes, "model_options": {**options, **changes.get("model_options", {})}}
    )
    return train(recipe, out=folder, progress=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    quick(folder)
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


# --- load -------------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "bernoulli": {},
    "full covariance": {"model_options": {"posterior": "full", "activation": "elu", "init": "he"}, "latent_dim": 3},
    "logistic": {"likelihood": "logistic"},
    "gaussian per dimension": {"likelihood": "gaussian", "likelihood_options": {"scale": "per-dimension"}},
    "gaussian fixed": {"likelihood": "gaussian", "likelihood_options": {"scale": 0.3}},
    "conv": {"name": "conv-vae"},
    "iwae": {"name": "iwae"},
    "table": {"data": "table"},
}


@pytest.mark.parametrize("changes", FUNCTIONS.values(), ids=FUNCTIONS)
def test_loaded_model_is_the_same_function(changes: dict, tmp_path) -> None:
    if changes.get("data") == "table":  # centres and spreads must come back as well
        np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 3)) * [1e3, 1e-3, 1] + 5)
        changes = {"data": str(tmp_path / "x.npy")}
    kept = quick(tmp_path / "run", **changes)
    loaded = runs.load(tmp_path / "run")
    x = next(iter(runs.load_data(loaded).evaluation_batches(9)))
    for model in (kept.model, loaded.model):
        assert not model.training
    with torch.no_grad():
        for q, p in [(kept.model.encode(x), loaded.model.encode(x))]:
            assert torch.equal(q.mean, p.mean)
            assert torch.equal(q.variance, p.variance)
        z = torch.randn(4, kept.model.latent_dim)
        assert torch.equal(kept.model.decode(z).log_prob(x[:4]), loaded.model.decode(z).log_prob(x[:4]))
    assert loaded.history == kept.history
    assert loaded.config == json.loads(json.dumps({"format": 1, **kept.config}))
    scores = [lb.evaluate(model, runs.load_data(loaded), "iwae-5").measures for model in (kept.model, loaded.model)]
    assert scores[0] == scores[1]


def test_model_of_ones_own_is_loaded_into(tmp_path) -> None:
    def build(seed: int) -> lb.models.LatentVariableModel:
        case = linear_gaussian(tiny.WIDTH, 2, seed)
        return lb.models.LatentVariableModel(case.generator(), case.posterior()).float()

    data = Rows(torch.randn(40, tiny.WIDTH))
    kept = tiny.fit(lb.objectives.ELBO(build(0)), data, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"config.json: expected a model of the library.*lb.load\(run, model=...\)"):
        lb.load(tmp_path / "run")
    loaded = lb.load(tmp_path / "run", model=build(7))
    assert not difference(loaded.model.state_dict(), kept.model.state_dict())
    assert loaded.history == kept.history
    assert not loaded.model.training
    with pytest.raises(RunError, match="model.safetensors: expected weights of VAE"):
        lb.load(tmp_path / "run", model=tiny.vae())
    with pytest.raises(DataError, match=r"data of the run: .*Evaluate it in Python: lb.evaluate\(run.model, data\)"):
        runs.load_data(loaded)


def test_model_from_another_version_is_an_error(run) -> None:
    config = json.loads((run / "config.json").read_text())
    for change, message in (
        ({"class": "FutureVAE"}, "expected one of ConvVAE, HierarchicalVAE, ImplicitVAE, VAE, got FutureVAE"),
        ({"arguments": {"depth": 3}}, "expected arguments of VAE, got .*depth"),
        ({"arguments": {"event_shape": [8, 8], "latent_dim": -2}}, "expected arguments of VAE, got latent_dim"),
    ):
        objective = {**config["objective"], "model": {**config["objective"]["model"], **change}}
        (run / "config.json").write_text(json.dumps({**config, "objective": objective}))
        with pytest.raises(RunError, match=message):
            lb.load(run)


# --- load_data --------------------------------------------------------------------------------------------------------

DATA = {
    "digits, dynamic": {},
    "digits, static": {"binarize": "static", "seed": 3},
    "digits, grey": {"likelihood": "logistic", "seed": 2},
    "four-points": {"data": "four-points"},
    "file": {"data": "x.npy", "seed": 4, "validation": 0.3},
}


@pytest.mark.parametrize("changes", DATA.values(), ids=DATA)
def test_rows_come_back_as_they_were(changes: dict, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, 3)))
    kept = quick(tmp_path / "run", **changes)
    loaded = runs.load(tmp_path / "run")
    train_rows, validation = (runs.load_data(loaded, split) for split in ("train", "validation"))
    assert train_rows.describe() == kept.config["data"]
    assert validation.describe() == kept.config["validation"]
    test = runs.load_data(loaded)
    assert test.split == "test"
    recipe = kept.config["recipe"]
    _, expected = lb.data.load(recipe["data"], binarize=kept.config["data"]["binarize"], seed=recipe["seed"])
    assert test.describe()["sha256"] == expected.describe()["sha256"]


def test_file_that_changed_is_an_error(tmp_path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3))
    np.save(tmp_path / "x.npy", rows)
    quick(tmp_path / "run", data=str(tmp_path / "x.npy"))
    loaded = runs.load(tmp_path / "run")
    rows[:, 0] += 1e-3
    np.save(tmp_path / "x.npy", rows)
    for split in ("train", "test", "validation"):
        with pytest.raises(DataError, match="x.npy: expected the rows that the run was trained on, got others"):
            runs.load_data(loaded, split)
    (tmp_path / "x.npy").unlink()
    with pytest.raises(DataError, match="got nothing at .*x.npy. Go to the folder"):
        runs.load_data(loaded)


def test_split_that_is_not_there_is_an_error(tmp_path) -> None:
    quick(tmp_path / "run", data="four-points", validation=0.0)
    loaded = runs.load(tmp_path / "run")
    with pytest.raises(DataError, match="split: expected a split of the run.*Choose the test split"):
        runs.load_data(loaded, "validation")
    with pytest.raises(ArgumentError, match="split: .*Did you mean 'train'"):
        runs.load_data(loaded, "trian")


def test_other_data_take_the_form_of_the_run(run, tmp_path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "grey.npy", grey)
    with pytest.warns(EvaluationWarning, match="grey.npy: there are numbers above 16, .*: taken as 8-bit pixels"):
        rows = runs.load_data(runs.load(run), source=str(tmp_path / "grey.npy"))
    assert len(rows) == 30
    assert rows.binary


def levels_of(folder: Path, largest: int, high: int, **changes) -> tuple[torch.Tensor, np.ndarray]:
    """Train on whole numbers up to `largest`; return what becomes of a row of others up to `high`, and that row."""
    numbers = np.random.default_rng(0).integers(0, largest + 1, (40, 3), dtype=np.uint8)
    numbers[::2] = [0, largest, largest]
    np.save(folder / "own.npy", numbers)
    quick(folder / "run", data=str(folder / "own.npy"), validation=0.0, binarize="none", likelihood="gaussian")
    row = np.array([[0, 1, high]], dtype=np.uint8)
    np.save(folder / "other.npy", row)
    return runs.load_data(runs.load(folder / "run"), source=str(folder / "other.npy")).rows([0])[0], row[0]


@pytest.mark.parametrize("largest, high, levels", [(1, 1, 2), (255, 1, 256), (255, 200, 256), (1, 200, 256)])
def test_other_whole_numbers_have_the_levels_of_the_run(largest, high, levels, tmp_path) -> None:
    said = pytest.warns(EvaluationWarning, match="other.npy: there are numbers above 1, the last level of the run")
    with said if levels - 1 > largest else contextlib.nullcontext():
        rows, numbers = levels_of(tmp_path, largest, high)
    torch.testing.assert_close(rows, torch.from_numpy(numbers / np.float32(levels - 1)))


def test_the_levels_of_built_in_data_hold_too(run, tmp_path) -> None:
    _, test = lb.data.digits(binarize="none")
    np.save(tmp_path / "own.npy", (16 * test.rows(range(9))).round().numpy().astype(np.uint8))
    rows = runs.load_data(runs.load(run), source=str(tmp_path / "own.npy")).with_binarize("none")
    torch.testing.assert_close(rows.rows(range(9)), test.rows(range(9)))


def test_numbers_between_the_levels_of_the_run_and_those_of_pixels_are_refused(tmp_path) -> None:
    match = r"other\.npy: expected whole numbers from 0 to 1, or 8-bit pixels, got numbers up to 2\. Bring them to"
    with pytest.raises(DataError, match=match):
        levels_of(tmp_path, 1, 2)


def test_labels_of_a_run_are_not_those_of_other_data(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    values, names = np.random.default_rng(0).normal(size=(2, 30, 3)), np.arange(30)
    np.save("own.npy", values[0])
    np.save("names.npy", names)
    np.save("other.npy", values[1])
    np.savez("named.npz", data=values[1], **{"names.npy": names + 7})
    rows, _ = lb.data.load("own.npy", labels="names.npy")
    model = lb.models.VAE(event_shape=(3,), latent_dim=1, hidden=(4,), likelihood="gaussian")
    lb.fit(lb.objectives.ELBO(model), rows, epochs=1, out="run", progress=False)
    assert runs.encode("run", "other.npy")[1] is None
    assert runs.encode("run", "named.npz")[1].tolist() == list(range(7, 37))


def test_tables_with_and_without_the_labels_of_the_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{a:.4f},{b:.4f},{k}" for k, (a, b) in enumerate(np.random.default_rng(0).normal(size=(30, 2)))]
    Path("own.csv").write_text("\n".join(["a,b,y", *lines]) + "\n")
    Path("other.csv").write_text("\n".join(["a,b", *(line.rpartition(",")[0] for line in lines)]) + "\n")
    rows, _ = lb.data.load("own.csv", labels="y")
    model = lb.models.VAE(event_shape=(2,), latent_dim=1, hidden=(4,), likelihood="gaussian")
    lb.fit(lb.objectives.ELBO(model), rows, epochs=1, out="run", progress=False)
    labelled, plain = runs.encode("run", "own.csv"), runs.encode("run", "other.csv")
    assert labelled[1].tolist() == list(range(30))
    assert plain[1] is None
    assert torch.equal(plain[0], labelled[0])


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A run on a table of a number, a count and a text, with gaps; 120 rows are two batches of an imputation."""
    random = np.random.default_rng(0)
    lines = [f"{a:.3f},{random.integers(9)},{random.choice(['x', 'y', 'z', ''])}" for a in random.normal(size=120)]
    lines[::7] = [f",,{'xyz'[i % 3]}" for i in range(len(lines[::7]))]
    (tmp_path / "t.csv").write_text("\n".join(["size,count,kind", *lines]) + "\n")
    changes = {"missing": True, "likelihood": "mixed", "validation": 0.0}
    quick(tmp_path / "run", data=str(tmp_path / "t.csv"), binarize="none", **changes)
    return tmp_path


def test_gaps_of_levels_are_filled_by_completions_that_are_not_kept(mixed, monkeypatch) -> None:
    kept, filled = [], runs._filled
    monkeypatch.setattr(runs, "_filled", lambda *a, **o: kept.append(filled(*a, **o)) or kept[-1])
    found = runs.impute(mixed / "run", str(mixed / "t.csv"), particles=20, seed=3)
    assert [part.draws.untyped_storage().nbytes() for part in kept] == [0, 0]
    loaded = runs.load(mixed / "run")
    with seeded(3, "impute"):
        batches = runs.load_data(loaded, source=str(mixed / "t.csv")).evaluation_batches(100)
        parts = [lb.evaluation.impute(loaded.model, x, particles=20, draws=200) for x in batches]
    draws = torch.cat([part.draws for part in parts], 1)
    assert torch.equal(found.mean[:, 0], torch.cat([part.mean for part in parts])[:, 0])
    assert torch.equal(found.mean[:, 1], draws[..., 1].median(0).values)
    assert torch.equal(found.mean[:, 2], draws[..., 2].mode(0).values)
    assert torch.equal(runs.impute(mixed / "run", str(mixed / "t.csv"), particles=20, draws=7, seed=3).draws, draws[:7])


@pytest.mark.parametrize("draws", [-1, 2.5, True, "3"])
def test_draws_are_a_number_of_completions_in_mixed_tables_too(mixed, draws) -> None:
    with pytest.raises(ArgumentError, match=f"draws: expected an integer of 0 or more, got {draws}. Pass draws=0"):
        runs.impute(mixed / "run", str(mixed / "t.csv"), particles=20, draws=draws)


def test_a_split_is_of_the_runs_own_data(run) -> None:
    with pytest.raises(ArgumentError, match="split: expected none beside other data, got 'train'. Leave one of them"):
        runs.evaluate_run(run, ["elbo"], source="digits", split="train")


def test_a_table_whose_labels_have_a_name_of_their_own_is_found_again(tmp_path, monkeypatch) -> None:
    random = np.random.default_rng(0)
    lines = [f"{a:.4f},{b:.4f},{k}" for a, b, k in zip(*random.normal(size=(2, 40)), range(40), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,target", *lines]) + "\n")
    monkeypatch.chdir(tmp_path)
    train_rows, _ = lb.data.load("t.csv", labels="target")
    model = lb.models.VAE(event_shape=(2,), latent_dim=1, hidden=(4,), likelihood="gaussian")
    lb.fit(lb.objectives.ELBO(model), train_rows, epochs=1, out="run", progress=False)
    assert runs.evaluate_run("run", ["elbo"]).measures["elbo"]["n"] == 4
    assert runs.encode("run", "t.csv")[1].sort().values.tolist() == list(range(40))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"got nothing at t\.csv\. Go to the folder from which it was trained"):
        runs.evaluate_run(tmp_path / "run", ["elbo"])


# --- evaluate_run -----------------------------------------------------------------------------------------------------


def test_scores_are_written_and_those_on_the_same_rows_and_weights_stay(run) -> None:
    first = runs.evaluate_run(run, ["elbo", "iwae-3"], limit=20)
    second = runs.evaluate_run(run, ["iwae-3", "iwae-5"], limit=20)
    assert second.measures == {**first.measures, "iwae-5": second.measures["iwae-5"]}
    assert json.loads((run / "scores.json").read_text())["measures"] == second.measures
    kept = lb.evaluation.Scores.read(run).rows
    assert list(kept) == list(second.measures)
    np.testing.assert_array_equal(kept["elbo"], first.rows["elbo"])
    with pytest.warns(EvaluationWarning, match="the new scores replace iwae-3, iwae-5, of other rows, another seed"):
        other_rows = runs.evaluate_run(run, ["elbo"], limit=21)
    assert list(other_rows.measures) == ["elbo"]
    with pytest.warns(EvaluationWarning, match="the new scores replace elbo"):
        other_seed = runs.evaluate_run(run, ["iwae-2"], limit=21, seed=1)
    assert list(other_seed.measures) == ["iwae-2"]


def test_weights_that_change_under_an_evaluation_are_seen(run, monkeypatch) -> None:
    evaluate = lb.evaluate

    def trains_on(*arguments, **options):
        scores = evaluate(*arguments, **options)
        path = run / "model.safetensors"
        path.write_bytes(path.read_bytes() + b" ")
        return scores

    monkeypatch.setattr(runs.evaluation, "evaluate", trains_on)
    with pytest.raises(RunError, match="expected the same weights from beginning to end, got others, of a training"):
        runs.evaluate_run(run, ["elbo"], limit=9)
    assert not (run / "scores.json").exists()


def test_what_another_measure_has_done_stays(run) -> None:
    left = run / "evaluation" / "ais.safetensors"
    left.parent.mkdir()
    left.write_bytes(b"half of it")
    runs.evaluate_run(run, ["elbo"], limit=9)
    assert [path.name for path in left.parent.iterdir()] == ["ais.safetensors"]


def test_many_rows_are_drawn_in_parts(run) -> None:
    rows, means = runs.sample(run, 2300)
    assert rows.shape == means.shape == (2300, 8, 8)
    assert len(means.unique(dim=0)) == 2300


def test_labels_of_a_table_are_written_whole(tmp_path) -> None:
    label = 1_234_567_890_123
    runs.write_rows(tmp_path / "t.csv", {"data": torch.ones(1, 2), "labels": torch.tensor([label])})
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == f"1,1,{label}"


def test_scores_of_earlier_weights_do_not_stay(tmp_path) -> None:
    """The run goes on after its evaluation: what was measured before is no score of this model."""
    options = {"data": "four-points", "training": {"epochs": 1, "schedule": "constant"}}
    quick(tmp_path / "run", **options)
    runs.evaluate_run(tmp_path / "run", ["elbo", "iwae-3"])
    recipe = RECIPES["vae"].changed(
        data="four-points", latent_dim=2, model_options={"hidden": [8]}, training={"epochs": 3, "schedule": "constant"}
    )
    train(recipe, out=tmp_path / "run", progress=False, resume=True)
    with pytest.warns(EvaluationWarning, match="earlier weights"):
        assert list(runs.evaluate_run(tmp_path / "run", ["iwae-5"]).measures) == ["iwae-5"]


def test_damaged_scores_are_replaced(run) -> None:
    for name in ("scores.json", "rows.npz", "gallery.npz"):
        runs.evaluate_run(run, ["elbo"], limit=9)
        (run / name).write_text("{")
        assert list(runs.evaluate_run(run, ["iwae-2"], limit=9).measures) == ["iwae-2"]
        assert list(lb.evaluation.Scores.read(run).measures) == ["iwae-2"]


def test_evaluation_says_what_a_direct_one_says(run) -> None:
    loaded = runs.load(run)
    for split in ("test", "train", "validation"):
        direct = lb.evaluate(loaded.model, runs.load_data(loaded, split), ["elbo", "iwae-3"], limit=30)
        stored = runs.evaluate_run(run, ["elbo", "iwae-3"], split=split, limit=30)
        assert stored.measures == direct.measures
        assert stored.data["split"] == split


@pytest.mark.parametrize("call", [runs.evaluate_run, lambda run, **o: runs.sample(run, 3, **o),
                                  lambda run, **o: runs.encode(run, "digits", **o)])  # fmt: skip
def test_device_that_is_not_there_is_an_error(call, run) -> None:
    before = files(run)
    with pytest.raises(
        ArgumentError, match="device: expected a device of this machine, got 'cuda:99'. Pass device='cpu'"
    ):
        call(run, device="cuda:99")
    assert files(run) == before


# --- encode, reconstruct, sample --------------------------------------------------------------------------------------


def test_encode_and_reconstruct_are_the_models(run) -> None:
    loaded = runs.load(run)
    data = runs.load_data(loaded, source="digits")
    x = torch.cat(list(data.evaluation_batches(1000)))
    latents, labels = runs.encode(run, "digits")
    inputs, outputs = runs.reconstruct(run, "digits")
    with torch.no_grad():
        torch.testing.assert_close(latents, loaded.model.encode(x).mean)
        torch.testing.assert_close(outputs, loaded.model.reconstruct(x))
    assert torch.equal(inputs, x)
    assert torch.equal(labels, data.labels)
    assert not latents.requires_grad


@pytest.mark.parametrize("call", [runs.encode, runs.reconstruct])
def test_rows_of_another_shape_are_refused(call, run, tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 4, 4), dtype=np.uint8))
    with pytest.raises(ShapeError, match=r"x: expected shape \(B, 8, 8\), got \(5, 4, 4\)"):
        call(run, str(tmp_path / "x.npy"))


def test_samples_depend_on_the_seed_alone(run) -> None:
    rows, means = runs.sample(run, 7, seed=3)
    torch.rand(5)
    state = torch.get_rng_state()
    again = runs.sample(run, 7, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(rows, again[0])
    assert torch.equal(means, again[1])
    assert not torch.equal(means, runs.sample(run, 7, seed=4)[1])
    assert rows.shape == means.shape == (7, 8, 8)
    assert set(rows.unique().tolist()) <= {0.0, 1.0}
    assert 0 < float(means.min()) < float(means.max()) < 1


@pytest.mark.parametrize("n", [0, -1])
def test_number_of_samples_is_positive(n: int, run) -> None:
    with pytest.raises(ArgumentError, match="n: expected a positive integer"):
        runs.sample(run, n)


# --- write_rows -------------------------------------------------------------------------------------------------------


def test_rows_can_be_read_again(tmp_path) -> None:
    rows, labels = torch.randn(6, 2, 3), torch.tensor([3, 1, 4, 1, 5, 9])
    arrays = {"data": rows, "labels": labels}
    for name in ("x.npy", "x.npz", "x.csv"):
        runs.write_rows(tmp_path / "deep" / name, arrays)
        read = lb.data.load_all(str(tmp_path / "deep" / name))
        np.testing.assert_array_equal(read.rows(range(6)).reshape(6, -1), rows.reshape(6, -1))
        if name != "x.npy":
            assert torch.equal(read.labels, labels)
    assert (tmp_path / "deep" / "x.csv").read_text().splitlines()[0] == "v0,v1,v2,v3,v4,v5,label"
    assert not [name for name in files(tmp_path) if name.endswith(".part")]


@pytest.mark.parametrize("name", ["x.txt", "x", "x.parquet", "x.npy.gz"])
def test_another_ending_is_refused(name: str, tmp_path) -> None:
    with pytest.raises(ArgumentError, match=r"out: expected one of the known names.*Known: .csv, .npy, .npz"):
        runs.write_rows(tmp_path / name, {"data": torch.zeros(2, 2)})
    assert not list(tmp_path.iterdir())
