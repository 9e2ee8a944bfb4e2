"""Where the time of a training step goes, beside the least that its matrix products and convolutions take."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from lowerbound.core.checks import positive_int
from lowerbound.core.device import find_device
from lowerbound.core.numerics import flushed_denormals
from lowerbound.core.random import seeded
from lowerbound.core.types import Data, Objective
from lowerbound.training.modes import choose
from lowerbound.training.settings import Settings
from lowerbound.training.state import State, train_step

__all__ = ["PARTS", "Profile", "profile_steps", "time_graph"]

PARTS = {
    "products": "matrix products and convolutions, forward and backward",
    "noise": "random numbers",
    "optimizer": "the optimizers' updates",
    "elementwise": "the rest of the arithmetic",
    "data": "the batches",
    "calls": "Python, dispatch, and waiting",
}

_WARMUP, _REPEATS = 5, 30
_DATA = "lowerbound.data"
_PRODUCTS = tuple(f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"))
_NOISE = ("normal", "uniform", "bernoulli", "rand", "exponential", "multinomial", "gamma", "geometric", "cauchy")


@dataclass(frozen=True)
class Profile:
    """Milliseconds of a training step.

    Attributes:
        step: A step, its batch included: the median.
        floor: Its matrix products and convolutions alone, on arrays that are ready.
        parts: What of the step each of `PARTS` takes; they add up to `step`. Empty on an accelerator.
        products: How many matrix products and convolutions a step makes.
        mode: How it was computed, in words.
    """

    step: float
    floor: float
    parts: dict[str, float]
    products: int
    mode: str


def profile_steps(
    objective: Objective, data: Data, *, steps: int = 30, device: str = "cpu", **settings: Any
) -> Profile:
    """Take some training steps, which change the objective, and say where their time goes.

    The step is timed without the profiler; the shares of its parts are the profiler's. The floor repeats the products
    of one step, with their shapes, on random arrays: no arrangement of the rest can make a step faster than that.

    Args:
        objective: What is trained, such as ``lb.objectives.ELBO(model)``.
        data: The rows.
        steps: How many steps are timed, and again as many profiled.
        device: Where to train, as for `lowerbound.fit`.
        settings: The settings of `lowerbound.fit`: batch_size, precision, compile, optimizer and so on; epochs tell how
            long the run is, which is what ``compile="auto"`` decides by.

    Raises:
        ArgumentError: if a setting is out of range or the device is not there.

    Example:
        >>> model = lb.models.VAE(event_shape=(8, 8), latent_dim=2, hidden=(16,))
        >>> found = profile_steps(lb.objectives.ELBO(model), lb.data.digits()[0], steps=2, batch_size=32)
        >>> found.products, abs(sum(found.parts.values()) - found.step) < 1e-9
        (14, True)
    """
    positive_int("steps", steps)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler would write lines of its own on standard error
    where, chosen = find_device(device), Settings(**settings)
    module: Any = objective
    module.to(where).train()
    moved: Any = data.to(where) if hasattr(data, "to") else data
    batch_size = min(chosen.batch_size, len(data))
    state = State(objective, chosen, 2 * steps + _WARMUP + 1)

    def batches() -> Iterator[Tensor]:
        epoch = 0
        while True:
            for x in moved.batches(batch_size, seed=chosen.seed, epoch=epoch):
                yield x.to(where)
            epoch += 1

    with flushed_denormals(), seeded(chosen.seed, "profile"):
        rows = batches()
        mode = choose(state, next(rows), chosen.epochs * (len(data) // batch_size))
        state.settings = mode.settings(chosen)

        def step() -> float:
            clock = time.perf_counter()
            with record_function(_DATA):
                x = next(rows)
            mode.step(state, x)
            if x.is_cuda:
                torch.cuda.synchronize()
            return 1000 * (time.perf_counter() - clock)

        for _ in range(_WARMUP):
            step()
        milliseconds = statistics.median(step() for _ in range(steps))
        parts: dict[str, float] = {}
        if where == "cpu":
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                profiled = sum(step() for _ in range(steps))
            taken = _parts(profiler.events())
            taken["calls"] += max(0.0, profiled - sum(taken.values()))
            parts = {name: milliseconds * taken[name] / sum(taken.values()) for name in PARTS}
        x = next(rows)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as shapes:
            train_step(state, x, module)  # neither compiled nor a graph: there the products have names and shapes
        dtype = torch.bfloat16 if state.settings.precision == "bfloat16" else torch.float32
        calls = [_product(event, x.device, dtype) for event in shapes.events() if event.name in _PRODUCTS]
        floor = time_graph(calls) if x.is_cuda else _time(calls)
    return Profile(milliseconds, floor, parts, len(calls), str(mode).partition(" (")[0])


def _parts(events: Any) -> dict[str, float]:
    """Return the milliseconds that the profiler saw, by part; what a product or an update calls is part of it."""
    taken = dict.fromkeys(PARTS, 0.0)
    for event in events:
        around, part = event, _part(event.name)
        while (around := around.cpu_parent) is not None:
            part = outer if (outer := _part(around.name)) in ("data", "optimizer", "noise", "products") else part
        taken[part] += event.self_cpu_time_total / 1000
    return taken


def _part(name: str) -> str:
    """Return the part to which an event belongs by its own name."""
    if name == _DATA:
        return "data"
    if name.startswith("Optimizer."):
        return "optimizer"
    if name in _PRODUCTS:
        return "products"
    if any(name.startswith(f"aten::{word}") for word in _NOISE):
        return "noise"
    return "elementwise" if name.startswith("aten::") or "Compiled" in name else "calls"


def _product(event: Any, device: torch.device, dtype: torch.dtype) -> Callable[[], Any]:
    """Return a matrix product or a convolution like an event's, on random arrays."""
    kind = event.name.removeprefix("aten::")
    shapes, values = event.input_shapes, event.concrete_inputs

    def array(index: int) -> Tensor:
        made = torch.randn(shapes[index], device=device).to(dtype)
        return made.contiguous(memory_format=torch.channels_last) if made.dim() == 4 else made

    if kind == "convolution":
        return partial(torch.ops.aten.convolution, array(0), array(1), None, *values[3:])
    if kind == "convolution_backward":
        return partial(torch.ops.aten.convolution_backward, array(0), array(1), array(2), *values[3:])
    first = 1 if kind in ("addmm", "baddbmm") else 0
    return partial(torch.matmul, array(first), array(first + 1))


def _time(calls: Sequence[Callable[[], Any]]) -> float:
    """Return the milliseconds that all the calls take: the median."""
    taken = []
    for _ in range(_REPEATS):
        clock = time.perf_counter()
        for call in calls:
            call()
        taken.append(1000 * (time.perf_counter() - clock))
    return statistics.median(taken)


def time_graph(calls: Sequence[Callable[[], Any]]) -> float:
    """Return the milliseconds that calls take on a CUDA device, recorded as one graph: no launch is waited for."""
    _time(calls)
    graph, start, end = torch.cuda.CUDAGraph(), *(torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    start.record()
    for _ in range(_REPEATS):
        graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / _REPEATS
