"""Everything that changes while a run trains, and the one step that changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowerbound.core.random import reseed
from lowerbound.core.types import Objective, Outcome, Player
from lowerbound.training.microbatches import descend
from lowerbound.training.settings import Settings

__all__ = ["Forward", "State", "begin", "collect", "differentiate", "end", "moves", "train_step", "update"]

Forward = Callable[..., Outcome]  # an objective, compiled or not


class State:
    """The moving parts of a run: weights, optimizers, schedules, and how far it has come.

    Randomness is not among them: the noise of step t is a function of the seed and t.

    Attributes:
        epoch: Epochs that are over.
        batch: Batches of the present epoch that are over.
        step: Steps that are over.
        sums: Running sums of the terms over the present epoch's steps, detached tensors by name.
        history: One record for each epoch that is over.
        best: The best validation bound so far, its epoch and its weights; empty without validation.
    """

    def __init__(self, objective: Objective, settings: Settings, steps: int) -> None:
        self.objective, self.settings = objective, settings
        self.players = list(objective.players())
        self.optimizers = {player.name: settings.make_optimizer(player) for player in self.players}
        self.schedules = {
            player.name: settings.make_schedule(player, self.optimizers[player.name], steps) for player in self.players
        }
        self.epoch = self.batch = self.step = 0
        self.sums: dict[str, Tensor] = {}
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}

    def pack(self) -> dict[str, Any]:
        """Return the whole state as a tree of tensors and plain values that shares memory with the run."""
        return {
            "objective": _module(self.objective).state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "schedules": {name: _plain(schedule.state_dict()) for name, schedule in self.schedules.items()},
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "sums": self.sums,
            "history": self.history,
            "best": self.best,
        }

    def unpack(self, tree: Mapping[str, Any]) -> None:
        """Become the state that `pack` returned."""
        _module(self.objective).load_state_dict(tree["objective"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(tree["optimizers"][name])
            _lay_out(optimizer)
            schedule = self.schedules[name]
            schedule.load_state_dict({**schedule.state_dict(), **tree["schedules"][name]})
        self.epoch, self.batch, self.step = tree["epoch"], tree["batch"], tree["step"]
        device = self.objective.kl_weight.device
        self.sums = {name: value.to(device) for name, value in tree["sums"].items()}
        self.history, self.best = list(tree["history"]), dict(tree["best"])

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of the state that the run will not change."""
        tree = self.pack()
        kept = {"history": list(self.history), "best": dict(self.best)}  # their entries are never changed
        return {**_copy({key: value for key, value in tree.items() if key not in kept}), **kept}

    def weights(self) -> dict[str, Any]:
        """Return the weights that the run would end with now."""
        best: dict[str, Any] = self.best.get("weights", {}) if self.settings.keep == "best" else {}
        return best or self.objective.model.state_dict()

    def lr(self) -> float:
        """Return the learning rate of the first player's next step."""
        return float(self.optimizers[self.players[0].name].param_groups[0]["lr"])


def train_step(state: State, x: Tensor, forward: Forward) -> None:
    """Let every player move on a batch; nothing is read back from the device.

    Args:
        state: The state; it moves on by one step.
        x: The batch, shape ``[B, *event_shape]``.
        forward: The objective, compiled or not.
    """
    for _ in moves(state, x, forward):
        pass


def moves(state: State, x: Tensor, forward: Forward) -> Iterator[tuple[Player, Outcome]]:
    """Go through a step move by move: each is yielded when its gradients are there and its parameters not yet moved.

    All draw from one stream of noise, one after the other, so every move has noise of its own; microbatches have
    streams of their own. With several processes, `x` is the whole batch, and so is every outcome.
    """
    begin(state)
    for player in state.players:
        for turn in range(player.steps):
            outcome = differentiate(state, player, x, forward, turn=turn)
            yield player, outcome
            update(state, player)
            state.schedules[player.name].step()
        collect(state, outcome)
    end(state)


def begin(state: State) -> None:
    """Begin a step: its noise, and the weight of the KL term."""
    reseed(state.settings.seed, "noise", state.step)
    state.objective.kl_weight.fill_(state.settings.kl_weight(state.step))


def differentiate(state: State, player: Player, x: Tensor, forward: Forward, *, turn: int = 0) -> Outcome:
    """Leave the gradients of a player's cost with its parameters, in its turn of this number in the step."""
    settings = state.settings

    def judge(x: Tensor, player: str) -> Outcome:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            return forward(x, player)

    state.optimizers[player.name].zero_grad(set_to_none=True)
    if settings.microbatches not in (None, 1):
        return descend(x, player, judge, settings, step=state.step, turn=turn)
    outcome = judge(x, player.name)
    outcome.cost.backward(inputs=player.parameters)
    return outcome


def update(state: State, player: Player) -> None:
    """Move a player's parameters along their gradients."""
    if state.settings.clip is not None:
        nn.utils.clip_grad_norm_(player.parameters, state.settings.clip)
    state.optimizers[player.name].step()


def collect(state: State, outcome: Outcome) -> None:
    """Add the terms of a player's last move to the sums of the epoch."""
    for name, term in outcome.terms.items():
        seen = state.sums.get(name)
        state.sums[name] = term.detach().double() if seen is None else seen.add_(term)


def end(state: State) -> None:
    """End a step."""
    state.step += 1
    state.batch += 1


def _module(objective: Any) -> nn.Module:
    module: nn.Module = objective
    return module


def _lay_out(optimizer: Optimizer) -> None:
    """Let what an optimizer keeps of a weight lie in memory as the weight does.

    A file knows no layouts, and torch's fused updates go through memory without a look at them (torch 2.13).
    """
    for weight, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                kept[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _plain(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a scheduler's state that are plain values; the functions among them are made anew."""
    return {key: value for key, value in schedule.items() if not callable(value) and key != "lr_lambdas"}


def _copy(tree: Any) -> Any:
    """Return a tree with every tensor cloned."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        return {key: _copy(value) for key, value in tree.items()}
    return [_copy(value) for value in tree] if isinstance(tree, (list, tuple)) else tree
