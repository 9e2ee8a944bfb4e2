"""Arrays in the user's cache directory: what takes long to decode, or more memory than there is, is written there once.

An array is a `.npy` file beside a `.json` file of facts about it, which is written last, so that an array with facts is
whole. Both hold for one state of what they were made from; those of another state are removed when new ones are there
and no process reads them. Of several processes that want an array at once, one writes it and the others wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from lowerbound.core.errors import DataError, RunError, explain
from lowerbound.core.files import read_json, user_cache, write_json, writing
from lowerbound.data.store import Disk

if sys.platform != "win32":
    import fcntl

__all__ = ["find", "keep", "large", "place"]

_SHARE = 0.25  # of the memory that the rows of a source may take
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def large(shape: tuple[int, ...], itemsize: int) -> bool:
    """Return whether an array is to be read from disk, since it would take more than a quarter of the memory."""
    return math.prod(shape) * itemsize > _SHARE * _memory()


def place(kind: str, source: Any, state: Any) -> Path:
    """Return the file of an array; it need not exist.

    Args:
        kind: The folder in the cache directory.
        source: What the array is made from, and how: plain values.
        state: What it depends on besides, such as sizes and times of change: plain values.
    """
    return user_cache(kind) / _digest(source) / f"{_digest(state)}.npy"


def find(path: Path) -> tuple[Disk, dict[str, Any]] | None:
    """Return the array at a place and its facts, None if it is not there or not whole."""
    facts = path.with_suffix(".json")
    try:
        held = _held(facts, alone=False)
    except OSError:
        return None
    try:
        rows, found = Disk(path), read_json(facts)
    except (RunError, DataError):
        held.close()
        return None
    weakref.finalize(rows, held.close)  # until then nobody removes it
    return rows, found


def keep(
    path: Path, shape: tuple[int, ...], dtype: str, blocks: Iterable[NDArray[Any]], facts: Mapping[str, Any]
) -> tuple[Disk, dict[str, Any]]:
    """Write an array block by block, unless another process has done it by now; return it and its facts.

    Args:
        path: Its place.
        shape: The shape of all blocks together, ``[n, *event_shape]``.
        dtype: How values are written, ``"|u1"`` or ``"<f4"``.
        blocks: The rows in order.
        facts: Plain values, looked at after the last block; they come back in the order of their names.

    Raises:
        RunError: if the cache directory cannot be written.
    """
    with _alone(path.parent):
        found = find(path)
        if found is None:
            _remove_others(path)
            with writing(path) as temporary, temporary.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
                for block in blocks:
                    file.write(np.ascontiguousarray(block, dtype).data)
            write_json(path.with_suffix(".json"), dict(sorted(facts.items())))
            found = find(path)
    if found is None:
        cure = "Leave the folder alone while it is in use."
        raise RunError(explain(str(path), expected="the array that was written", got="none", cure=cure))
    return found


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time write a folder, which is made if need be."""
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        cure = "Make it writable, or name another in XDG_CACHE_HOME."
        got = error.strerror or error
        raise RunError(explain(str(folder), expected="a writable folder", got=got, cure=cure)) from error
    try:
        yield
    finally:
        lock.release()


def _remove_others(path: Path) -> None:
    """Remove the arrays of other states that nobody reads, and what writers that were killed have left behind."""
    for part in path.parent.glob(".*.part"):
        part.unlink(missing_ok=True)
    for array in path.parent.glob("*.npy"):
        facts = array.with_suffix(".json")
        with contextlib.suppress(OSError), _held(facts, alone=True) if facts.exists() else contextlib.nullcontext():
            array.unlink()
            facts.unlink(missing_ok=True)


def _held(facts: Path, *, alone: bool) -> IO[bytes]:
    """Open a file of facts and hold it as one of its readers, or alone; closing it lets it go.

    Raises:
        OSError: if it is not there, or is to be held alone and has readers.
    """
    stream = facts.open("rb")
    try:
        if sys.platform != "win32":  # there, what is open cannot be removed
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except OSError:
        stream.close()
        raise
    return stream


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _memory() -> int:
    """Return the bytes of memory that a process may think its own: the machine's, or its container's, shared out.

    Where nothing is known, eight gigabytes are taken.
    """
    known = []
    with contextlib.suppress(AttributeError, ValueError, OSError):
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in _LIMITS:
        with contextlib.suppress(ValueError, OSError):  # "max": none
            known.append(int(Path(limit).read_text()))
    return min(known, default=8 * 2**30) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
