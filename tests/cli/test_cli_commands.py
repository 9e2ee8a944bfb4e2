"""Every command, as it is typed: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
import tiny
from tiny import contents, difference, files

COMMANDS = [
    "train",
    "evaluate",
    "report",
    "compare",
    "sample",
    "encode",
    "reconstruct",
    "impute",
    "score",
    "profile",
    "explore",
    "recipes",
    "data",
]
SMALL = ["--hidden", "8", "--latent-dim", "2", "--epochs", "1", "--quiet"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of one epoch, made by the program in a process of its own."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    done = program("train", "vae", "--data", "digits", "--out", folder, *SMALL)
    assert done.returncode == 0, done.stderr
    return folder


def program(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    folders = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": folders, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "lowerbound", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


# --- Help and lists ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(command, lowerbound) -> None:
    code, out, err = lowerbound(*([command] if command else []), "--help")
    assert (code, err) == (0, "")
    assert "Usage:" in out
    if command is None:
        assert all(name in out for name in COMMANDS)


def test_help_of_train_names_every_option(lowerbound) -> None:
    _, out, _ = lowerbound("train", "--help")
    for option in (
        "data", "out", "epochs", "batch-size", "latent-dim", "likelihood", "binarize", "lr", "seed", "device",
        "precision", "compile", "resume", "particles", "kl-warmup", "clip", "patience", "validation", "schedule",
    ):  # fmt: skip
        assert f"--{option}" in out


def test_lists(lowerbound) -> None:
    code, out, err = lowerbound("recipes")
    assert (code, err) == (0, "")
    assert all(re.search(rf"^\W*{name}\s", out, re.MULTILINE) for name in ("vae", "conv-vae", "iwae", "flow-vae"))
    code, out, err = lowerbound("data")
    assert (code, err) == (0, "")
    assert all(name in out for name in ("digits", "four-points", "mnist", ".npy", ".csv", ".parquet"))


def test_profile(lowerbound) -> None:
    threads = torch.get_num_threads()
    command = ["profile", "vae", "--data", "digits", "--hidden", "9", "--batch-size", "16", "--steps", "2"]
    code, out, _ = lowerbound(*command, "--threads", threads, "--precision", "bfloat16")
    assert code == 0
    assert re.search(r"matrix products and convolutions, forward and backward +\d+\.\d\d +\d+%", out)
    assert "floor: its 14 products alone" in out
    assert f"computed in bfloat16, threads: {threads}; a step takes " in out


# --- From data to a report --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["vae", "conv-vae", "iwae"])
def test_train_says_how_it_went_and_what_comes_next(recipe: str, lowerbound, tmp_path) -> None:
    size = ["--hidden", "8"] if recipe != "conv-vae" else []
    data = "four-points" if recipe != "conv-vae" else "digits"
    code, out, err = lowerbound(
        "train", recipe, "--data", data, "--out", tmp_path / "run", *size, "--epochs", 1, "--quiet"
    )
    assert (code, err) == (0, "")
    run = lb.load(tmp_path / "run")
    name, bound = next(iter(run.history[-1]["validation"].items()))
    assert f"held-out rows after epoch 1: {name} {bound:.2f}, " in out
    assert f"run folder: {tmp_path / 'run'}\n" in out
    assert f"lowerbound evaluate {tmp_path / 'run'}; lowerbound report {tmp_path / 'run'}\n" in out
    assert run.config["command"][:4] == ["lowerbound", "train", recipe, "--data"]


def test_options_reach_the_run(lowerbound, tmp_path) -> None:
    code, _, err = lowerbound(
        "train", "iwae", "--data", "digits", "--out", tmp_path / "run", "--quiet", "--epochs", 2, "--batch-size", 64,
        "--latent-dim", 3, "--hidden", "9,7", "--activation", "elu", "--likelihood", "gaussian", "--scale", "0.25",
        "--posterior", "iaf", "--posterior-option", "transforms=2", "--posterior-option", "hidden=6,5",
        "--prior", "vamp", "--prior-option", "components=7", "--binarize", "threshold", "--particles", 4, "--lr", 0.002,
        "--optimizer", "sgd",
        "--optimizer-option", "momentum=0.5", "--optimizer-option", "nesterov=true", "--schedule", "onecycle",
        "--kl-warmup", 5, "--clip", 2, "--validation", 0.2, "--patience", 3, "--seed", 6, "--device", "cpu",
        "--precision", "bfloat16",
    )  # fmt: skip
    assert (code, err) == (0, "")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    training, objective = config["training"], config["objective"]
    assert {key: training[key] for key in training if key not in ("keep", "compile")} == {
        "epochs": 2, "batch_size": 64, "optimizer": "sgd", "lr": 0.002, "schedule": "onecycle", "kl_warmup": 5,
        "optimizer_options": {"momentum": 0.5, "nesterov": True}, "clip": 2.0, "patience": 3, "seed": 6,
        "precision": "bfloat16", "device": "cpu",
    }  # fmt: skip
    assert objective["model"]["arguments"] == {
        "event_shape": [8, 8], "latent_dim": 3, "hidden": [9, 7], "activation": "elu", "likelihood": "gaussian",
        "likelihood_options": {"scale": 0.25}, "posterior": "iaf", "prior": "vamp",
        "posterior_options": {"transforms": 2, "hidden": [6, 5]}, "prior_options": {"components": 7},
        "missing": False, "init": objective["model"]["arguments"]["init"],
    }  # fmt: skip
    assert (objective["class"], objective["particles"]) == ("IWAE", 4)
    assert (config["data"]["binarize"], config["data"]["binarize_seed"]) == ("threshold", 6)
    assert config["data"]["validation_fraction"] == 0.2


RELATIVES = {
    "beta": ("vae", ["--beta", 0.5], {"beta": 0.5}, "beta-elbo(0.5)", False),
    "renyi": ("iwae", ["--alpha", -0.5], {"alpha": -0.5, "gradient": "dreg"}, "renyi(-0.5)-5", False),
    "piwae": (
        "iwae",
        ["--particles", 6, "--groups", 3, "--partial", "--elbo-share", 0.1, "--gradient", "sgvb"],
        {"groups": 3, "partial": True, "elbo_share": 0.1, "gradient": "sgvb"},
        "ciwae(0.1)-6",
        True,
    ),
    "relaxed": (
        "sbn",
        ["--particles", 2, "--gradient", "relaxed", "--temperature", 0.7, "--straight-through"],
        {"gradient": "relaxed", "temperature": 0.7, "straight_through": True},
        "iwae-2",
        True,
    ),
}


@pytest.mark.parametrize("recipe, options, described, name, certified", RELATIVES.values(), ids=RELATIVES)
def test_relatives_of_a_bound(recipe, options, described, name, certified, lowerbound, tmp_path) -> None:
    run = tmp_path / "run"
    code, out, err = lowerbound("train", recipe, "--data", "four-points", "--out", run, *SMALL, *options)
    assert (code, err) == (0, "")
    objective = json.loads((run / "config.json").read_text())["objective"]
    assert {key: objective[key] for key in described} == described
    assert objective["certified"] is certified
    assert f"after epoch 1: {name} " in out
    assert (f"{name} is no certified bound of log p(x): evaluate to see what holds\n" in out) is not certified
    if not certified:
        code, _, err = lowerbound("report", run)
        assert (code, err) == (0, "")
        assert f"{name.upper()}, is no certified bound of log p(x)" in (run / "report.html").read_text()


def test_table_shows_values_with_standard_errors(run, lowerbound) -> None:
    code, out, err = lowerbound("evaluate", run, "--measure", "elbo", "--measure", "iwae-3", "--limit", 50, "--quiet")
    assert (code, err) == (0, "")
    measures = json.loads((run / "scores.json").read_text())["measures"]
    for name, measure in measures.items():
        line = next(line for line in out.splitlines() if re.match(rf"\s*{name}\s", line, re.IGNORECASE))
        value, error = re.search(r"(-[\d.]+) ± ([\d.]+)", line).groups()
        # Half a unit of the last printed digit, and a little for a tie that rounds either way.
        assert float(value) == pytest.approx(measure["value"], abs=0.6 * 10 ** -len(value.partition(".")[2]))
        assert float(error) == pytest.approx(measure["stderr"], rel=0.06)  # two digits are printed
        assert "50" in line
    assert "digits, test rows" in out


def test_evaluation_by_default(run, lowerbound) -> None:
    code, out, _ = lowerbound("evaluate", run, "--limit", 10, "--quiet")
    assert code == 0
    assert list(json.loads((run / "scores.json").read_text())["measures"]) == ["elbo", "iwae-100"]
    assert "IWAE-100" in out


def test_bracket_by_annealing(run, lowerbound) -> None:
    options = ["--limit", 5, "--chains", 3, "--temperatures", 2]
    code, out, err = lowerbound("evaluate", run, "--measure", "ais", "--measure", "bdmc", *options)
    assert code == 0
    assert re.search(r"ais: about \d+ seconds? for 5 rows, 3 chains each, 2 temperatures", err)
    assert "gap on simulated rows" in out
    measures = json.loads((run / "scores.json").read_text())["measures"]
    for name in ("ais", "bdmc"):
        assert {key: measures[name][key] for key in ("n", "chains", "temperatures")} == {
            "n": 5,
            "chains": 3,
            "temperatures": 2,
        }
    code, _, err = lowerbound("report", run)
    assert (code, err) == (0, "")
    assert "Bidirectional Monte Carlo" in (run / "report.html").read_text()


def test_progress_of_an_evaluation(run, lowerbound) -> None:
    _, out, err = lowerbound("evaluate", run, "--measure", "iwae-2", "--limit", 10)
    assert "10/10" in err
    assert "10/10" not in out


def test_report(run, lowerbound) -> None:
    lowerbound("evaluate", run, "--measure", "elbo", "--limit", 20, "--quiet")
    code, out, err = lowerbound("report", run)
    assert (code, err) == (0, "")
    assert out == f"report: {run / 'report.html'}\n"
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "figures").is_dir()


def test_a_table_of_counts_from_training_to_report(lowerbound, tmp_path) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2.0, np.exp(rng.normal(size=(90, 1)) + np.arange(4)))) * (
        rng.uniform(size=(90, 4)) > 0.3
    )
    lines = [",".join(str(int(count)) for count in row) for row in counts]
    lines[7] = ",3,,12"  # a table with gaps
    (tmp_path / "counts.csv").write_text("\n".join(["a,b,c,d", *lines]))
    out, options = (
        tmp_path / "run",
        ["--likelihood", "zero-inflated-negative-binomial", "--data", tmp_path / "counts.csv"],
    )
    code, said, err = lowerbound("train", "vae", "--out", out, "--missing", *options, *SMALL)
    assert (code, err) == (0, "")
    assert "elbo -" in said
    assert lowerbound("evaluate", out, "--measure", "elbo", "--measure", "iwae-5", "--quiet")[0] == 0
    scores = json.loads((out / "scores.json").read_text())
    assert scores["data"]["log_p"] == "probability"
    assert (
        -40 < scores["measures"]["iwae-5"]["value"] < -5
    )  # four counts of some 3 nats each: it started from their mean
    assert lowerbound("report", out)[0] == 0
    assert lowerbound("sample", out, "-n", 200, "--out", tmp_path / "drawn.npy")[0] == 0
    drawn = np.load(tmp_path / "drawn.npy")
    assert (drawn == np.round(drawn)).all()
    assert 0.15 < (drawn == 0).mean() < 0.7
    assert np.median(drawn[:, 3]) > np.median(drawn[:, 0])


def test_mixtures_of_logistics_for_pixels(lowerbound, tmp_path) -> None:
    for recipe, size in (("conv-vae", []), ("vae", ["--hidden", "8"])):
        out, options = tmp_path / recipe, ["--likelihood", "logistic-mixture", "--components", 3, "--data", "digits"]
        code, _, err = lowerbound("train", recipe, "--out", out, *options, *size, "--epochs", 1, "--quiet")
        assert (code, err) == (0, "")
        arguments = json.loads((out / "config.json").read_text())["objective"]["model"]["arguments"]
        assert arguments["likelihood_options"] == {"components": 3, "levels": 17}
        assert lb.load(out).model.decode(torch.zeros(5, arguments["latent_dim"])).sample().shape == (5, 8, 8)


@pytest.mark.filterwarnings("default::lowerbound.core.errors.EvaluationWarning")
def test_compare(run, lowerbound, tmp_path) -> None:
    other = tmp_path / "other"
    status, _, err = lowerbound(
        "train", "iwae", "--data", "digits", "--out", other, *SMALL, "--seed", 3, "--data-seed", 0
    )
    assert status == 0, err
    for folder, *measures in ((run, "elbo", "iwae-5"), (other, "elbo", "iwae-5", "iwae-7")):
        options = [word for name in measures for word in ("--measure", name)]
        assert lowerbound("evaluate", folder, *options, "--limit", 53, "--quiet")[0] == 0
    code, out, err = lowerbound("compare", run, other, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    scores = [lb.evaluation.Scores.read(folder) for folder in (run, other)]
    difference = scores[1].rows["iwae-5"] - scores[0].rows["iwae-5"]
    error = difference.std(ddof=1) / 53**0.5
    words = " ".join(out.split())
    shown = lb.report.tables.nats(difference.mean(), error)
    assert (shown if shown.startswith("-") else f"+{shown}") in words
    assert all(
        text in words for text in ("run", "other", "lower bound", "IWAE-7 is left out: only other has it.", "n = 53")
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"comparison.{end}" for end in ("md", "html", "png")
    }
    status, _, err = lowerbound("evaluate", other, "--measure", "elbo", "--limit", 50, "--quiet")
    assert status == 0
    assert err.startswith(f"warning: {other}: the new scores replace iwae-5, iwae-7, of other rows")
    code, out, err = lowerbound("compare", run, other)
    assert (code, out) == (2, "")
    assert "got number of rows 53 and 50. Evaluate both with one --limit" in err
    assert err.count("\n") == 1


def test_sample_encode_reconstruct(run, lowerbound, tmp_path) -> None:
    out = tmp_path / "out"
    assert lowerbound("sample", run, "-n", 5, "--seed", 2, "--out", out / "a.npy")[:2] == (
        0,
        f"5 rows: {out / 'a.npy'}\n",
    )
    assert lowerbound("sample", run, "-n", 5, "--seed", 2, "--mean", "--out", out / "m.npy")[0] == 0
    rows, means = np.load(out / "a.npy"), np.load(out / "m.npy")
    assert rows.shape == means.shape == (5, 8, 8)
    assert set(np.unique(rows)) <= {0, 1}
    assert len(np.unique(means)) > 100
    assert lowerbound("encode", run, "digits", "--out", out / "z.npz")[:2] == (
        0,
        f"359 rows of 2 latents: {out / 'z.npz'}\n",
    )
    with np.load(out / "z.npz") as archive:
        assert archive["data"].shape == (359, 2)
        np.testing.assert_array_equal(archive["labels"], lb.data.digits()[1].labels)
    assert lowerbound("reconstruct", run, "digits", "--out", out / "r.csv")[:2] == (0, f"359 rows: {out / 'r.csv'}\n")
    assert np.loadtxt(out / "r.csv", delimiter=",", skiprows=1).shape == (359, 64)
    assert lowerbound("sample", run, "-n", 5, "--seed", 2, "--out", out / "a.png")[:2] == (
        0,
        f"5 rows: {out / 'a.png'}\n",
    )
    with Image.open(out / "a.png") as sheet:
        first = np.asarray(sheet)[:64, :64, 0]
    np.testing.assert_array_equal(first, 255 * rows[0].repeat(8, axis=0).repeat(8, axis=1))
    assert lowerbound("reconstruct", run, "digits", "--out", out / "r.png")[0] == 0
    assert (out / "r.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("name", ["brackets [bold] [/x]", "x" * 120])
def test_paths_are_printed_as_they_are(name: str, run, lowerbound, tmp_path) -> None:
    """Square brackets are no markup, and no path is broken into lines."""
    folder = tmp_path / name
    shutil.move(run, folder)
    code, out, _ = lowerbound("sample", folder, "-n", 1, "--out", folder / "s.npy")
    assert (code, out) == (0, f"1 rows: {folder / 's.npy'}\n")
    code, out, _ = lowerbound("report", folder)
    assert (code, out) == (0, f"report: {folder / 'report.html'}\n")
    code, _, err = lowerbound("train", "vae", "--out", folder)
    assert code == 2
    assert err.startswith(f"error: {folder}: expected a new or empty folder")


# --- Resume -----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from lowerbound.cli import main
from lowerbound.training.checkpoint import Checkpoint
save = Checkpoint.save
Checkpoint.due = lambda self: True  # a checkpoint after every step
def save_and_die(self, state):
    save(self, state)
    if state.step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoint.save = save_and_die
main()
"""


def test_killed_run_goes_on_with_resume(lowerbound, tmp_path) -> None:
    def arguments(out: Path) -> list[str]:
        return ["train", "vae", "--data", "four-points", "--hidden", "8", "--latent-dim", "2", "--epochs", "3",
                "--batch-size", "100", "--schedule", "onecycle", "--quiet", "--out", str(out)]  # fmt: skip

    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments(tmp_path / "a")], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    code, _, err = lowerbound(*arguments(tmp_path / "a"))
    assert code == 2
    assert "Pass resume=True (--resume) to go on" in err
    assert lowerbound(*arguments(tmp_path / "a"), "--resume")[0] == 0
    assert lowerbound(*arguments(tmp_path / "b"))[0] == 0
    assert not difference(contents(tmp_path / "a"), contents(tmp_path / "b"))
    before = {name: content for name, content in files(tmp_path / "a").items() if name != "config.json"}
    assert lowerbound(*arguments(tmp_path / "a"), "--resume")[0] == 0
    assert {name: content for name, content in files(tmp_path / "a").items() if name != "config.json"} == before


def test_interrupted_run_says_how_to_go_on(monkeypatch, lowerbound, tmp_path) -> None:
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lowerbound.recipes.fit", interrupt)
    code, out, err = lowerbound("train", "vae", "--data", "four-points", "--out", tmp_path / "run", *SMALL)
    assert (code, out) == (130, "")
    assert err == "interrupted; training goes on with --resume, evaluation when asked again\n"


# --- As a process -----------------------------------------------------------------------------------------------------


def test_mistake_is_one_line_on_standard_error_and_status_2(tmp_path) -> None:
    done = program("train", "vea", "--out", tmp_path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: recipe: expected one of the known names, got 'vea'. Did you mean 'vae'? "
        "Known: avb, avb-ac, conv-vae, flow-vae, hvae, iwae, sbn, vae.\n"
    )
    assert not (tmp_path / "run").exists()


def test_the_fixture_run_was_made_by_the_program(trained) -> None:
    assert lb.load(trained).config["command"][:3] == ["lowerbound", "train", "vae"]
    assert tiny.contents(trained)["state"]["epoch"] == 1


def test_another_optimizer_leaves_the_options_of_the_recipes_own(lowerbound, tmp_path) -> None:
    """conv-vae has options of RMSprop, which Adam does not take."""
    command = ["train", "conv-vae", "--data", "digits", "--epochs", "1", "--optimizer", "adam", "--quiet"]
    status, _, error = lowerbound(*command, "--out", tmp_path / "run")
    assert status == 0, error
    training = json.loads((tmp_path / "run/config.json").read_text())["training"]
    assert training["optimizer"] == "adam"
    assert not training["optimizer_options"]
