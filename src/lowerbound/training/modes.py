"""How a step is computed, in which precision and compiled or not, where the run is to find out by measuring."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowerbound.core.distributed import share
from lowerbound.core.errors import ArgumentError, explain
from lowerbound.training.graphs import GraphedStep
from lowerbound.training.settings import Settings
from lowerbound.training.state import State, train_step

__all__ = ["Mode", "Step", "choose", "recorded"]

Step = Callable[[State, Tensor], None]

_ROUNDS, _STEPS = 5, 3  # what a way of computing is timed by: the median over rounds of so many steps
_WORTH = 20.0  # seconds that a run must still take for a compiler, which takes some ten itself, to be tried
_MARGIN = 1.05  # how much faster another way must be to be taken in place of a plainer one
_NAMES = {False: "", True: ", compiled", "graphs": ", graphs"}


@dataclass(frozen=True)
class Mode:
    """How the steps of a run are computed.

    Attributes:
        precision: ``"float32"`` or ``"bfloat16"``.
        compile: Whether the objective is compiled; ``"graphs"`` for recorded kernels.
        step: What lets every player move on a batch.
        milliseconds: What was measured, by way: ``{"float32": 6.1, "bfloat16": 3.4}``; empty if nothing was.
    """

    precision: str
    compile: bool | str
    step: Step
    milliseconds: Mapping[str, float]

    def settings(self, asked: Settings) -> Settings:
        """Return settings that say what is done where they said ``"auto"``."""
        return replace(asked, precision=self.precision, compile=self.compile)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """Return a sentence for the user."""
        done = f"{self.precision}{_NAMES[self.compile]}"
        shown = ", ".join(f"{name} {value:.1f}" for name, value in self.milliseconds.items())
        return f"computed in {done} (milliseconds a step: {shown})" if shown else f"computed in {done}"


def recorded(asked: Settings, config: Mapping[str, Any]) -> Settings:
    """Return settings with what an earlier part of the run has decided where they leave it open.

    Args:
        asked: The settings.
        config: What ``config.json`` holds.
    """
    found = config.get("training") or {}
    auto = {name: found[name] for name in ("precision", "compile") if getattr(asked, name) == "auto" and name in found}
    if found and asked.microbatches is None:
        auto["microbatches"] = found.get("microbatches", 1)
    return replace(asked, **auto)


def choose(state: State, x: Tensor, steps: int) -> Mode:
    """Decide what the settings leave open by timing steps on copies of the state, which is left as it was.

    The precisions are compared first; then, in the better one, graphs where the device has them and the compiler where
    the run is long enough to pay for it. What does not work on this machine or for this objective is passed over.

    Args:
        state: The state at the start of the run, its settings with ``"auto"`` in them or not.
        x: A batch of the run, on the device, shape ``[B, *event_shape]``.
        steps: How many steps the run has to go.

    Raises:
        ArgumentError: if graphs are asked for on a device that has none, or a compiler where none works.
    """
    asked = state.settings
    alone = asked.microbatches in (None, 1)
    if asked.compile == "graphs" and not alone:
        cure = "Leave it out, or train in one process with microbatches=1."
        raise ArgumentError(explain("compile", expected="no graphs with microbatches", got="'graphs'", cure=cure))
    if asked.compile == "graphs" and not _steady(state):
        cure = "Take another schedule, or leave graphs out."
        got = "onecycle, which moves the momentum too"
        raise ArgumentError(explain("schedule", expected="one that moves only the rate", got=got, cure=cure))
    plain: Any = False if asked.compile == "auto" else asked.compile
    if "auto" not in (asked.precision, asked.compile):
        step = _make(state, plain)
        if plain is True:
            _try(state, x, step)  # before there is a run folder
        return Mode(asked.precision, plain, step, {})
    precision, best = "float32" if asked.precision == "auto" else asked.precision, plain
    ways = {plain: _make(state, plain)}
    times = {(precision, plain): _time(state, x, precision, ways[plain])}
    if asked.precision == "auto":
        half = _make(state, plain)
        times["bfloat16", plain] = _time(state, x, "bfloat16", half)
        if times["bfloat16", plain][0] * _MARGIN < times["float32", plain][0]:
            precision, ways[plain] = "bfloat16", half
    others: list[bool | str] = ["graphs", True] if x.device.type == "cuda" and alone and _steady(state) else [True]
    for other in others if asked.compile == "auto" else []:
        seconds = times[precision, best][0] * steps
        if other is True and seconds < _WORTH:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the user did not ask for it
                ways[other] = _make(state, other)
                found = times[precision, other] = _time(state, x, precision, ways[other])
        except Exception:  # whatever a compiler that is missing or broken raises, or a graph that cannot be
            torch.compiler.reset()
            continue
        if found[0] * _MARGIN < times[precision, best][0] and seconds - found[0] * steps > found[1]:
            best = other
    milliseconds = {f"{name}{_NAMES[kind]}": round(1000 * taken, 3) for (name, kind), (taken, _) in times.items()}
    step = _make(state, best) if best == "graphs" else ways[best]  # those that were timed hold the copies' tensors
    return Mode(precision, best, step, milliseconds)


def _steady(state: State) -> bool:
    """Return whether the schedules move nothing but learning rates: a graph keeps all else as it was recorded."""
    groups = [group for optimizer in state.optimizers.values() for group in optimizer.param_groups]
    return state.settings.schedule != "onecycle" or not any("betas" in one or one.get("momentum") for one in groups)


def _make(state: State, compile: bool | str) -> Step:
    """Return a way to take steps."""
    objective = _module(state)
    if compile == "graphs":
        if state.objective.kl_weight.device.type != "cuda":
            cure = "Train with device='cuda', or let compile='auto' choose."
            got = str(state.objective.kl_weight.device)
            raise ArgumentError(explain("compile", expected="an NVIDIA device for graphs", got=got, cure=cure))
        return GraphedStep(state, objective)
    if compile is True:
        return _compiled(state)
    return lambda state, x: train_step(state, x, objective)


def _compiled(state: State) -> Step:
    """Return steps that torch compiles at the first: whole ones where it can be, and else the objective alone.

    Their noise is that of steps that are not compiled.

    Raises:
        ArgumentError: at the first step, if there is no compiler that works.
    """
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import InductorError

    from lowerbound.training.compiled import CompiledStep, NotTraceable

    compiled: Any = torch.compile(_module(state), options={"fallback_random": True})

    def apart(state: State, x: Tensor) -> None:
        train_step(state, x, compiled)

    way: Step = CompiledStep() if CompiledStep.suits(state) else apart

    def step(state: State, x: Tensor) -> None:
        nonlocal way
        try:
            try:
                way(state, x)
            except NotTraceable:
                way = apart
                way(state, x)
        except (BackendCompilerFailed, InductorError) as error:
            reason = str(getattr(error, "inner_exception", error)).strip().splitlines()[0]
            cure = "Install a C++ compiler such as g++, or leave it out; compile='auto' goes on without one."
            raise ArgumentError(explain("compile", expected="a compiler that works", got=reason, cure=cure)) from error

    return step


def _try(state: State, x: Tensor, step: Step) -> None:
    """Take a step and take it back."""
    before = state.snapshot()
    try:
        step(state, x)
    finally:
        state.unpack(before)


def _time(state: State, x: Tensor, precision: str, step: Step) -> tuple[float, float]:
    """Return the seconds of a step, and the seconds that its start took; the state is left as it was.

    Several processes take the steps together, and all go by the first one's clock.
    """
    before, asked, schedules = state.snapshot(), state.settings, state.schedules
    still: Any = _Still()
    state.schedules = dict.fromkeys(schedules, still)  # a short run's may not go so far
    state.settings = replace(asked, precision=precision)  # type: ignore[arg-type]
    try:
        clock = time.perf_counter()
        for _ in range(4):  # graphs are recorded at the fourth
            step(state, x)
        _wait(state)
        starting = time.perf_counter() - clock
        taken = []
        for _ in range(_ROUNDS):
            clock = time.perf_counter()
            for _ in range(_STEPS):
                step(state, x)
            _wait(state)
            taken.append((time.perf_counter() - clock) / _STEPS)
    finally:
        state.settings, state.schedules = asked, schedules
        state.unpack(before)
    seconds = share({"step": statistics.median(taken), "start": starting})
    return seconds["step"], seconds["start"]


class _Still:
    """A schedule that leaves the learning rate alone."""

    def step(self) -> None:
        pass


def _wait(state: State) -> None:
    """Wait until the device has done what it was given."""
    float(next(iter(state.sums.values())))


def _module(state: State) -> Any:
    return state.objective
