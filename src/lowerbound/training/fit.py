"""The training loop."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.core.device import find_device
from lowerbound.core.distributed import by_first, gather, place, share
from lowerbound.core.errors import ArgumentError, NonFiniteError, TrainingWarning, explain
from lowerbound.core.numerics import flushed_denormals
from lowerbound.core.random import reseed, seeded
from lowerbound.core.types import Data, Objective, follows
from lowerbound.core.versions import version
from lowerbound.training.callbacks import Callback, ProgressBar
from lowerbound.training.checkpoint import Checkpoint
from lowerbound.training.microbatches import check_apart, settle
from lowerbound.training.modes import choose, recorded
from lowerbound.training.run import Run
from lowerbound.training.settings import Settings
from lowerbound.training.state import State
from lowerbound.training.watch import Watch

__all__ = ["fit"]

_STUCK = 3  # epochs in a row with remarks before they are said
_STARTING = 200  # steps on which no remark is said


def fit(
    objective: Objective,
    train: Data,
    *,
    validation: Data | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    checkpoint_seconds: float = 15.0,
    config: dict[str, Any] | None = None,
    state: State | None = None,
    **settings: Any,
) -> Run:
    """Train an objective on data.

    The noise of every step and the order of every epoch are functions of the seed, so the same call gives the same
    weights, bit for bit, on the same machine; and so does a call that was killed at any point and resumed.

    Under torchrun, all processes make this call. They share out the microbatches of every step, so that as many
    processes as you like make the same training out of the same `microbatches`, to rounding. The first one alone
    writes, and has a progress bar and callbacks.

    Args:
        objective: What is maximised, such as ``lb.objectives.ELBO(model)``.
        train: The rows to train on.
        validation: Rows on which the objective is computed after every epoch; they choose the weights that are kept,
            unless the objective is no certified bound: then the last are.
        out: The run folder; None to write nothing.
        resume: Whether to go on with the run in `out`, if there is one.
        device: Where to train, such as ``"cpu"`` or ``"cuda"``; ``"auto"`` takes an accelerator if there is one.
        progress: Whether to show a progress bar.
        callbacks: Further watchers of the run.
        checkpoint_seconds: The least time between two checkpoints; the end of the run always makes one.
        config: What else ``config.json`` should hold, such as the command that was typed.
        state: The moving parts of this objective, a `lowerbound.training.State`, to go on from with these rows until
            `epochs` are over in all. It is moved on, by its own settings of optimizer and warm-up. None to start.
        settings: The arguments of `lowerbound.training.settings.Settings`: epochs, batch_size, optimizer, lr, schedule,
            kl_warmup, clip, patience, keep, precision, compile, microbatches, seed and optimizer_options.

    Returns:
        The run: the trained model (on `device`, in evaluation mode), its history and its folder.

    Raises:
        ArgumentError: if a setting is out of range or the device is not there.
        NodeError: if the model cannot take the data; the message names the node and the cure.
        RunError: if `out` holds another run, is written by another process, or cannot be written.
        NonFiniteError: at the first value that is not finite; the message names the term and the layer.

    Example:
        >>> train, test = lb.data.digits()
        >>> model = lb.models.VAE(event_shape=(8, 8), latent_dim=2, hidden=(32,))
        >>> run = lb.fit(lb.objectives.ELBO(model), train, epochs=2, progress=False)
        >>> [record["epoch"] for record in run.history]
        [1, 2]
    """
    here, chosen, device = place(), _settings(settings), find_device(device)
    module, data, validation = _to(objective, train, validation, device)
    batch_size = min(chosen.batch_size, len(data))
    batches = len(data) // batch_size
    checkpoint = Checkpoint(out, checkpoint_seconds) if out is not None and here.first else None
    before = by_first(lambda: checkpoint.continued(resume=resume) if checkpoint else {})
    chosen = settle(recorded(chosen, before), batch_size)
    if state is None:
        chosen.check_length(chosen.epochs * batches)
    else:
        _check_state(state, objective, out)
        state.settings = replace(state.settings, microbatches=chosen.microbatches)
    if chosen.patience is not None and validation is None:
        cure = "Pass validation rows, or leave patience out."
        raise ArgumentError(explain("patience", expected="validation rows to judge by", got="none", cure=cure))
    if chosen.patience is not None and not objective.certified:
        cure = "Leave patience out, and compare runs by their scores."
        got = f"{type(objective).__name__}, whose estimate is no bound"
        raise ArgumentError(explain("patience", expected="an objective that is a bound", got=got, cure=cure))
    with seeded(chosen.seed, "validate"):
        first = next(iter(data.evaluation_batches(batch_size))).to(device)
        objective.validate(first)
        if chosen.microbatches != 1:
            module.train()
            check_apart(objective, first[: max(2, batch_size // (chosen.microbatches or 1))])

    watchers = [*([ProgressBar(certified=objective.certified)] if progress else []), *callbacks] if here.first else []
    state = state or State(objective, chosen, chosen.epochs * batches)

    def batches_from(epoch: int, start: int) -> Iterator[Tensor]:
        rows = data.batches(batch_size, seed=chosen.seed, epoch=epoch, start=start)
        return (x.to(device, non_blocking=True) for x in rows)

    with flushed_denormals(), seeded(chosen.seed, "fit"):
        module.train()
        mode = choose(state, first, chosen.epochs * batches - state.step)
    chosen = mode.settings(chosen)
    state.settings = mode.settings(state.settings)
    description = {
        "objective": objective.describe(),
        "data": train.describe(),
        "validation": validation.describe() if validation is not None else None,
        "training": {**chosen.describe(), "device": str(device)},
        "versions": {
            "lowerbound": version("lowerbound"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        **(config or {}),
    }
    by_first(lambda: checkpoint.open(description, state, resume=resume) if checkpoint else None)
    if here.size > 1:
        begun = share(state.pack())
        if not here.first:
            state.unpack(begun)
    watch = Watch(state, batches_from, checkpoint.folder if checkpoint else None)
    held = contextlib.closing(checkpoint) if checkpoint else contextlib.nullcontext()

    with held, flushed_denormals(), seeded(chosen.seed, "fit"):
        for watcher in watchers:
            if mode.milliseconds:
                watcher.note(str(mode))
            watcher.start(epochs=chosen.epochs, batches=batches, epoch=state.epoch, batch=state.batch)
        try:
            while state.epoch < chosen.epochs and not _should_stop(state):
                clock, start = time.perf_counter(), state.batch
                for x in batches_from(state.epoch, state.batch):
                    mode.step(state, x)
                    watch.look()
                    for watcher in watchers:
                        watcher.step(epoch=state.epoch, batch=state.batch, sums=state.sums)
                    if checkpoint and state.batch < batches and checkpoint.due() and watch.look(now=here.size == 1):
                        checkpoint.save(state)
                watch.look(now=True)
                seconds = time.perf_counter() - clock
                record = _close_epoch(state, validation, batch_size, seconds, (batches - start) * batch_size / seconds)
                for watcher in watchers:
                    watcher.epoch(record)
                for remark in _to_say(state.history) if here.first else []:
                    warnings.warn(f"epoch {record['epoch']}: {remark}", TrainingWarning, stacklevel=2)
                if checkpoint and (checkpoint.due() or state.epoch == chosen.epochs or _should_stop(state)):
                    checkpoint.save(state)
        finally:
            for watcher in watchers:
                watcher.stop()

    share({})  # the first process has written all
    objective.model.load_state_dict(state.weights())
    module.eval()
    return Run(objective.model, state.history, description, None if out is None else Path(out))


def _close_epoch(
    state: State, validation: Data | None, batch_size: int, seconds: float, rows_per_second: float
) -> dict[str, Any]:
    """Turn the sums of an epoch into its record, and keep the weights if they are the best so far."""
    record: dict[str, Any] = {
        "epoch": state.epoch + 1,
        "step": state.step,
        "seconds": round(seconds, 3),
        "train": {name: float(value) / state.batch for name, value in state.sums.items()},
        "lr": state.lr(),
        "kl_weight": state.settings.kl_weight(state.step - 1),
        "rows_per_second": round(rows_per_second, 1),
    }
    if remarks := state.objective.remarks(record["train"]):
        record["remarks"] = remarks
    if validation is not None:
        record["validation"] = _validate(state, validation, batch_size)
        bound = next(iter(record["validation"].values()))
        if state.objective.certified and (not state.best or bound > state.best["bound"]):
            weights = {name: value.detach().clone() for name, value in state.objective.model.state_dict().items()}
            state.best = {"bound": bound, "epoch": state.epoch + 1, "weights": weights}
    state.history.append(record)
    state.epoch, state.batch, state.sums = state.epoch + 1, 0, {}
    return record


def _to_say(history: Sequence[dict[str, Any]]) -> list[str]:
    """Return the remarks on the last epoch if it is the third in a row to have any: once each time, and no passing."""
    in_a_row = 0
    for record in reversed(history):
        if "remarks" not in record or record["step"] <= _STARTING:
            break
        in_a_row += 1
    return list(history[-1]["remarks"]) if in_a_row == _STUCK else []


@torch.no_grad()
def _validate(state: State, validation: Data, batch_size: int) -> dict[str, float]:
    """Return the objective's mean terms on the validation rows, under the same noise after every epoch."""
    module: Any = state.objective
    module.eval()
    here, own = place(), dict[str, Tensor]()
    with seeded(state.settings.seed, "validation"):
        for number, x in enumerate(validation.evaluation_batches(batch_size)):
            if number % here.size != here.rank:
                continue
            reseed(state.settings.seed, "validation", number)
            x = x.to(state.objective.kl_weight.device)
            for player in state.players:
                for name, term in state.objective(x, player.name).terms.items():
                    own[name] = own.get(name, 0.0) + term.double() * len(x)
    module.train()
    totals: dict[str, Tensor] = {}
    for part in gather(own):
        for name, value in part.items():
            totals[name] = totals.get(name, 0.0) + value.cpu()
    means = {name: float(total) / len(validation) for name, total in totals.items()}
    bad = [name for name, mean in means.items() if not math.isfinite(mean)]
    if bad:
        cure = "Look for validation rows far from the training rows, or lower the learning rate."
        where = f"validation after epoch {state.epoch + 1}"
        raise NonFiniteError(f"{where}: {', '.join(map(repr, bad))} not finite. {cure}")
    return means


def _should_stop(state: State) -> bool:
    """Return whether patience is over; a warm-up is finished first."""
    patience = state.settings.patience
    if patience is None or not state.best or state.step < state.settings.kl_warmup:
        return False
    return bool(state.epoch - state.best["epoch"] >= patience)


def _settings(settings: dict[str, Any]) -> Settings:
    unknown = [name for name in settings if name not in Settings.__dataclass_fields__]
    if unknown:
        cure = f"Known settings: {', '.join(Settings.__dataclass_fields__)}."
        raise ArgumentError(explain("fit", expected="known settings", got=unknown, cure=cure))
    chosen = Settings(**settings)
    return chosen


def _check_state(state: State, objective: Objective, out: str | os.PathLike[str] | None) -> None:
    """Raise an error if a run cannot go on from a state."""
    if state.objective is not objective:
        cure = "Pass the objective from which the state was made."
        raise ArgumentError(explain("state", expected="one of this objective", got="another's", cure=cure))
    if out is not None:
        cure = "Leave one of them out: resume=True goes on from the state in the folder."
        raise ArgumentError(explain("state", expected="no run folder beside it", got=str(out), cure=cure))


def _to(objective: Objective, train: Data, validation: Data | None, device: str) -> tuple[nn.Module, Data, Data | None]:
    """Move the objective, and data that live in memory, to the device."""
    if not isinstance(objective, nn.Module) or not follows(objective, Objective):
        cure = "Pass lowerbound.objectives.ELBO(model), or another objective."
        raise ArgumentError(explain("objective", expected="an objective", got=type(objective).__name__, cure=cure))
    objective.to(device)
    for name, rows in (("train", train), ("validation", validation)):
        if rows is not None and not follows(rows, Data):
            cure = "Load it with lowerbound.data, or wrap an array as lowerbound.data.Dataset(array)."
            raise ArgumentError(explain(name, expected="a data set", got=type(rows).__name__, cure=cure))
    moved = [data.to(device) if hasattr(data, "to") else data for data in (train, validation) if data is not None]
    return objective, moved[0], moved[1] if validation is not None else None
