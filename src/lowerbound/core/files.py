"""Files that are whole or absent: every write goes to a temporary neighbour, is synced, and is then renamed.

Trees of tensors and plain values (a model's weights, an optimizer's state, a history) are kept as one safetensors
file: the tensors as its tensors, each under the path of its keys (``weights.decoder.0.bias``), the rest as JSON in its
header. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from lowerbound.core.errors import RunError, explain

__all__ = [
    "LOCK",
    "locked",
    "read_json",
    "read_tree",
    "tree_from_bytes",
    "tree_to_bytes",
    "unlock",
    "user_cache",
    "write_bytes",
    "write_json",
    "write_tree",
    "writing",
]

LOCK = ".lock"
"""The name of the file by which a folder is locked; it is there only as long."""


def user_cache(name: str) -> Path:
    """Return a folder in the user's cache directory, which is ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "lowerbound" / name


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    Raises:
        RunError: if the folder cannot be written or the disk is full; what stood at `path` is untouched.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        cure = "Free space or choose another folder; the file that was there before is untouched."
        raise RunError(
            explain(str(target), expected="a writable file", got=error.strerror or error, cure=cure)
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write bytes atomically."""
    with writing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON document atomically, indented and with a final newline; NaN is refused."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON document.

    Raises:
        RunError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        cure = "Check the path; a run folder is written by `lowerbound train` or `lb.fit(..., out=...)`."
        raise RunError(explain(str(path), expected="a file of a run folder", got="no such file", cure=cure)) from error
    except (ValueError, OSError) as error:
        cure = "The file is damaged or of another program; restore it or train again."
        raise RunError(explain(str(path), expected="a JSON document", got=error, cure=cure)) from error


def write_tree(path: str | os.PathLike[str], tree: Mapping[str, Any]) -> None:
    """Write a tree of dicts, lists, tensors and plain values atomically as one safetensors file.

    Args:
        path: Where to write.
        tree: Nested dicts (keys of any plain type) and lists; leaves are tensors, numbers, strings, booleans, None.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tree(f"{folder}/t.safetensors", {"w": torch.ones(2), "step": 3})
        ...     read_tree(f"{folder}/t.safetensors")
        {'w': tensor([1., 1.]), 'step': 3}
    """
    write_bytes(path, tree_to_bytes(tree))


def read_tree(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `write_tree` wrote.

    Raises:
        RunError: if the file is missing, truncated or of another kind.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            plain = (file.metadata() or {})["tree"]
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        return dict(_give_tensors(json.loads(plain), tensors))
    except FileNotFoundError as error:
        cure = "Check the path; was the run killed before its first checkpoint?"
        raise RunError(explain(str(path), expected="a checkpoint", got="no such file", cure=cure)) from error
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        cure = "The file is damaged or of another program; restore it or train again."
        raise RunError(explain(str(path), expected="a checkpoint of lowerbound", got=error, cure=cure)) from error


def tree_to_bytes(tree: Mapping[str, Any]) -> bytes:
    """Return the content of the file that `write_tree` writes."""
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_take_tensors(tree, tensors, ""))
    return save(tensors, metadata={"format": "pt", "tree": plain})


def tree_from_bytes(content: bytes) -> dict[str, Any]:
    """Return the tree of which `tree_to_bytes` made bytes.

    Example:
        >>> tree_from_bytes(tree_to_bytes({"w": torch.ones(2), "step": 3}))
        {'w': tensor([1., 1.]), 'step': 3}
    """
    length = int.from_bytes(content[:8], "little")  # of the header, which is JSON
    plain = json.loads(content[8 : 8 + length])["__metadata__"]["tree"]
    return dict(_give_tensors(json.loads(plain), load(content)))


def locked(folder: Path) -> FileLock:
    """Lock a folder, which is made if need be, against all other processes; the lock ends with the process.

    Returns:
        The lock; pass it to `unlock`.

    Raises:
        RunError: if another process holds it, or the folder cannot be written.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        cure = "Wait until it has ended, or choose another folder."
        expected = "a folder that no other process writes"
        raise RunError(explain(str(folder), expected=expected, got="one in use", cure=cure)) from error
    except OSError as error:
        cure = "Choose a folder that can be written."
        raise RunError(
            explain(str(folder), expected="a writable folder", got=error.strerror or error, cure=cure)
        ) from error
    return lock


def unlock(lock: FileLock) -> None:
    """Give a folder free; its lock file goes first, so that nobody who waits for it takes another's."""
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink()
    lock.release()


def _take_tensors(node: Any, tensors: dict[str, Tensor], path: str) -> Any:
    """Replace every tensor in a tree by its path, and every dict by a list of pairs that keeps the keys' types."""
    if isinstance(node, Tensor):
        key = path
        while key in tensors:  # a dict with the keys 1 and "1"
            key += "'"
        tensors[key] = node.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(node, Mapping):
        return {"pairs": [[key, _take_tensors(value, tensors, _below(path, key))] for key, value in node.items()]}
    if isinstance(node, (list, tuple)):
        kind = "tuple" if isinstance(node, tuple) else "list"
        return {kind: [_take_tensors(value, tensors, _below(path, i)) for i, value in enumerate(node)]}
    return node


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _give_tensors(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `_take_tensors`."""
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "pairs":
        return {key: _give_tensors(value, tensors) for key, value in content}
    values = [_give_tensors(value, tensors) for value in content]
    return tuple(values) if kind == "tuple" else values
