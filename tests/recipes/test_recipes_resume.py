"""Every recipe that is cut short in mid-epoch and resumed ends as the one that nobody disturbed: bit for bit."""

from __future__ import annotations

import pytest
import torch

import lowerbound as lb
from lowerbound.recipes import RECIPES, build, training_settings
from tiny import Steps, contents, difference

QUICK = ("conv-vae",)  # weights whose channels lie last; the others are slow-marked
CASES = [
    pytest.param(name, compile, marks=() if name in QUICK and not compile else pytest.mark.slow)
    for name in RECIPES
    for compile in (False, True)
]


class StopNowError(Exception):
    """The end of a run in its seventh step."""


def stop(made: int) -> None:
    if made == 7:
        raise StopNowError


def follow(name: str, out, compile: bool, **options):
    """Train a recipe for two epochs of five steps."""
    recipe = RECIPES[name]
    rows, _ = lb.data.load(recipe.data)
    _, few = rows.split_off(80 / len(rows))
    settings = {**training_settings(recipe, len(few)), "epochs": 2, "batch_size": 16, "kl_warmup": 0}
    torch.manual_seed(0)
    goal = build(recipe, few)
    return lb.fit(goal, few, out=out, progress=False, checkpoint_seconds=0, compile=compile, **settings, **options)


@pytest.mark.filterwarnings("ignore")  # torch's own tracer (torch 2.13)
@pytest.mark.parametrize("name, compile", CASES)
def test_resumed_recipe_is_the_undisturbed_one(name: str, compile: bool, tmp_path) -> None:
    whole = follow(name, tmp_path / "whole", compile)
    with pytest.raises(StopNowError):
        follow(name, tmp_path / "parts", compile, callbacks=[Steps(stop)])
    resumed = follow(name, tmp_path / "parts", compile, resume=True)
    assert not difference(contents(tmp_path / "parts"), contents(tmp_path / "whole"))
    assert not difference(resumed.model.state_dict(), whole.model.state_dict())
