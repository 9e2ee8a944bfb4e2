"""What a run is trained with, as one value."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from lowerbound.core.checks import choice, number, positive_int
from lowerbound.core.errors import ArgumentError, explain
from lowerbound.core.types import Player

__all__ = ["OptimizerFactory", "ScheduleFactory", "Settings"]

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
ScheduleFactory = Callable[[Optimizer, int], LRScheduler]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # it differs from process to process, and a resumed run compares settings


def _one(step: int) -> float:
    return 1.0


def _one_cycle(optimizer: Optimizer, steps: int) -> OneCycleLR:
    """Return torch's one-cycle schedule; it cycles a momentum too, where the optimizer was given one."""
    groups = optimizer.param_groups
    momentum = any("betas" in group or group.get("momentum", 0) > 0 for group in groups)
    return OneCycleLR(optimizer, [group["lr"] for group in groups], steps, cycle_momentum=momentum)


SCHEDULES: dict[str, ScheduleFactory] = {
    "constant": lambda optimizer, steps: LambdaLR(optimizer, _one),
    "cosine": lambda optimizer, steps: CosineAnnealingLR(optimizer, steps),
    "onecycle": _one_cycle,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an objective is trained; the same values give the same run.

    Attributes:
        epochs: How often every row is seen.
        batch_size: Rows a step.
        optimizer: The name of a class of `torch.optim`, in any case, or a function from parameters to an optimizer.
        lr: The learning rate.
        optimizer_options: Further arguments of the optimizer, such as ``{"alpha": 0.9}``.
        schedule: ``"constant"``, ``"cosine"`` (to zero at the last step), ``"onecycle"``, or a function from an
            optimizer and the number of steps to a torch scheduler, stepped once a step.
        kl_warmup: Steps over which the weight of the KL term rises linearly from 0 to 1.
        clip: The largest norm of a player's gradient; None for no limit.
        patience: Epochs without a better validation bound after which training stops, though not within a warm-up;
            None to never stop early.
        keep: Which weights the run ends with: ``"best"`` by validation, if there are validation rows, or ``"last"``.
        precision: ``"float32"``, or ``"bfloat16"`` for the networks (log-probabilities stay float32), or ``"auto"``
            for the faster one.
        compile: Whether torch compiles the steps: whole ones on a processor (objective, gradient and update together)
            for objectives of the library under Adam, AdamW or RMSprop, and else the objective alone; ``"graphs"`` to
            record the kernels of a step once and have an NVIDIA device replay them; ``"auto"`` for whichever makes the
            run shortest. What is faster is measured on the first batch, by steps that the run does not keep;
            ``config.json`` says what was decided, and a resumed run keeps to it.
        microbatches: Parts in which a step's batch is computed, each with noise of its own, to save memory or to share
            them out among processes; None for one for each process.
        seed: The seed of everything that is drawn.
    """

    epochs: int = 100
    batch_size: int = 128
    optimizer: str | OptimizerFactory = "adam"
    lr: float = 1e-3
    optimizer_options: dict[str, Any] | None = None
    schedule: str | ScheduleFactory = "constant"
    kl_warmup: int = 0
    clip: float | None = None
    patience: int | None = None
    keep: Literal["best", "last"] = "best"
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    compile: bool | Literal["graphs", "auto"] = False
    microbatches: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        positive_int("epochs", self.epochs)
        positive_int("batch_size", self.batch_size)
        number("lr", self.lr, low=0.0, open_low=True)
        number("kl_warmup", self.kl_warmup, low=0)
        choice("keep", self.keep, ("best", "last"))
        choice("precision", self.precision, ("float32", "bfloat16", "auto"))
        if self.compile not in (True, False, "graphs", "auto"):
            cure = "Let the run measure it with 'auto', or decide."
            expected = "True, False, 'graphs' or 'auto'"
            raise ArgumentError(explain("compile", expected=expected, got=repr(self.compile), cure=cure))
        if self.microbatches is not None:
            positive_int("microbatches", self.microbatches)
        if self.clip is not None:
            number("clip", self.clip, low=0.0, open_low=True)
        if self.patience is not None:
            positive_int("patience", self.patience)
        if isinstance(self.optimizer, str):
            choice("optimizer", self.optimizer.lower(), _optimizers())
        if isinstance(self.schedule, str):
            choice("schedule", self.schedule, SCHEDULES)
        for name, value in (("optimizer", self.optimizer), ("schedule", self.schedule)):
            if not (isinstance(value, str) or callable(value)):
                cure = f"The run makes its own {name}: pass {name}=lambda ...: ... instead of an object."
                got = type(value).__name__
                raise ArgumentError(explain(name, expected="a name or a function that makes one", got=got, cure=cure))

    def check_length(self, steps: int) -> None:
        """Raise an error if the KL warm-up would not be over when training ends.

        Raises:
            ArgumentError: if `kl_warmup` exceeds `steps`, the number of steps of the whole run.
        """
        if self.kl_warmup > steps:
            cure = "Train longer or shorten the warm-up: the objective is the bound only at its end."
            raise ArgumentError(
                explain("kl_warmup", expected=f"at most the run's {steps} steps", got=self.kl_warmup, cure=cure)
            )

    def kl_weight(self, step: int) -> float:
        """Return the weight of the KL term at a step, counted from 0."""
        return min(1.0, (step + 1) / self.kl_warmup) if self.kl_warmup else 1.0

    def make_optimizer(self, player: Player) -> Optimizer:
        """Return the optimizer of a player.

        Raises:
            ArgumentError: if the optimizer does not take one of its options, or not with that value.
        """
        own = {name: value for name, value in player.settings.items() if name != "schedule"}
        if not isinstance(self.optimizer, str):
            if own:
                cure = "Name the optimizer, or leave them out and let the function choose by the parameters it gets."
                expected = f"an optimizer by name, for {player.name} has settings of its own ({', '.join(own)})"
                raise ArgumentError(explain("optimizer", expected=expected, got="a function", cure=cure))
            return self.optimizer(player.parameters)
        kind = _optimizers()[self.optimizer.lower()]
        options = {"lr": self.lr, **(self.optimizer_options or {}), **own}
        known = inspect.signature(kind).parameters
        unknown = [name for name in options if name not in known]
        if unknown:
            names = ", ".join(name for name in known if name not in ("params", "lr"))
            cure = f"Options of {kind.__name__}: {names}."
            raise ArgumentError(
                explain("optimizer_options", expected=f"options of {kind.__name__}", got=unknown, cure=cure)
            )
        if "fused" in known and "foreach" not in options:
            options.setdefault("fused", all(p.is_floating_point() for p in player.parameters))
        try:
            optimizer: Optimizer = kind(player.parameters, **options)
        except (TypeError, ValueError, RuntimeError) as error:
            cure = f"See torch.optim.{kind.__name__} for what its options may be."
            expected = f"values that {kind.__name__} takes"
            raise ArgumentError(explain("optimizer_options", expected=expected, got=error, cure=cure)) from error
        return optimizer

    def make_schedule(self, player: Player, optimizer: Optimizer, steps: int) -> LRScheduler:
        """Return the learning-rate schedule of a player's optimizer over `steps` steps of the run."""
        schedule = player.settings.get("schedule", self.schedule)
        factory = SCHEDULES[choice("schedule", schedule, SCHEDULES)] if isinstance(schedule, str) else schedule
        return factory(optimizer, steps * player.steps)

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain values; functions are named, and a single microbatch is not."""
        return {
            key: getattr(value, "__name__", _ADDRESS.sub("", repr(value))) if callable(value) else value
            for key, value in asdict(self).items()
            if key != "microbatches" or value not in (None, 1)
        }


def _optimizers() -> dict[str, Any]:
    """Return torch's optimizers that need no closure and no sparse gradients, by lower-case name."""
    kinds = {name.lower(): kind for name, kind in vars(torch.optim).items() if inspect.isclass(kind)}
    return {
        name: kind
        for name, kind in kinds.items()
        if issubclass(kind, Optimizer) and name not in ("optimizer", "lbfgs", "sparseadam", "muon")
    }
