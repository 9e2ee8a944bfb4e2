"""Numbers that are not finite: noticed without waiting for the device, then found by replaying the steps.

Every `EVERY` steps, and before every checkpoint, the running sums and the weights are read once. A bad step leaves
them NaN or infinite for good, so nothing is missed. The noise of a step is a function of its number, so the steps since
the last good reading can be replayed from a copy of the state, one by one, and the first bad one examined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.core.distributed import gather
from lowerbound.core.errors import NonFiniteError
from lowerbound.core.files import write_tree
from lowerbound.core.types import Outcome, Player
from lowerbound.training.state import State, moves

__all__ = ["EVERY", "Watch"]

EVERY = 50


class Watch:
    """Keeps a good state, and replays the steps since then when a number is not finite.

    Args:
        state: The state of the run.
        batches: From an epoch and the number of a batch to the batches from there to the epoch's end; it is called
            again to replay them, so no batch is held.
        folder: Where the offending batch and the last good weights are written; None to write nothing.
    """

    def __init__(self, state: State, batches: Callable[[int, int], Iterator[Tensor]], folder: Path | None) -> None:
        self._state, self._batches, self._folder = state, batches, folder
        self._good = state.snapshot()

    def look(self, *, now: bool = False) -> bool:
        """Read the sums and the weights if it is time to, or `now`.

        Several processes must look at the same steps: to find a bad one, they repeat the steps together.

        Returns:
            Whether all steps so far were looked at.

        Raises:
            NonFiniteError: if a step since the last reading was bad.
        """
        steps = self._state.step - int(self._good["step"])
        if not steps:
            return True
        if not now and steps < EVERY:
            return False
        if not all(bool(value.isfinite()) for value in self._state.sums.values()) or _bad_weight(self._state):
            self._replay()
        if steps >= EVERY:
            self._good = self._state.snapshot()
        return True

    def _replay(self) -> None:
        """Go back to the good state, repeat the steps, and raise at the first bad one."""
        state, last = self._state, self._state.step
        state.unpack(self._good)
        x = torch.empty(0)
        for x in self._since():
            before = state.snapshot()
            if found := _repeat(state, x):
                state.unpack(before)
                self._report(x, found)
            if state.step == last:
                break
        self._report(x, "the sums of the terms overflow, though each step alone is finite")

    def _since(self) -> Iterator[Tensor]:
        """Yield the batches since the good state, through the ends of epochs."""
        epoch, start = self._good["epoch"], self._good["batch"]
        while True:
            yield from self._batches(epoch, start)
            epoch, start = epoch + 1, 0

    def _report(self, x: Tensor, found: str) -> None:
        state = self._state
        kept = ""
        if self._folder is not None:
            weights = state.objective.model.state_dict()
            write_tree(self._folder / "state" / "bad_batch.safetensors", {"x": x, "step": state.step})
            write_tree(self._folder / "state" / "last_good.safetensors", {"weights": weights, "step": state.step})
            kept = (
                " Kept: the batch in state/bad_batch.safetensors, the last good weights in state/last_good.safetensors."
            )
        cure = "Lower the learning rate, clip the gradient (clip=1.0), or look at the scale of the data."
        raise NonFiniteError(f"step {state.step}: {found}. {cure}{kept}")


def _repeat(state: State, x: Tensor) -> str:
    """Repeat the next step on a batch and return what is not finite in it, if anything is; it may be left midway."""
    gaps: Any = getattr(state.objective.model, "missing", False)  # NaN then
    bad = x.isinf() if gaps else ~x.isfinite()
    if bool(bad.any()):
        return f"the batch holds {int(bad.sum())} values that are not finite"
    layers: list[str] = []
    hooks = [_listen(name, module, layers) for name, module in _layers(state.objective)]
    try:
        for player, outcome in moves(state, x, state.objective):
            if found := _examine(state, player, outcome, layers):
                return found
    finally:
        for hook in hooks:
            hook.remove()
    name = _bad_weight(state)
    return f"the update of {name!r} is not finite, though its gradient is" if name else ""


def _examine(state: State, player: Player, outcome: Outcome, layers: list[str]) -> str:
    """Return what is not finite in a move, or an empty string."""
    terms = [name for name, term in outcome.terms.items() if not bool(term.isfinite())]
    if terms or not bool(outcome.cost.isfinite()):
        named = [name for seen in gather({"layers": layers[:1]}) for name in seen["layers"]]
        where = f", first in layer {named[0]!r}" if named else ", in no layer: the densities overflow"
        parts = [name for name in terms if name in ("reconstruction", "kl", "kl_estimate")] or terms or ["cost"]
        return f"{' and '.join(map(repr, parts))} {'are' if len(parts) > 1 else 'is'} not finite{where}"
    moved = {id(parameter) for parameter in player.parameters}
    for name, parameter in _parameters(state.objective):
        if id(parameter) in moved and parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return f"the gradient of {name!r} is not finite, though the bound is"
    return ""


def _bad_weight(state: State) -> str:
    """Return the name of the first trained parameter that is not finite, or ""; the device is read once."""
    trained = {id(parameter) for player in state.players for parameter in player.parameters}
    named = [(name, parameter) for name, parameter in _parameters(state.objective) if id(parameter) in trained]
    finite = torch.stack([parameter.detach().isfinite().all() for _, parameter in named]).tolist()
    return next((name for (name, _), fine in zip(named, finite, strict=True) if not fine), "")


def _layers(objective: Any) -> Iterable[tuple[str, nn.Module]]:
    return [(name, module) for name, module in objective.named_modules() if not list(module.children())]


def _parameters(objective: Any) -> Iterable[tuple[str, nn.Parameter]]:
    return list(objective.named_parameters())


def _listen(name: str, module: nn.Module, found: list[str]) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not bool(output.isfinite().all()):
            found.append(name)

    return module.register_forward_hook(hook)
