"""The run folder: whole or as it was before, taken once, and what is missing or damaged is named with its cure."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import lowerbound as lb
import tiny
from lowerbound.core.errors import LowerboundError, RunError
from lowerbound.core.files import read_tree, write_tree
from lowerbound.training.checkpoint import Checkpoint, read_weights
from tiny import contents, difference, files

LAST = "state/last.safetensors"


def test_what_a_run_folder_holds(tmp_path) -> None:
    run = tiny.fit(out=tmp_path / "run", validation=tiny.rows(20, seed=1), config={"command": ["a", "b"]})
    assert set(files(tmp_path / "run")) == {"config.json", "metrics.jsonl", "model.safetensors", LAST}
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config == json.loads(json.dumps({"format": 1, **run.config}))
    assert config["command"] == ["a", "b"]
    assert config["training"]["batch_size"] == 8
    assert config["data"]["sha256"] == tiny.rows().describe()["sha256"]
    assert config["versions"]["torch"] == torch.__version__
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.history
    record = run.history[1]
    assert (record["epoch"], record["step"], record["lr"], record["kl_weight"]) == (2, 12, 1e-3, 1.0)
    for part in ("train", "validation"):
        terms = record[part]
        assert terms["elbo"] == pytest.approx(terms["reconstruction"] - terms["kl"], abs=1e-5)


def test_time_between_checkpoints(tmp_path, monkeypatch) -> None:
    saved, save = [], Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", lambda self, state: (saved.append(state.step), save(self, state)))
    tiny.fit(out=tmp_path / "a", checkpoint_seconds=1e9)
    assert saved == [12]  # the end of the run
    saved.clear()
    tiny.fit(out=tmp_path / "b", checkpoint_seconds=0)
    assert saved == list(range(1, 13))


# --- A save that fails ------------------------------------------------------------------------------------------------


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class OwnError(Exception):
    pass


def broken(*_):
    raise OwnError("a mistake")


FAILURES = {
    "writing": (Path, "write_bytes", full_disk, RunError, "No space left on device. Free space"),
    "syncing": (os, "fsync", full_disk, RunError, "No space left on device. Free space"),
    "renaming": (Path, "replace", full_disk, RunError, "No space left on device. Free space"),
    "an exception in between": (Path, "replace", broken, OwnError, "a mistake"),
}


@pytest.mark.parametrize("call", [1, 2, 3])  # model, metrics, state
@pytest.mark.parametrize("place, name, failure, kind, message", FAILURES.values(), ids=FAILURES)
def test_save_that_fails_leaves_the_checkpoint_before(place, name, failure, kind, message, call, tmp_path, monkeypatch):
    run, options = tmp_path / "run", {"checkpoint_seconds": 0, "validation": tiny.rows(20, seed=1)}
    calls, original = 0, getattr(place, name)

    def fail_in_time(*args):
        nonlocal calls
        calls += 1
        return failure(*args) if calls == 1 + 3 * 7 + call else original(*args)  # config.json, seven saves, then

    monkeypatch.setattr(place, name, fail_in_time)
    with pytest.raises(kind, match=message):
        tiny.fit(out=run, **options)
    monkeypatch.undo()
    assert read_tree(run / LAST)["step"] == 7
    assert not [name for name in files(run) if name.endswith(".part")]
    read_weights(run, tiny.vae())
    tiny.fit(out=run, resume=True, **options)
    tiny.fit(out=tmp_path / "whole", **options)
    assert not difference(contents(run), contents(tmp_path / "whole"))


def test_folder_that_cannot_be_made_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="file"):
            tiny.fit(out=out)
    assert files(tmp_path) == {"file": b"mine"}


# --- A folder that is taken -------------------------------------------------------------------------------------------


def test_folder_of_another_run_is_refused_and_untouched(tmp_path) -> None:
    tiny.fit(out=tmp_path / "run")
    before = files(tmp_path / "run")
    with pytest.raises(
        RunError, match=r"run: expected a new or empty folder, got a run. Pass resume=True \(--resume\)"
    ):
        tiny.fit(out=tmp_path / "run")
    assert files(tmp_path / "run") == before


@pytest.mark.parametrize("resume", [False, True])
def test_folder_of_other_files_is_refused_and_untouched(resume: bool, tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="expected a new or empty folder, got other files. Choose a new folder"):
        tiny.fit(out=tmp_path, resume=resume)
    assert files(tmp_path) == {"thesis.tex": b"years of work"}


def test_empty_folder_is_taken(tmp_path) -> None:
    tiny.fit(out=tmp_path)
    assert (tmp_path / "config.json").exists()


# --- A folder that is damaged -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    tiny.fit(out=folder, checkpoint_seconds=0)
    return folder


def newer(file: str):
    """Return a function that raises the format of a file."""

    def change(run: Path) -> None:
        if file.endswith(".json"):
            config = json.loads((run / file).read_text())
            (run / file).write_text(json.dumps({**config, "format": 99}))
        else:
            write_tree(run / file, {**read_tree(run / file), "format": 99})

    return change


def cut(file: str):
    def change(run: Path) -> None:
        content = (run / file).read_bytes()
        (run / file).write_bytes(content[:-20])

    return change


def swapped(file: str, other: str):
    return lambda run: shutil.copy(run / other, run / file)


def of_another_model(file: str):
    def change(run: Path) -> None:
        tiny.fit(tiny.objective(model=tiny.vae(latent_dim=3)), out=run / "other")
        shutil.copy(run / "other" / file, run / file)
        shutil.rmtree(run / "other")

    return change


def content(file: str, text: str):
    return lambda run: (run / file).write_text(text)


CONFIG, MODEL, METRICS = "config.json", "model.safetensors", "metrics.jsonl"

# damage, what lb.load says, what resume says; None where it does not matter to them
DAMAGES = {
    "config missing": (
        lambda run: (run / CONFIG).unlink(),
        r"config.json: .*got no such file. Check the path",
        "other files",
    ),
    "config empty": (content(CONFIG, ""), "config.json: expected a JSON document.*damaged", "config.json.*damaged"),
    "config truncated": (cut(CONFIG), "config.json: expected a JSON document.*restore", "config.json.*restore"),
    "config foreign": (
        content(CONFIG, '{"name": "x"}'),
        "config.json: .*run format 1, got None",
        "config.json.*got None",
    ),
    "config a list": (content(CONFIG, "[1, 2]"), "config.json: .*run format 1, got list", "config.json.*got list"),
    "config of another version": (
        newer(CONFIG),
        "config.json: .*format 1, got 99. Use the version",
        "config.json.*got 99",
    ),
    "model missing": (lambda run: (run / MODEL).unlink(), "model.safetensors: .*got no such file", None),
    "model truncated": (cut(MODEL), "model.safetensors: expected a checkpoint.*damaged", None),
    "model foreign": (content(MODEL, "weights"), "model.safetensors: expected a checkpoint.*damaged", None),
    "model of another version": (newer(MODEL), "model.safetensors: .*run format 1, got 99", None),
    "model of another model": (
        of_another_model(MODEL),
        "model.safetensors: expected weights of VAE.*the same run",
        None,
    ),
    "model swapped for the state": (swapped(MODEL, LAST), "model.safetensors: expected a file with weights", None),
    "state truncated": (cut(LAST), None, "last.safetensors: expected a checkpoint.*damaged"),
    "state foreign": (content(LAST, "state"), None, "last.safetensors: expected a checkpoint.*damaged"),
    "state of another version": (newer(LAST), None, "last.safetensors: .*run format 1, got 99"),
    "state of another model": (
        of_another_model(LAST),
        None,
        "last.safetensors: expected the state of this run, got another",
    ),
    "state swapped for the model": (swapped(LAST, MODEL), None, "last.safetensors: expected a file with objective"),
    "metrics truncated": (cut(METRICS), "metrics.jsonl: expected one JSON record a line.*restore", None),
    "metrics binary": (swapped(METRICS, LAST), "metrics.jsonl: expected one JSON record a line.*restore", None),
}


@pytest.mark.parametrize("damage, load_says, resume_says", DAMAGES.values(), ids=DAMAGES)
def test_damaged_folder_is_an_error_with_its_cure(damage, load_says, resume_says, trained, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    damage(run)
    before = files(run)
    for call, message in ((lambda: lb.load(run), load_says), (lambda: tiny.fit(out=run, resume=True), resume_says)):
        if message is None:
            call()
        else:
            with pytest.raises(RunError, match=message) as error:
                call()
            assert "\n" not in str(error.value)
        assert files(run) == before


def test_no_folder_is_an_error_with_its_cure(tmp_path) -> None:
    (tmp_path / "file").touch()
    for name in ("nowhere", "file"):
        with pytest.raises(LowerboundError, match=f"{name}: expected a run folder, got no such folder. Check the path"):
            lb.load(tmp_path / name)
