"""What a run decides by measuring: the decision, that it leaves no trace, and that a resumed run keeps to it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import lowerbound as lb
import tiny
from lowerbound.core.errors import ArgumentError
from lowerbound.training import modes
from lowerbound.training.settings import Settings
from lowerbound.training.state import State, train_step
from tiny import contents, difference

SLOW, FAST = 0.010, 0.004  # seconds a step


def clock(monkeypatch, times):
    """Let steps take what a table says: seconds by precision, and by whether it is the first (plain) or a later way."""
    asked = []

    def timed(state, x, precision, step):
        asked.append(precision)
        found = times[len(asked) - 1]
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(modes, "_time", timed)
    return asked


def choose(steps=1000, **settings):
    goal = tiny.objective()
    state = State(goal, Settings(batch_size=8, **settings), steps)
    return modes.choose(state, tiny.rows().rows(range(8)), steps)


# --- The decision -----------------------------------------------------------------------------------------------------

AUTO = {"precision": "auto", "compile": "auto"}
DECISIONS = {
    "nothing to decide": ({}, 1000, [], ("float32", False)),
    "bfloat16 is faster": ({"precision": "auto"}, 1000, [(SLOW, 0), (FAST, 0)], ("bfloat16", False)),
    "bfloat16 is slower": ({"precision": "auto"}, 1000, [(FAST, 0), (SLOW, 0)], ("float32", False)),
    "bfloat16 is hardly faster": ({"precision": "auto"}, 1000, [(1.04, 0), (1.0, 0)], ("float32", False)),
    "too short a run to compile": ({"compile": "auto"}, 1000, [(SLOW, 0)], ("float32", False)),
    "compiling pays": ({"compile": "auto"}, 10_000, [(SLOW, 0), (FAST, 30)], ("float32", True)),
    "compiling takes longer than it saves": ({"compile": "auto"}, 10_000, [(SLOW, 0), (FAST, 61)], ("float32", False)),
    "compiled is slower": ({"compile": "auto"}, 10_000, [(FAST, 0), (SLOW, 1)], ("float32", False)),
    "no compiler": ({"compile": "auto"}, 10_000, [(SLOW, 0), OSError("no g++")], ("float32", False)),
    "both": (AUTO, 10_000, [(SLOW, 0), (FAST, 0), (FAST / 2, 10)], ("bfloat16", True)),
    "precision is given": ({**AUTO, "precision": "bfloat16"}, 10_000, [(SLOW, 0), (FAST, 9)], ("bfloat16", True)),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_decision_follows_the_times(case, monkeypatch):
    settings, steps, times, expected = DECISIONS[case]
    asked = clock(monkeypatch, times)
    mode = choose(steps, **settings)
    assert (mode.precision, mode.compile) == expected
    assert len(asked) == len(times)
    assert list(mode.milliseconds.values()) == [1000 * found[0] for found in times if isinstance(found, tuple)]


def test_sentence_says_what_was_measured(monkeypatch):
    clock(monkeypatch, [(SLOW, 0), (FAST, 0), (FAST / 2, 10)])
    said = "computed in bfloat16, compiled (milliseconds a step: float32 10.0, bfloat16 4.0, bfloat16, compiled 2.0)"
    assert str(choose(10_000, **AUTO)) == said


def test_measuring_leaves_the_state_as_it_was():
    goal = tiny.objective()
    state = State(goal, Settings(batch_size=8, schedule="cosine"), 100)
    train_step(state, tiny.rows().rows(range(8)), goal)
    before, rates = state.snapshot(), state.lr()
    seconds, starting = modes._time(state, tiny.rows().rows(range(8)), "bfloat16", modes._make(state, False))
    assert 0 < seconds < starting
    assert difference(state.snapshot(), before) == ""
    assert (state.lr(), state.settings.precision) == (rates, "float32")


# --- In a run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bfloat16, precision", [(FAST, "bfloat16"), (2 * SLOW, "float32")])
def test_run_that_decides_equals_the_run_that_was_told(bfloat16, precision, monkeypatch, tmp_path):
    real = modes._time

    def timed(state, x, asked, step):
        real(state, x, asked, step)
        return (bfloat16 if asked == "bfloat16" else SLOW), 0.0

    monkeypatch.setattr(modes, "_time", timed)
    tiny.fit(out=tmp_path / "auto", validation=tiny.rows(20, seed=1), precision="auto", compile="auto")
    tiny.fit(out=tmp_path / "told", validation=tiny.rows(20, seed=1), precision=precision)
    assert difference(contents(tmp_path / "auto"), contents(tmp_path / "told")) == ""
    training = json.loads((tmp_path / "auto" / "config.json").read_text())["training"]
    assert (training["precision"], training["compile"]) == (precision, False)


def test_resumed_run_keeps_to_the_decision(monkeypatch, tmp_path):
    clock(monkeypatch, [(SLOW, 0), (FAST, 0)])
    tiny.fit(out=tmp_path / "run", epochs=1, precision="auto")
    again = clock(monkeypatch, [])
    tiny.fit(out=tmp_path / "run", epochs=2, precision="auto", resume=True)
    assert again == []
    tiny.fit(out=tmp_path / "told", epochs=2, precision="bfloat16")
    assert difference(contents(tmp_path / "run"), contents(tmp_path / "told")) == ""


def test_watchers_hear_the_decision(monkeypatch):
    heard = []

    class Listener(lb.training.Callback):
        def note(self, line):
            heard.append(line)

    clock(monkeypatch, [(SLOW, 0), (FAST, 0)])
    tiny.fit(precision="auto", callbacks=[Listener()])
    tiny.fit(callbacks=[Listener()])
    assert heard == ["computed in bfloat16 (milliseconds a step: float32 10.0, bfloat16 4.0)"]


# --- Errors -----------------------------------------------------------------------------------------------------------


def test_setting_that_is_none():
    with pytest.raises(ArgumentError, match=r"compile: expected True, False, 'graphs' or 'auto', got 'yes'.*'auto'"):
        Settings(compile="yes")


def test_graphs_need_their_device():
    with pytest.raises(ArgumentError, match=r"compile: expected an NVIDIA device for graphs, got cpu.*device='cuda'"):
        tiny.fit(compile="graphs")


def test_compiler_that_is_asked_for_and_broken(monkeypatch, tmp_path):
    def broken(graph, inputs, **options):
        raise OSError("no g++ here")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **options: real(module, backend=broken))
    with pytest.raises(ArgumentError, match=r"compile: expected a compiler that works, got .*no g\+\+ here.*'auto'"):
        tiny.fit(compile=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    torch.compiler.reset()


# --- Graphs -----------------------------------------------------------------------------------------------------------

GRAPHED = {
    "elbo": lambda: (tiny.objective(), {"schedule": "cosine", "kl_warmup": 5, "clip": 1.0}),
    "iwae": lambda: (tiny.objective("IWAE", particles=3), {"precision": "bfloat16"}),
    "dreg, rmsprop": lambda: (tiny.objective("IWAE", particles=3, gradient="dreg"), {"optimizer": "rmsprop"}),
    "sgd": lambda: (tiny.objective(), {"optimizer": "sgd", "lr": 1e-2, "schedule": "onecycle"}),
    "avb": lambda: (adversarial(), {"schedule": "cosine"}),
}


def adversarial():
    torch.manual_seed(0)
    sizes = {"hidden": (8,), "critic_hidden": (8,), "noise_dim": 2}
    model = lb.models.ImplicitVAE(event_shape=(tiny.WIDTH,), latent_dim=2, **sizes)
    return lb.objectives.AVB(model, contrast="adaptive", critic_steps=2, particles=4)


@pytest.mark.gpu
@pytest.mark.parametrize("case", GRAPHED)
def test_graphs_give_the_numbers_of_plain_steps(case, tmp_path):
    for name, compile in (("plain", False), ("graphs", "graphs")):
        goal, settings = GRAPHED[case]()
        tiny.fit(goal, out=tmp_path / name, epochs=3, device="cuda", compile=compile, **settings)
    plain, graphed = (contents(tmp_path / name) for name in ("plain", "graphs"))
    torch.testing.assert_close(graphed["model"], plain["model"], rtol=1e-4, atol=1e-5)
    rates = [[record["lr"] for record in run["metrics"]] for run in (plain, graphed)]
    assert rates[0] == rates[1]


@pytest.mark.gpu
def test_resumed_graphs_give_the_same_run(tmp_path):
    for name, lengths in (("whole", (4,)), ("parts", (2, 4))):
        for epochs in lengths:
            goal, settings = tiny.objective(), {"device": "cuda", "compile": "graphs", "resume": True}
            tiny.fit(goal, out=tmp_path / name, epochs=epochs, **settings)
    assert difference(contents(tmp_path / "parts"), contents(tmp_path / "whole")) == ""


def test_short_runs_under_onecycle_are_timed_too():
    """Timing takes more steps than such a run has."""
    run = tiny.fit(epochs=1, schedule="onecycle", precision="auto", compile="auto")
    plain = tiny.fit(epochs=1, schedule="onecycle", precision=run.config["training"]["precision"])
    assert run.history[0]["lr"] == plain.history[0]["lr"]


@pytest.mark.slow
def test_precisions_are_timed_by_steps_of_their_own(monkeypatch):
    """Steps that were compiled, or recorded, in one precision stay in it."""
    met = []
    monkeypatch.setattr(modes, "_make", lambda state, kind: met.append(kind) or (lambda state, x: train(state, x)))

    def train(state, x):
        train_step(state, x, state.objective)

    tiny.fit(precision="auto", compile=True, epochs=1)
    assert met == [True, True]


@pytest.mark.parametrize("optimizer, steady", [("adam", False), ("sgd", True)])
def test_graphs_keep_what_is_no_rate(optimizer, steady):
    state = State(tiny.objective(), Settings(schedule="onecycle", optimizer=optimizer), 10)
    assert modes._steady(state) is steady
    assert modes._steady(State(tiny.objective(), Settings(schedule="cosine"), 10))
    if not steady:
        state.settings = replace(state.settings, compile="graphs")
        with pytest.raises(ArgumentError, match="schedule: expected one that moves only the rate, got onecycle"):
            modes.choose(state, torch.ones(8, tiny.WIDTH), 10)
