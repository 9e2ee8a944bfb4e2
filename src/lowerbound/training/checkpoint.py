"""The run folder: what identifies the run, its weights, its history, and the state from which it goes on.

| file | holds |
| --- | --- |
| ``config.json`` | what was trained on what, with which settings and versions |
| ``model.safetensors`` | the weights to use: the best by validation, or the last |
| ``state/last.safetensors`` | everything that a resumed run needs |
| ``metrics.jsonl`` | one line an epoch |
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lowerbound.core.distributed import remember, remembered
from lowerbound.core.errors import RunError, explain
from lowerbound.core.files import LOCK, locked, read_json, read_tree, unlock, write_bytes, write_json, write_tree
from lowerbound.training.state import State

__all__ = ["Checkpoint", "check_format", "read_weights"]

FORMAT = 1


class Checkpoint:
    """The folder of one run.

    Args:
        folder: The run folder.
        seconds: The least time between two checkpoints of a run; its end always makes one.
    """

    def __init__(self, folder: str | os.PathLike[str], seconds: float = 15.0) -> None:
        self.folder, self.seconds = Path(folder), seconds
        self._written = time.monotonic()
        self._lock: Any = None

    @property
    def _restarted(self) -> bool:
        """Whether torchrun has started these processes in the place of others that had taken the folder."""
        return remembered(str(self.folder.absolute()))

    def config(self) -> dict[str, Any]:
        """Return what the folder's ``config.json`` says, empty if there is none that can be read."""
        try:
            found = read_json(self.folder / "config.json")
        except RunError:
            return {}
        return found if isinstance(found, dict) else {}

    def continued(self, *, resume: bool) -> dict[str, Any]:
        """Return what ``config.json`` says of the run that is to go on, empty if none is."""
        return self.config() if resume or self._restarted else {}

    def open(self, config: dict[str, Any], state: State, *, resume: bool) -> None:
        """Take the folder for a run; if it holds the run already, bring `state` to where that one was.

        It is locked until `close`. After a restart by torchrun, the run goes on with or without `resume`.

        Raises:
            RunError: if the folder holds another run, one that `resume` does not allow to continue, or a damaged one,
                or another process writes it; nothing in it was changed.
        """
        known = self.folder / "config.json"
        config = {"format": FORMAT, **config}
        if self.folder.exists() and not self.folder.is_dir():
            cure = "Choose a new folder; the file is untouched."
            raise RunError(explain(str(self.folder), expected="a new or empty folder", got="a file", cure=cure))
        if not known.exists() and self.folder.exists() and any(map(_foreign, self.folder.iterdir())):
            cure = "Choose a new folder; nothing in this one was changed."
            raise RunError(explain(str(self.folder), expected="a new or empty folder", got="other files", cure=cure))
        self._lock = locked(self.folder)
        try:
            self._take(known, config, state, resume=resume)
        except BaseException:
            self.close()
            raise

    def _take(self, known: Path, config: dict[str, Any], state: State, *, resume: bool) -> None:
        if known.exists():
            if not (resume or self._restarted):
                cure = "Pass resume=True (--resume) to go on, or choose another folder."
                raise RunError(explain(str(self.folder), expected="a new or empty folder", got="a run", cure=cure))
            self._check_same(read_json(known), config)
            self._restore(state)
            for leftover in self.folder.rglob(".*.part"):  # of a save that was killed
                leftover.unlink(missing_ok=True)
        write_json(known, config)
        remember(str(self.folder.absolute()))

    def close(self) -> None:
        """Give the folder free."""
        if self._lock is not None:
            unlock(self._lock)
            self._lock = None

    def due(self) -> bool:
        """Return whether the time between checkpoints is over."""
        return time.monotonic() - self._written >= self.seconds

    def save(self, state: State) -> None:
        """Write state, weights and history, each file whole or not at all; the state last."""
        write_tree(self.folder / "model.safetensors", {"format": FORMAT, "weights": state.weights()})
        write_bytes(self.folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in state.history).encode())
        write_tree(self.folder / "state" / "last.safetensors", {"format": FORMAT, **state.pack()})
        self._written = time.monotonic()

    def _restore(self, state: State) -> None:
        path = self.folder / "state" / "last.safetensors"
        if not path.exists():  # killed before its first checkpoint
            return
        tree = _read(path, "objective", "optimizers", "schedules")
        try:
            state.unpack(tree)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            cure = "config.json and the state must come from the same run; restore the file or train again."
            raise RunError(explain(str(path), expected="the state of this run", got="another", cure=cure)) from error

    def _check_same(self, old: Any, new: dict[str, Any]) -> None:
        check_format(self.folder / "config.json", old)
        plain = json.loads(json.dumps(new))
        own = (plain.get("objective") or {}).get("critic_schedule") in (None, "constant")
        for part in ("objective", "data", "validation", "training"):
            mine, theirs = plain.get(part) or {}, old.get(part) or {}
            longer = own and mine.get("schedule") == "constant" and mine.get("epochs", 0) > theirs.get("epochs", 0)
            for key in sorted(mine.keys() | theirs.keys(), key=lambda key: (key != "class", key)):
                if mine.get(key) != theirs.get(key) and not (key == "epochs" and longer):
                    cure = "A resumed run keeps its settings; choose another folder for a new run."
                    expected = f"the run's {part}.{key} = {theirs.get(key)!r}"
                    raise RunError(explain(str(self.folder), expected=expected, got=repr(mine.get(key)), cure=cure))


def _foreign(path: Path) -> bool:
    """Return whether a file is of no run that is only about to begin."""
    return path.suffix != ".part" and path.name != LOCK


def check_format(path: Path, content: Any) -> None:
    """Raise an error if a document of a run folder is from another version or another program.

    Raises:
        RunError: if it is.
    """
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != FORMAT:
        cure = "Use the version that wrote the run, named in its config.json, or train again."
        raise RunError(explain(str(path), expected=f"a file of run format {FORMAT}", got=found, cure=cure))


def _read(path: Path, *parts: str) -> dict[str, Any]:
    """Read a tree of a run folder that must have some parts."""
    tree = read_tree(path)
    check_format(path, tree)
    missing = [part for part in parts if not isinstance(tree.get(part), dict)]
    if missing:
        cure = "The file belongs elsewhere; restore it or train again."
        expected = f"a file with {', '.join(parts)}"
        raise RunError(explain(str(path), expected=expected, got=f"no {missing[0]}", cure=cure))
    return tree


def read_weights(folder: str | os.PathLike[str], model: nn.Module) -> None:
    """Load the weights of a run folder into a model.

    Raises:
        RunError: if the file is missing, damaged, of another version, or of another model.
    """
    path = Path(folder) / "model.safetensors"
    weights: dict[str, Tensor] = _read(path, "weights")["weights"]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        cure = "config.json and model.safetensors must come from the same run."
        raise RunError(
            explain(str(path), expected=f"weights of {type(model).__name__}", got="others", cure=cure)
        ) from error
