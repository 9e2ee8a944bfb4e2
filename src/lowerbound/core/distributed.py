"""Several processes that do one piece of work, as torchrun starts them; one process is the plain case of it.

All processes call the same functions with the same arguments, and meet in them. Only the first one writes, shows
progress, and decides what a clock decides. What they tell each other are sums of tensors (`total`) and trees of
tensors and plain values (`share`, `gather`).
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from lowerbound.core import errors
from lowerbound.core.files import tree_from_bytes, tree_to_bytes

__all__ = ["Place", "by_first", "first_to_say", "gather", "place", "remember", "remembered", "share", "total"]

_PATIENCE = 300.0  # seconds within which all processes must have come
_memory: Any = None  # a store that outlives the processes: a restarted one finds what an earlier one left

_own_words: set[str] = set()


class Place(NamedTuple):
    """Where a process stands among those that work together.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0


def place() -> Place:
    """Return this process's place; at the first call, wait for the others that torchrun started.

    A process group that the caller made is used as it is; it must serve tensors on the processor too. Otherwise one is
    made if the environment says that there are several processes (``WORLD_SIZE``, ``RANK``, ``MASTER_ADDR``,
    ``MASTER_PORT``): gloo on processors, NCCL on accelerators, of which every process of a machine takes its own; where
    there are too few, they share them over gloo.

    Example:
        >>> place()
        Place(rank=0, size=1)
    """
    if not dist.is_available():
        return Place()
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "MASTER_ADDR" not in os.environ:
            return Place()
        _join()
    return Place(dist.get_rank(), dist.get_world_size())


def _join() -> None:
    """Make the process group."""
    global _memory
    from torch.distributed.rendezvous import rendezvous

    _memory, rank, size = next(iter(rendezvous("env://")))
    backend = "gloo"
    if devices := torch.cuda.device_count():
        local = int(os.environ.get("LOCAL_RANK", rank))
        torch.cuda.set_device(local % devices)
        if int(os.environ.get("LOCAL_WORLD_SIZE", size)) <= devices:
            backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=_meet(_memory, rank), rank=rank, world_size=size)
    dist.all_reduce(torch.zeros(1))  # whoever leaves from here on leaves nobody on the way
    atexit.register(_leave)


def _meet(memory: Any, rank: int) -> Any:
    """Return a store of these processes alone: that of torchrun still holds the addresses of killed ones."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    key = "lowerbound/store"
    if rank == 0:
        host = os.environ["MASTER_ADDR"]
        own = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        memory.set(key, f"{host} {own.port}")
        return own
    end = time.monotonic() + _PATIENCE
    while True:
        host, port = memory.get(key).decode().split()
        try:
            own = TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=5))
        except dist.DistError:  # that of an earlier first process, which was killed
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            own.set_timeout(timedelta(seconds=_PATIENCE))
            return own


def _leave() -> None:
    if dist.is_initialized() and not hasattr(sys, "last_value"):  # after an error, the others may not come any more
        dist.destroy_process_group()


def total(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the sums of tensors over all processes, by ONE all-reduce of all of them side by side.

    Each sum lies in memory as the tensor does.

    Args:
        tensors: The same shapes in every process, on one device.

    Example:
        >>> total([torch.ones(2), torch.zeros(())])
        [tensor([1., 1.]), tensor(0.)]
    """
    if place().size == 1:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    sums = (part.view_as(tensor).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True))
    return [
        found if tensor.is_contiguous() else torch.empty_like(tensor).copy_(found)
        for found, tensor in zip(sums, tensors, strict=True)
    ]


def share(tree: dict[str, Any], *, source: int = 0) -> dict[str, Any]:
    """Return the tree that one process passed; what the others pass is not looked at.

    Args:
        tree: Nested dicts and lists of tensors and plain values, as `lowerbound.core.files.write_tree` takes them.
        source: The rank of the process whose tree it is.

    Returns:
        The tree, its tensors on the processor; in the process `source` the very tree that it passed.

    Example:
        >>> share({"step": 3})
        {'step': 3}
    """
    here = place()
    if here.size == 1:
        return tree
    own = here.rank == source
    content = torch.frombuffer(bytearray(tree_to_bytes(tree)), dtype=torch.uint8) if own else torch.empty(0)
    length = torch.tensor([content.numel()])
    dist.broadcast(length, source)
    content = content if own else torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(content, source)
    return tree if own else tree_from_bytes(content.numpy().tobytes())


def gather(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what every process passed, in the order of their ranks; trees are as in `share`.

    Example:
        >>> gather({"rows": 7})
        [{'rows': 7}]
    """
    return [share(tree, source=rank) for rank in range(place().size)]


def by_first(call: Callable[[], Any]) -> Any:
    """Let the first process alone call a function, and return its result, a plain value, in all of them.

    Raises:
        LowerboundError: in all processes, if the call raises one.

    Example:
        >>> by_first(lambda: 7)
        7
    """
    here = place()
    if here.size == 1:
        return call()
    if not here.first:
        found = share({})
        if "error" in found:
            raise getattr(errors, found["error"])(found["text"])
        return found["value"]
    try:
        value = call()
    except errors.LowerboundError as error:
        share({"error": type(error).__name__, "text": str(error)})
        raise
    share({"value": value})
    return value


def remember(word: str) -> None:
    """Leave a word to the processes that take the place of these after a restart by torchrun."""
    _own_words.add(word)
    if _memory is not None:
        _memory.set(f"lowerbound/word/{word}", "")


def remembered(word: str) -> bool:
    """Return whether processes in whose place torchrun has put these have left a word."""
    return _memory is not None and word not in _own_words and _memory.check([f"lowerbound/word/{word}"])


def first_to_say(text: str) -> bool:
    """Return whether no process has asked so about this text, before a restart neither; the first one has precedence.

    For a message that all processes come to, or one alone.
    """
    here = place()
    if _memory is None:
        return here.first
    if not here.first:
        time.sleep(1.0)
    return bool(_memory.add(f"lowerbound/said/{text}", 1) == 1)
