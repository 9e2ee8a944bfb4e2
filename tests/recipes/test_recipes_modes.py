"""Every recipe says the same in bfloat16 and compiled as it does in float32 and eager: the cost, and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.core.random import seeded
from lowerbound.recipes import RECIPES, build
from lowerbound.training.compiled import CompiledStep
from lowerbound.training.settings import Settings
from lowerbound.training.state import State, train_step

# Relative to the float32, eager one: the cost, and the gradient of each player as a vector.
BFLOAT16 = dict.fromkeys(RECIPES, (2e-3, 0.08))
BFLOAT16["sbn"] = 0.1, 0.4  # a binary latent whose probability is rounded may be drawn the other way
COMPILED = 1e-4
WHOLE = 0.01  # of how far the weights have moved: Adam's first steps turn on the signs of small gradients


def of(name: str):
    recipe = RECIPES[name]
    rows, _ = lb.data.load(recipe.data)
    objective = build(recipe, rows)
    with torch.no_grad():  # a critic that is not nil yet
        generator = torch.Generator().manual_seed(0)
        for parameter in objective.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return objective, next(iter(rows.batches(16, seed=0, epoch=0)))


def answers(objective, forward, x: Tensor, *, precision: str = "float32") -> dict[str, tuple[Tensor, Tensor]]:
    """Return each player's cost and its gradient as one vector, under the same noise."""
    found = {}
    for player in objective.players():
        objective.zero_grad()
        with seeded(0, "noise"), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            cost = forward(x, player.name).cost
        cost.backward(inputs=player.parameters)
        grads = [p.grad.flatten() for p in player.parameters if p.grad is not None]
        found[player.name] = cost.detach(), torch.cat(grads)
    return found


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", RECIPES)
def test_bfloat16_agrees_with_float32(name):
    objective, x = of(name)
    exact, half = (answers(objective, objective, x, precision=one) for one in ("float32", "bfloat16"))
    near, parallel = BFLOAT16[name]
    for player, (cost, gradient) in exact.items():
        found, found_gradient = half[player]
        assert found.dtype == found_gradient.dtype == torch.float32
        assert 0 < distance(found_gradient, gradient) < parallel
        assert distance(found, cost) < near


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own tracer (torch 2.13)
@pytest.mark.parametrize("name", RECIPES)
def test_compiled_agrees_with_eager(name):
    torch.compiler.reset()
    objective, x = of(name)
    alone = torch.compile(objective, options={"fallback_random": True})
    eager, compiled = (answers(objective, forward, x) for forward in (objective, alone))
    for player, (cost, gradient) in eager.items():
        found, found_gradient = compiled[player]
        assert distance(found, cost) < COMPILED
        assert distance(found_gradient, gradient) < COMPILED


@pytest.mark.filterwarnings("ignore")  # torch's own tracer (torch 2.13)
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "vae")) for name in RECIPES])
def test_whole_compiled_steps_agree_with_eager_ones(name):
    weights, sums = [], []
    for step in (CompiledStep(), None):
        objective, x = of(name)
        state = State(objective, Settings(**RECIPES[name].training, epochs=1), 100)
        assert CompiledStep.suits(state)
        for _ in range(3):
            (step or (lambda state, x, goal=objective: train_step(state, x, goal)))(state, x)
        weights.append(torch.cat([value.double().flatten() for value in objective.state_dict().values()]))
        sums.append(state.sums)
    start = torch.cat([value.double().flatten() for value in of(name)[0].state_dict().values()])
    assert distance(weights[0] - start, weights[1] - start) < WHOLE
    for term, value in sums[1].items():
        assert float(sums[0][term]) == pytest.approx(float(value), rel=COMPILED, abs=COMPILED)
