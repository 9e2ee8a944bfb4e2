"""What watches a run: called by the loop, never changing it."""

from __future__ import annotations

import os
import time
from typing import Any

from torch import Tensor

from lowerbound.core.errors import ArgumentError, explain

__all__ = ["Callback", "ProgressBar", "TensorBoard"]


_PARTS = ("reconstruction", "kl", "kl_estimate")  # of the bound: left out where a critic's terms need the room


class Callback:
    """A watcher of a run: override what you want to hear of; nothing here does anything."""

    def note(self, line: str) -> None:
        """Hear of what the run has decided, in words, before it begins."""

    def start(self, *, epochs: int, batches: int, epoch: int, batch: int) -> None:
        """Begin: the length of the run, and how far it has come already."""

    def step(self, *, epoch: int, batch: int, sums: dict[str, Tensor]) -> None:
        """Hear of a step; reading a value of `sums`, the terms summed over the epoch, waits for the device."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Hear of an epoch's record, the line that goes into ``metrics.jsonl``."""

    def stop(self) -> None:
        """End, also after an error."""


class ProgressBar(Callback):
    """A progress bar with the objective's terms and the speed; it reads values at most four times a second.

    Args:
        certified: Whether the first term is a lower bound of log p(x); if not, it is shown as none.
    """

    def __init__(self, *, certified: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
        )
        self._mark = "" if certified else " (no bound)"
        self._task: Any = None
        self._next = 0.0

    def note(self, line: str) -> None:
        """Print the line."""
        self._bar.console.print(line, highlight=False)

    def start(self, *, epochs: int, batches: int, epoch: int, batch: int) -> None:
        """Show the bar."""
        self._epochs, self._batches = epochs, batches
        done = epoch * batches + batch
        self._task = self._bar.add_task("", total=epochs * batches, completed=done, epoch=f"{epoch}/{epochs}", text="")
        self._bar.start()
        self._clock, self._from = time.monotonic(), done

    def step(self, *, epoch: int, batch: int, sums: dict[str, Tensor]) -> None:
        """Move the bar."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 0.25
        self._show(epoch, batch, {name: float(value) / max(batch, 1) for name, value in sums.items()})

    def epoch(self, record: dict[str, Any]) -> None:
        """Show the whole epoch, so that the bar ends full."""
        self._show(record["epoch"] - 1, self._batches, record["train"])

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def _show(self, epoch: int, batch: int, terms: dict[str, float]) -> None:
        done = epoch * self._batches + batch
        speed = (done - self._from) / max(time.monotonic() - self._clock, 1e-9)
        names = [name for name in terms if len(terms) <= 3 or name not in _PARTS]
        shown = "  ".join(f"{name} {terms[name]:.2f}{'' if i else self._mark}" for i, name in enumerate(names))
        self._bar.update(
            self._task, completed=done, epoch=f"{epoch + 1}/{self._epochs}", text=f"{shown}  {speed:.0f} steps/s"
        )


class TensorBoard(Callback):
    """Scalars of every epoch for TensorBoard, an extra.

    Args:
        folder: Where the event files go.

    Raises:
        ArgumentError: if TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            cure = "Install it: pip install 'lowerbound[tensorboard]'."
            raise ArgumentError(
                explain("tensorboard", expected="the package tensorboard", got="none", cure=cure)
            ) from error
        self._open, self._folder = SummaryWriter, os.fspath(folder)

    def start(self, *, epochs: int, batches: int, epoch: int, batch: int) -> None:
        """Open the event file; steps that a resumed run repeats replace the old ones."""
        self._writer = self._open(self._folder, purge_step=epoch * batches + 1)

    def epoch(self, record: dict[str, Any]) -> None:
        """Write the record's numbers."""
        for group in ("train", "validation"):
            for name, value in (record.get(group) or {}).items():
                self._writer.add_scalar(f"{group}/{name}", value, record["step"])
        for name in ("lr", "kl_weight", "rows_per_second"):
            self._writer.add_scalar(f"training/{name}", record[name], record["step"])

    def stop(self) -> None:
        """Close the event file."""
        self._writer.close()
