"""What a run folder tells about its training: the settings and the history, read and checked."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowerbound.core.errors import RunError, explain
from lowerbound.core.files import read_json

if TYPE_CHECKING:
    from lowerbound.evaluation import Scores

__all__ = ["Record", "flat", "read_config", "read_history", "read_record", "scores_are_fresh"]

_SECTIONS = {"recipe", "objective", "model", "data", "training"}


@dataclass(frozen=True)
class Record:
    """The settings and the history of a run.

    Attributes:
        folder: The run folder.
        config: What reproduces the run: nested plain values.
        history: One dict an epoch, with ``epoch``, ``train`` and, if there was any, ``validation``; nats per row.
    """

    folder: Path
    config: dict[str, Any]
    history: list[dict[str, Any]]

    @property
    def bound(self) -> str:
        """The name of the objective's own bound, the first of its terms."""
        return str(next(iter(self.history[0]["train"])))

    @property
    def certified(self) -> bool:
        """Whether that bound is a lower bound of log p(x) in expectation."""
        objective = self.config.get("objective")
        return bool(objective.get("certified", True)) if isinstance(objective, dict) else True


def read_record(run: str | os.PathLike[str]) -> Record:
    """Read the settings and the history of a run folder.

    Raises:
        RunError: if the folder is missing, is no run folder, has no finished epoch, or is damaged.
    """
    folder = Path(run)
    return Record(folder=folder, config=read_config(folder), history=read_history(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a run folder.

    Raises:
        RunError: if the folder is missing or belongs to another program.
    """
    if not folder.is_dir():
        cure = "Check the path; a run folder is written by `lowerbound train` or `lb.fit(..., out=...)`."
        raise RunError(explain(str(folder), expected="a run folder", got="no such folder", cure=cure))
    cure = "Name the folder that `lowerbound train` or `lb.fit(..., out=...)` wrote."
    if not (folder / "config.json").is_file():
        raise RunError(explain(str(folder), expected="a run folder", got="a folder without config.json", cure=cure))
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or not _SECTIONS & config.keys():
        got = "a config.json of another program"
        raise RunError(explain(str(folder), expected="a run folder of lowerbound", got=got, cure=cure))
    return config


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl`` of a run folder.

    Raises:
        RunError: if it is missing or empty, or if a line is damaged; the message gives the line's number.
    """
    path = folder / "metrics.jsonl"
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    history = [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not history:
        cure = "Train for at least one epoch; each finished epoch adds a line."
        raise RunError(explain(str(path), expected="a finished epoch", got="none", cure=cure))
    return history


def _parse(line: str, place: str) -> dict[str, Any]:
    """Return one line of the history."""
    cure = "If it is the last line, a killed process cut it off: delete it. Otherwise restore the file or train again."
    expected = "a JSON object with the number `epoch` and the terms `train`"
    try:
        record = json.loads(line)
    except ValueError as error:
        raise RunError(explain(place, expected=expected, got=error, cure=cure)) from error
    sound = isinstance(record, dict) and isinstance(record.get("epoch"), int) and _terms(record.get("train"))
    if not sound or not (record.get("validation") is None or _terms(record["validation"])):
        raise RunError(explain(place, expected=expected, got=line[:60], cure=cure))
    return dict(record)


def _terms(value: object) -> bool:
    """Return whether a value is a non-empty dict of numbers; None stands for a value that was not finite."""
    if not isinstance(value, dict) or not value:
        return False
    return all(term is None or isinstance(term, (int, float)) for term in value.values())


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings with dotted names.

    Example:
        >>> dict(flat({"training": {"lr": 0.1}, "seed": 0}))
        {'training.lr': 0.1, 'seed': 0}
    """
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def scores_are_fresh(folder: Path, scores: Scores) -> bool:
    """Return whether scores are of the weights that a run folder holds; True where that is not known."""
    evaluated, weights = scores.data.get("weights_sha256"), folder / "model.safetensors"
    if evaluated is None or not weights.exists():
        return True
    return bool(hashlib.sha256(weights.read_bytes()).hexdigest() == evaluated)
