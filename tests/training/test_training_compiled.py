"""Steps compiled whole: the updates are torch's, the runs are the eager ones, and what does not suit is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import lowerbound as lb
import tiny
from lowerbound.core.types import Outcome
from lowerbound.training import modes
from lowerbound.training.compiled import CompiledStep, NotTraceable
from lowerbound.training.settings import Settings
from lowerbound.training.state import State, train_step
from lowerbound.training.updates import update_of
from tiny import contents, difference

# --- Updates ----------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "adam": (torch.optim.Adam, {"lr": 1e-2}),
    "adam, other betas and epsilon": (torch.optim.Adam, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}),
    "adam with decay": (torch.optim.Adam, {"lr": 1e-2, "weight_decay": 0.3}),
    "adamw": (torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.3}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 1e-2, "alpha": 0.9}),
    "rmsprop with decay": (torch.optim.RMSprop, {"lr": 1e-2, "weight_decay": 0.3}),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_update_is_that_of_torch(case):
    kind, options = OPTIMIZERS[case]
    theirs, ours = (nn.Parameter(torch.linspace(-1, 2, 12, dtype=torch.float64)) for _ in range(2))
    optimizer, other = kind([theirs], **options), kind([ours], **options)
    update = update_of(other)
    for step in range(20):
        gradient = torch.sin(theirs.detach() * (step + 1))
        theirs.grad = gradient.clone()
        optimizer.step()
        *parts, steps = update.kept(other, ours)
        with torch.no_grad():
            update.move(ours, gradient, parts, update.rates_of(other, steps), other.param_groups[0])
        steps.add_(1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    for name, value in optimizer.state[theirs].items():
        torch.testing.assert_close(other.state[ours][name], value, rtol=1e-12, atol=1e-14)


OTHERS = {
    "another optimizer": (torch.optim.SGD, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "maximised": (torch.optim.AdamW, {"maximize": True}),
    "centred": (torch.optim.RMSprop, {"centered": True}),
    "momentum": (torch.optim.RMSprop, {"momentum": 0.9}),
    "a rate on the device": (torch.optim.Adam, {"lr": torch.tensor(0.1)}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_updates_are_left_to_torch(case):
    kind, options = OTHERS[case]
    assert update_of(kind([nn.Parameter(torch.ones(2))], **options)) is None


# --- Runs -------------------------------------------------------------------------------------------------------------

SETTINGS = {
    "as it is": {},
    "clipped, warmed up, cosine": {"clip": 0.5, "kl_warmup": 4, "schedule": "cosine"},
    "one cycle, with momentum": {"schedule": "onecycle", "optimizer": "adamw"},
    "rmsprop": {"optimizer": "rmsprop"},
    "bfloat16": {"precision": "bfloat16"},
}


@pytest.mark.filterwarnings("error:.*lr_scheduler.*")
@pytest.mark.parametrize(
    "case", [c if c == next(iter(SETTINGS)) else pytest.param(c, marks=pytest.mark.slow) for c in SETTINGS]
)
def test_compiled_run_is_the_eager_one(case):
    runs = [tiny.fit(compile=way, epochs=2, **SETTINGS[case]) for way in (False, True)]
    near = 1e-2 if case == "bfloat16" else 1e-4
    for eager, compiled in zip(*(run.history for run in runs), strict=True):
        assert compiled["train"] == pytest.approx(eager["train"], rel=near, abs=near)
        assert (compiled["lr"], compiled["kl_weight"]) == (eager["lr"], eager["kl_weight"])


OBJECTIVES = {
    "reinforce, moving average": ("ELBO", True, {"gradient": "reinforce", "baseline": "moving-average"}),
    "reinforce, leave one out": ("ELBO", True, {"gradient": "reinforce", "particles": 3}),
    "vargrad": ("ELBO", True, {"gradient": "vargrad", "particles": 3}),
    "relaxed": ("ELBO", True, {"gradient": "relaxed", "temperature": 0.5}),
    "sticking the landing": ("ELBO", False, {"gradient": "stl", "beta": 2.0}),
    "dreg": ("IWAE", False, {"gradient": "dreg", "particles": 4}),
    "miwae": ("IWAE", False, {"particles": 4, "groups": 2}),
    "vimco": ("IWAE", True, {"gradient": "vimco", "particles": 4}),
    "reweighted wake-sleep": ("RWS", True, {"particles": 4}),
    "adversarial": ("AVB", False, {"critic_steps": 2, "contrast": "adaptive"}),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own tracer (torch 2.13)
@pytest.mark.parametrize("case", OBJECTIVES)
def test_every_objective_compiled_is_itself(case):
    kind, binary, options = OBJECTIVES[case]
    shape = {"event_shape": (tiny.WIDTH,), "latent_dim": 3}
    histories = []
    for way in (False, True):
        torch.manual_seed(0)
        if kind == "AVB":
            model = lb.models.ImplicitVAE(**shape)
        elif binary:
            model = lb.models.HierarchicalVAE(**shape, latent="bernoulli", above=[2], hidden=[], between=[])
        else:
            model = tiny.vae()
        goal = getattr(lb.objectives, kind)(model, **options)
        assert CompiledStep.suits(State(goal, Settings(), 10))
        histories.append(tiny.fit(goal, compile=way, epochs=2).history)
    for eager, compiled in zip(*histories, strict=True):
        assert compiled["train"] == pytest.approx(eager["train"], rel=1e-3, abs=1e-3)


def test_resumed_compiled_run_is_the_whole_one(tmp_path):
    tiny.fit(out=tmp_path / "whole", epochs=2, compile=True)
    tiny.fit(out=tmp_path / "halves", epochs=1, compile=True)
    tiny.fit(out=tmp_path / "halves", epochs=2, compile=True, resume=True)
    assert difference(contents(tmp_path / "halves"), contents(tmp_path / "whole")) == ""


@pytest.mark.slow
def test_resumed_compiled_convolutions_are_the_whole_run(tmp_path):
    def run(folder, epochs, **more):
        goal = tiny.objective(model=tiny.conv_vae())
        tiny.fit(goal, tiny.images(), out=tmp_path / folder, epochs=epochs, compile=True, **more)

    run("whole", 2)
    run("halves", 1)
    run("halves", 2, resume=True)
    assert difference(contents(tmp_path / "halves"), contents(tmp_path / "whole")) == ""


def test_batches_of_every_form_are_met_by_their_own_functions():
    """Nothing is checked at a call, so a batch that lies otherwise must not meet the functions of the first."""
    compiled, eager = (State(lb.objectives.ELBO(tiny.vae()), Settings(lr=1e-2), 10) for _ in range(2))
    x = torch.rand(12, tiny.WIDTH, generator=torch.Generator().manual_seed(1)).round()
    step = CompiledStep()
    for batch in (x, x.t().contiguous().t(), x[:5], x):
        step(compiled, batch)
        train_step(eager, batch, eager.objective)
        for ours, theirs in zip(compiled.objective.parameters(), eager.objective.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_precisions_have_functions_of_their_own():
    """Where a run is to find out which is faster, one step meets both."""
    step, state = CompiledStep(), State(lb.objectives.ELBO(tiny.vae()), Settings(lr=1e-2), 10)
    x = torch.rand(12, tiny.WIDTH, generator=torch.Generator().manual_seed(1)).round()
    before, bounds = state.snapshot(), []
    for precision in ("float32", "bfloat16", "float32"):
        state.settings = replace(state.settings, precision=precision)
        step(state, x)
        bounds.append(float(state.sums["elbo"]))
        state.unpack(before)
    assert bounds[0] == bounds[2] != bounds[1]
    assert bounds[1] == pytest.approx(bounds[0], rel=0.01)


# --- What does not suit -----------------------------------------------------------------------------------------------


class Counting(lb.objectives.ELBO):
    """An objective of another package, which anneals in Python."""

    calls = 0

    def forward(self, x, player="model"):
        self.calls += 1
        outcome = super().forward(x, player)
        return Outcome(outcome.cost * 0.5**self.calls, outcome.terms)


def test_modules_of_others_are_not_traced():
    goal = Counting(tiny.vae())
    assert not CompiledStep.suits(State(goal, Settings(), 10))
    assert CompiledStep.suits(State(tiny.objective(), Settings(), 10))
    assert not CompiledStep.suits(State(tiny.objective(), Settings(optimizer="sgd"), 10))
    assert not CompiledStep.suits(State(tiny.objective(), Settings(microbatches=2), 10))


def test_objective_that_decides_by_values_is_compiled_apart(monkeypatch):
    kind, x = lb.objectives.ELBO, tiny.rows().rows(range(8))
    real = kind.forward
    monkeypatch.setattr(kind, "forward", lambda goal, x, player="model": real(goal, x if x.sum() > 0 else -x, player))
    states = [State(tiny.objective(), Settings(batch_size=8), 10) for _ in range(2)]
    with pytest.raises(NotTraceable):
        CompiledStep()(states[0], x)
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)  # what is apart is torch's own affair
    modes._make(states[0], True)(states[0], x)
    train_step(states[1], x, states[1].objective)
    assert difference(states[0].pack(), states[1].pack()) == ""


@pytest.mark.slow
def test_wide_networks_compiled_are_themselves():
    """The products of the other test cases are too small for another library than torch's own."""
    rows = torch.rand(1024, 784, generator=torch.Generator().manual_seed(0)).round()

    def run(compile):
        torch.manual_seed(0)
        model = lb.models.VAE(event_shape=(784,), latent_dim=8, hidden=(256,), likelihood="bernoulli")
        objective = lb.objectives.ELBO(model)
        lb.fit(objective, lb.data.Dataset(rows), epochs=2, batch_size=128, lr=1e-3, seed=0, compile=compile)
        return torch.cat([value.detach().flatten() for value in objective.parameters()])

    torch.testing.assert_close(run(True), run(False), rtol=1e-3, atol=2e-4)
