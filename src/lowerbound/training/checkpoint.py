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

from lowerbound.core.errors import RunError, explain
from lowerbound.core.files import read_json, read_tree, write_bytes, write_json, write_tree
from lowerbound.training.state import State

__all__ = ["Checkpoint", "read_weights"]

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

    def open(self, config: dict[str, Any], *, resume: bool) -> dict[str, Any] | None:
        """Take the folder for a run; return the state to go on from, or None to begin.

        Raises:
            RunError: if the folder holds another run, or a run that `resume` does not allow to continue.
        """
        known = self.folder / "config.json"
        config = {"format": FORMAT, **config}
        if known.exists():
            if not resume:
                cure = "Pass resume=True (--resume) to go on, or choose another folder."
                raise RunError(explain(str(self.folder), expected="a new or empty folder", got="a run", cure=cure))
            self._check_same(read_json(known), config)
            write_json(known, config)
        elif self.folder.exists() and any(self.folder.iterdir()):
            cure = "Choose a new folder; nothing in this one was changed."
            raise RunError(explain(str(self.folder), expected="a new or empty folder", got="other files", cure=cure))
        else:
            write_json(known, config)
        state = self.folder / "state" / "last.safetensors"
        return read_tree(state) if state.exists() else None

    def due(self) -> bool:
        """Return whether the time between checkpoints is over."""
        return time.monotonic() - self._written >= self.seconds

    def save(self, state: State) -> None:
        """Write state, weights and history, each file whole or not at all; the state last."""
        write_tree(self.folder / "model.safetensors", {"format": FORMAT, "weights": state.weights()})
        write_bytes(self.folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in state.history).encode())
        write_tree(self.folder / "state" / "last.safetensors", {"format": FORMAT, **state.pack()})
        self._written = time.monotonic()

    def _check_same(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        if old.get("format") != FORMAT:
            cure = "Resume it with the version that wrote it, named in its config.json."
            raise RunError(explain(str(self.folder), expected=f"run format {FORMAT}", got=old.get("format"), cure=cure))
        plain = json.loads(json.dumps(new))
        for part in ("objective", "data", "validation", "training"):
            mine, theirs = plain.get(part) or {}, old.get(part) or {}
            longer = mine.get("schedule") == "constant" and mine.get("epochs", 0) > theirs.get("epochs", 0)
            for key in sorted(mine.keys() | theirs.keys()):
                if mine.get(key) != theirs.get(key) and not (key == "epochs" and longer):
                    cure = "A resumed run keeps its settings; choose another folder for a new run."
                    expected = f"the run's {part}.{key} = {theirs.get(key)!r}"
                    raise RunError(explain(str(self.folder), expected=expected, got=repr(mine.get(key)), cure=cure))


def read_weights(folder: str | os.PathLike[str], model: nn.Module) -> None:
    """Load the weights of a run folder into a model.

    Raises:
        RunError: if the file is missing, damaged, of another version, or of another model.
    """
    path = Path(folder) / "model.safetensors"
    tree = read_tree(path)
    if tree.get("format") != FORMAT:
        cure = "Load it with the version that wrote it, named in its config.json."
        raise RunError(explain(str(path), expected=f"format {FORMAT}", got=tree.get("format"), cure=cure))
    weights: dict[str, Tensor] = tree["weights"]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        cure = "config.json and model.safetensors must come from the same run."
        raise RunError(
            explain(str(path), expected=f"weights of {type(model).__name__}", got=error, cure=cure)
        ) from error
