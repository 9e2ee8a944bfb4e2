"""A step as CUDA graphs: the kernels of every move are recorded once, and launched together from then on."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from lowerbound.core.types import Outcome, Player
from lowerbound.training.state import Forward, State, begin, collect, differentiate, end, train_step, update

__all__ = ["GraphedStep"]

_FIRST = 3  # steps that are taken as they come: they allocate what the recorded ones use


class GraphedStep:
    """A training step that replays its kernels; the numbers are those of `train_step`.

    A small network's kernels take less time than their launches, so that a device waits for the processor. A graph is
    launched as one. There is one graph for each player's move, so the moves of a step still draw from one stream of
    noise, and the learning rate of each is written to the device before it.

    Args:
        state: The state of the run, on a CUDA device. Its optimizers and weights must stay the same tensors.
        forward: The objective.

    Raises:
        RuntimeError: at the fourth step, if the objective or an optimizer reads from the device, which a graph cannot.
    """

    def __init__(self, state: State, forward: Forward) -> None:
        self._forward, self._taken = forward, 0
        self._stream = torch.cuda.Stream()
        self._graphs: dict[str, tuple[torch.cuda.CUDAGraph, Outcome]] = {}
        self._rates: dict[str, list[Tensor]] = {}
        self._written: dict[str, list[float]] = {}
        self._x = torch.empty(0)

    def __call__(self, state: State, x: Tensor) -> None:
        """Let every player move on a batch, shape ``[B, *event_shape]``, the same at every call."""
        self._taken += 1
        if self._taken <= _FIRST:
            self._plainly(state, x)
            return
        begin(state)
        if not self._graphs:
            self._x = x.clone()
            self._graphs = {player.name: self._record(state, player) for player in state.players}
            begin(state)  # recording has drawn from the stream
        self._x.copy_(x)
        for player in state.players:
            graph, outcome = self._graphs[player.name]
            for _ in range(player.steps):
                self._write_rates(state, player)
                graph.replay()
                state.schedules[player.name].step()
            collect(state, outcome)
        end(state)

    def _plainly(self, state: State, x: Tensor) -> None:
        """Take a step off the default stream, as what is recorded later will be."""
        for optimizer in state.optimizers.values():
            for group in optimizer.param_groups:
                if "capturable" in group:
                    group["capturable"] = True
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*capturable=True.*")
            train_step(state, x, self._forward)
        torch.cuda.current_stream().wait_stream(self._stream)

    def _record(self, state: State, player: Player) -> tuple[torch.cuda.CUDAGraph, Outcome]:
        """Record a player's move; nothing moves."""
        groups = state.optimizers[player.name].param_groups
        rates = [float(group["lr"]) for group in groups]
        held = [torch.tensor(rate, device=self._x.device) for rate in rates]
        graph = torch.cuda.CUDAGraph()
        try:
            for group, tensor in zip(groups, held, strict=True):
                group["lr"] = tensor
            with torch.cuda.graph(graph, stream=self._stream):
                outcome = differentiate(state, player, self._x, self._forward)
                update(state, player)
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
        self._rates[player.name], self._written[player.name] = held, rates
        return graph, outcome

    def _write_rates(self, state: State, player: Player) -> None:
        rates = [float(group["lr"]) for group in state.optimizers[player.name].param_groups]
        if rates != self._written[player.name]:
            for tensor, rate in zip(self._rates[player.name], rates, strict=True):
                tensor.fill_(rate)
            self._written[player.name] = rates
