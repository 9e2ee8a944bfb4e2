"""A step's batch in microbatches, each with noise of its own: what several processes share out among them.

The gradient of a step is the mean over its microbatches, weighted by their rows. The noise of a microbatch is a
function of the seed, the step, the turn and the microbatch's number, and not of the process that computes it. So any
number of processes, one among them, makes the same training out of the same microbatches, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from lowerbound.core.distributed import place, total
from lowerbound.core.errors import ArgumentError, explain
from lowerbound.core.random import reseed
from lowerbound.core.types import Objective, Outcome, Player
from lowerbound.objectives.log_weights import draw
from lowerbound.training.settings import Settings

__all__ = ["check_apart", "descend", "settle"]


def settle(settings: Settings, batch_size: int) -> Settings:
    """Return settings with a number of microbatches: the given one, or one for each process.

    Args:
        settings: The settings.
        batch_size: Rows a step.

    Raises:
        ArgumentError: if there are fewer microbatches than processes, or fewer rows than microbatches.
    """
    size = place().size
    count = settings.microbatches or size
    if count < size:
        cure = (
            f"Start {count} at most, or train anew with microbatches={size}; a run keeps the number that it began with."
        )
        expected = f"at least one for each of {size} processes"
        raise ArgumentError(explain("microbatches", expected=expected, got=count, cure=cure))
    if count > batch_size:
        cure = "Raise the batch size, or start fewer processes."
        raise ArgumentError(
            explain("microbatches", expected=f"at most the {batch_size} rows of a step", got=count, cure=cure)
        )
    return replace(settings, microbatches=count)


def descend(
    x: Tensor, player: Player, forward: Callable[[Tensor, str], Outcome], settings: Settings, *, step: int, turn: int
) -> Outcome:
    """Put the gradient of a player's mean cost into its parameters, by this process's microbatches and one all-reduce.

    Args:
        x: The whole batch, shape ``[B, *event_shape]``.
        player: Who moves.
        forward: The objective.
        settings: How many microbatches there are, and the seed of their noise.
        step: The number of the step.
        turn: The number of the player's turn in it.

    Returns:
        The mean outcome of the whole batch, in all processes.
    """
    terms: dict[str, Tensor] = {}
    for number, part in _own(x, settings.microbatches or 1):
        reseed(settings.seed, "noise", player.name, turn, number, step)
        outcome = forward(part, player.name)
        share = len(part) / len(x)
        cost = share * outcome.cost
        cost.backward(inputs=player.parameters)
        for name, term in {"": cost, **{name: share * term for name, term in outcome.terms.items()}}.items():
            terms[name] = terms[name] + term.detach() if name in terms else term.detach()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in player.parameters]
    sums = total([*grads, *terms.values()])
    for parameter, grad in zip(player.parameters, sums, strict=False):
        parameter.grad = grad
    cost, *means = sums[len(grads) :]
    return Outcome(cost, dict(zip(list(terms)[1:], means, strict=True)))


def _own(x: Tensor, count: int) -> list[tuple[int, Tensor]]:
    """Return this process's microbatches with their numbers."""
    rank, size = place()
    numbers = range(rank * count // size, (rank + 1) * count // size)
    parts = x.tensor_split(count)
    return [(number, parts[number]) for number in numbers]


def check_apart(objective: Objective, x: Tensor) -> None:
    """Raise an error if the rows of a batch meet each other in an objective, so that a part of it tells another story.

    Args:
        objective: The objective, in training mode.
        x: Some rows, shape ``[B, *event_shape]``.

    Raises:
        ArgumentError: if they do: in latents that all rows share, or in what the objective keeps of every batch.
    """
    found = _meeting(objective, x)
    if found:
        cure = "Train it in one process, with microbatches=1."
        expected = "an objective in which every row stands alone"
        raise ArgumentError(explain("microbatches", expected=expected, got=found, cure=cure))


@torch.no_grad()
def _meeting(objective: Any, x: Tensor) -> str:
    """Return where rows meet, or an empty string; buffers are left as they were."""
    for name, module in objective.named_modules():
        if isinstance(module, _BatchNorm):
            return f"{type(module).__name__} at {name}, which normalises over the batch"
    if hasattr(objective.model, "programs"):
        made = draw(*objective.model.programs(x), particles=1)
        if tuple(made.log_likelihood().shape) != (1, len(x)):
            return "latents that all rows share"
    before = {name: buffer.clone() for name, buffer in objective.named_buffers()}
    for player in objective.players():
        objective(x, player.name)
    changed = [name for name, buffer in objective.named_buffers() if not torch.equal(buffer, before[name])]
    for name, buffer in objective.named_buffers():
        buffer.copy_(before[name])
    return f"{changed[0]!r}, which follows every batch" if changed else ""
