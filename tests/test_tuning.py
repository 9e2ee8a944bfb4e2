"""The search for settings: what is proposed, judged, stopped early, and taken up again."""

from __future__ import annotations

import json
import math
import sys

import pytest

from lowerbound import tuning
from lowerbound.core.errors import ArgumentError, NonFiniteError, RunError
from lowerbound.core.files import locked, unlock
from lowerbound.recipes import RECIPES
from lowerbound.tuning import Range, parse, tune

optuna = pytest.importorskip("optuna", reason="the extra `tune` is not installed")

RECIPE = RECIPES["vae"].changed(latent_dim=2, model_options={"hidden": [8]}, training={"epochs": 4, "batch_size": 512})
LR = {"lr": Range(1e-4, 1.0, log=True)}


def bound(lr: float) -> float:
    """A bound that is best at a rate of 0.01."""
    return -100.0 - math.log10(lr / 0.01) ** 2


@pytest.fixture
def trained(monkeypatch):
    """Stand in for the training by a formula; return the recipes that were trained."""
    seen = []

    def train(recipe, *, out, device, progress, callbacks):
        seen.append(recipe)
        out.mkdir(parents=True)
        if train.kill == len(seen):
            raise KeyboardInterrupt
        lr = recipe.training["lr"]
        if lr > train.explodes:
            raise NonFiniteError("the bound is not finite")
        for epoch in range(1, 5):
            value = bound(lr) - 10 / epoch
            for callback in callbacks:
                callback.epoch({"epoch": epoch, "validation": {"elbo": value, "kl": 1.0}})

    train.kill, train.explodes = 0, math.inf
    monkeypatch.setattr(tuning, "train", train)
    return seen, train


def told(trial):
    return trial.number, trial.state, trial.bound, trial.settings


# --- The search -------------------------------------------------------------------------------------------------------


def test_search_finds_the_best_and_says_so(trained, tmp_path):
    found = tune(RECIPE, out=tmp_path, trials=20, space=LR)
    assert len(found.trials) == len(trained[0]) == 20
    assert abs(math.log10(found.best.settings["lr"] / 0.01)) < 0.35
    assert found.measure == "elbo"
    ended = [trial for trial in found.trials if trial.state == "complete"]
    assert found.best.bound == max(trial.bound for trial in ended)
    for trial in ended:
        assert trial.bound == pytest.approx(bound(trial.settings["lr"]) - 10 / 4)
    best = json.loads((tmp_path / "best.json").read_text())
    assert best == {
        "measure": "elbo",
        "bound": found.best.bound,
        "settings": found.best.settings,
        "run": f"trials/{found.best.number:04d}",
    }


def test_trials_behind_the_others_are_stopped(trained, tmp_path):
    found = tune(RECIPE, out=tmp_path, trials=20, space=LR)
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    assert all(trial.bound < found.best.bound for trial in pruned)


def test_proposals_are_in_range_and_of_the_kind(trained, tmp_path):
    space = {
        **LR,
        "latent_dim": Range(2, 6),
        "batch_size": Range(values=(16, 32)),
        "hidden": Range(4, 9),
        "particles": Range(1, 3),
        "activation": Range(values=("relu", "tanh")),
    }
    found = tune(RECIPE, out=tmp_path, trials=6, space=space)
    for trial, recipe in zip(found.trials, trained[0], strict=True):
        settings = trial.settings
        assert 1e-4 <= settings["lr"] <= 1
        assert settings["latent_dim"] in range(2, 7)
        assert recipe.latent_dim == settings["latent_dim"]
        assert recipe.training["batch_size"] == settings["batch_size"] in (16, 32)
        assert recipe.model_options["hidden"] == [settings["hidden"]] * 2
        assert recipe.objective_options["particles"] == settings["particles"]
        assert recipe.model_options["activation"] in ("relu", "tanh")
        assert recipe.training["epochs"] == 4
    assert len({str(trial.settings) for trial in found.trials}) == 6


@pytest.mark.parametrize("stops", [(3,), (1, 5)])
def test_search_that_was_killed_goes_on_as_if_it_had_not_been(trained, tmp_path, stops):
    seen, train = trained
    whole = tune(RECIPE, out=tmp_path / "whole", trials=7, space=LR)
    for stop in stops:
        train.kill = len(seen) + stop
        with pytest.raises(KeyboardInterrupt):
            tune(RECIPE, out=tmp_path / "parts", trials=7, space=LR)
    train.kill = 0
    parts = tune(RECIPE, out=tmp_path / "parts", trials=7, space=LR)
    assert [(t.state, t.bound, t.settings) for t in parts.trials] == [
        (t.state, t.bound, t.settings) for t in whole.trials
    ]


def test_search_can_be_made_longer(trained, tmp_path):
    first = tune(RECIPE, out=tmp_path, trials=3, space=LR)
    longer = tune(RECIPE, out=tmp_path, trials=5, space=LR)
    assert longer.trials[:3] == first.trials
    assert len(trained[0]) == 5
    assert tune(RECIPE, out=tmp_path, trials=5, space=LR) == longer
    assert len(trained[0]) == 5


def test_another_seed_is_another_search(trained, tmp_path):
    rates = [
        [
            trial.settings["lr"]
            for trial in tune(RECIPE.changed(seed=seed), out=tmp_path / str(seed), trials=3, space=LR).trials
        ]
        for seed in (1, 2)
    ]
    assert rates[0] != rates[1]


def test_trial_that_is_not_finite_fails_and_the_search_goes_on(trained, tmp_path):
    trained[1].explodes = 0.1
    found = tune(RECIPE, out=tmp_path, trials=12, space=LR)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed
    assert all(trial.settings["lr"] > 0.1 and trial.bound is None for trial in failed)
    assert found.best.settings["lr"] < 0.1


# --- Ranges and errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("lr=1e-4:1e-2:log", ("lr", Range(1e-4, 1e-2, log=True))),
        ("latent_dim=2:64", ("latent_dim", Range(2, 64))),
        ("batch_size=64,128", ("batch_size", Range(values=(64, 128)))),
        ("activation=relu", ("activation", Range(values=("relu",)))),
        ("x=-1.5:2", ("x", Range(-1.5, 2))),
    ],
)
def test_ranges(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["lr", "=1:2", "lr=", "lr=2:1", "lr=0:1:log", "lr=1:2:lin", "lr=a:b", "lr=1:2:log:3"])
def test_what_is_no_range(text):
    with pytest.raises(ArgumentError, match=r"search: expected NAME=LOW:HIGH, .*For example lr=1e-4:1e-2:log"):
        parse(text)


def test_what_cannot_be_searched(trained, tmp_path, monkeypatch):
    with pytest.raises(
        ArgumentError, match=r"space: expected settings of vae, got 'lrr'.*Known settings: .*latent_dim.*lr"
    ):
        tune(RECIPE, out=tmp_path, space={"lrr": Range(1, 2)})
    with pytest.raises(ArgumentError, match="space: expected settings that leave the bound, got 'beta'. Fix it in"):
        tune(RECIPE, out=tmp_path, space={**LR, "beta": Range(0.1, 2.0)})
    with pytest.raises(ArgumentError, match="recipe: expected an objective that is a bound, got AVB"):
        tune(RECIPES["avb"], out=tmp_path, space=LR)
    with pytest.raises(ArgumentError, match="validation: expected held-out rows to judge by, got none"):
        tune(RECIPE.changed(validation=0.0), out=tmp_path, space=LR)
    with pytest.raises(ArgumentError, match="trials: expected a positive integer, got 0"):
        tune(RECIPE, out=tmp_path, trials=0, space=LR)
    tune(RECIPE, out=tmp_path, trials=1, space=LR)
    with pytest.raises(RunError, match="expected this search or a new folder, got another search"):
        tune(RECIPE.changed(latent_dim=3), out=tmp_path, trials=1, space=LR)
    trained[1].explodes = 0.0
    with pytest.raises(RunError, match="tune: expected a trial that comes to its end, got none. Search among smaller"):
        tune(RECIPE, out=tmp_path / "all", trials=2, space=LR)


def test_two_searches_do_not_share_a_folder(trained, tmp_path):
    lock = locked(tmp_path / "search")
    with pytest.raises(RunError, match="search: expected a folder that no other process writes, got one in use"):
        tune(RECIPE, out=tmp_path / "search", trials=1, space=LR)
    unlock(lock)
    tune(RECIPE, out=tmp_path / "search", trials=1, space=LR)
    assert not (tmp_path / "search" / ".lock").exists()


def test_optuna_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        ArgumentError, match=r"tune: expected the package optuna, got none.*pip install 'lowerbound\[tune\]'"
    ):
        tune(RECIPE, out=tmp_path, space=LR)
