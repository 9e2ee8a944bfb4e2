"""A step as one compiled function for each player's move: the objective, its gradient and the update together.

Between separate kernels, arrays leave the processor's caches, and Python and dispatch take their time. Compiled as a
whole, what follows a matrix product is fused, and the update meets each gradient while it is still in the cache.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import Optimizer

from lowerbound.core.types import Outcome, Player
from lowerbound.training.products import PRODUCTS
from lowerbound.training.state import State, begin, collect, end
from lowerbound.training.updates import update_of

__all__ = ["CompiledStep", "NotTraceable"]

_WATCHED = frozenset({"lowerbound", "torch", "zuko"})  # packages whose modules keep nothing that moves but tensors


class NotTraceable(Exception):  # noqa: N818 (it is caught, and no user's affair)
    """An objective decides by values, which a trace cannot follow."""


class CompiledStep:
    """A training step on the processor whose moves are compiled whole; the numbers are `train_step`'s, to rounding.

    A move is traced once, on copies: whatever the objective reads that is no tensor of its own is fixed from then on.
    Modules of other packages than the library's may count or anneal in Python, so `suits` refuses them.

    Raises:
        NotTraceable: at the first step, before anything has moved, if the objective decides by values.
    """

    def __init__(self) -> None:
        self._moves: dict[tuple[Any, ...], Callable[[State, Tensor], Outcome]] = {}

    @staticmethod
    def suits(state: State) -> bool:
        """Return whether the moves of a run can be compiled whole."""
        objective: Any = state.objective
        return (
            objective.kl_weight.device.type == "cpu"
            and state.settings.microbatches in (None, 1)
            and {type(module).__module__.partition(".")[0] for module in objective.modules()} <= _WATCHED
            and all(update_of(optimizer) is not None for optimizer in state.optimizers.values())
        )

    def __call__(self, state: State, x: Tensor) -> None:
        """Let every player move on a batch, shape ``[B, *event_shape]``."""
        begin(state)
        form = (x.shape, x.stride(), x.dtype, state.settings.precision)
        if (state.players[0].name, form) not in self._moves:
            for player in state.players:
                self._moves[player.name, form] = _compile_move(state, player, x)
            begin(state)  # tracing has drawn from the stream
        for player in state.players:
            for _ in range(player.steps):
                outcome = self._moves[player.name, form](state, x)
                _advance(state, player)
            collect(state, outcome)
        end(state)


def _compile_move(state: State, player: Player, x: Tensor) -> Callable[[State, Tensor], Outcome]:
    """Return a player's move on batches like `x`; it leaves no gradients behind."""
    objective: Any = state.objective
    settings, optimizer = state.settings, state.optimizers[player.name]
    update = update_of(optimizer)
    if update is None:
        raise NotTraceable
    (group,) = optimizer.param_groups
    tensors = {**dict(objective.named_parameters()), **dict(objective.named_buffers())}
    names = {id(tensor): name for name, tensor in tensors.items()}
    own = {names[id(parameter)]: parameter for parameter in player.parameters}
    learned: list[str] = []  # those of them that have a gradient

    def move(values: list[Tensor], kept: list[list[Tensor]], rates: Tensor, x: Tensor) -> Outcome:
        given = dict(zip(tensors, values, strict=True))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            outcome: Outcome = torch.func.functional_call(objective, given, (x, player.name))
        found = torch.autograd.grad(outcome.cost, [given[name] for name in own], allow_unused=True)
        learned[:] = [name for name, gradient in zip(own, found, strict=True) if gradient is not None]
        gradients = _clipped([gradient for gradient in found if gradient is not None], settings.clip)
        with torch.no_grad():
            for name, gradient, (*parts, steps) in zip(learned, gradients, kept, strict=False):
                update.move(given[name], gradient, parts, rates, group)
                steps.add_(1)
        return outcome

    def copies() -> list[Tensor]:
        return [tensor.detach().clone().requires_grad_(name in own) for name, tensor in tensors.items()]

    def kept_of(optimizer: Optimizer, *, copy: bool = False) -> list[list[Tensor]]:
        kept = [update.kept(optimizer, own[name]) for name in learned]
        return [[part.clone() for part in parts] for parts in kept] if copy else kept

    rates = update.rates_of(optimizer, torch.zeros(()))
    try:
        move(copies(), [], rates, x)  # tells which parameters are learned
        trace = make_fx(move, decomposition_table=PRODUCTS)
        traced = trace(copies(), kept_of(optimizer, copy=True), rates, x)
    except RuntimeError as error:
        raise NotTraceable from error
    # The forms of all arrays are those of the trace, so nothing need be checked at each call.
    unchecked: Any = {"guard_filter_fn": lambda guards: [False] * len(guards), "size_asserts": False}
    options = {"fallback_random": True, **unchecked}
    compiled: Any = torch.compile(traced, fullgraph=True, dynamic=False, options=options)
    live = [tensor.detach() for tensor in tensors.values()]

    @torch.no_grad()
    def call(state: State, x: Tensor) -> Outcome:
        optimizer = state.optimizers[player.name]
        kept = kept_of(optimizer)
        return Outcome(*compiled(live, kept, update.rates_of(optimizer, kept[0][-1]), x))

    return call


def _clipped(gradients: Sequence[Tensor], largest: float | None) -> Sequence[Tensor]:
    """Return gradients whose common norm is at most `largest`, as `torch.nn.utils.clip_grad_norm_` leaves them."""
    if largest is None:
        return gradients
    factor = (largest / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
    return [gradient * factor for gradient in gradients]


def _advance(state: State, player: Player) -> None:
    """Go on to the next learning rate; before the first, torch would remark that its own optimizer has not moved."""
    if state.step:
        state.schedules[player.name].step()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state.schedules[player.name].step()
