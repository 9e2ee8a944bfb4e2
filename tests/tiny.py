"""Data, models and runs so small that training takes a moment, and what it means that two runs are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.core.files import read_tree
from lowerbound.data.dataset import Dataset
from lowerbound.training import Callback

WIDTH = 6
CLOCK = ("seconds", "rows_per_second")  # what two runs of the same call may differ in


def rows(n: int = 48, *, seed: int = 0, binarize: str = "dynamic", name: str = "tiny") -> Dataset:
    """Return n rows of 8-bit values that hang together: two factors and some noise."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.rand(n, 2, generator=generator) @ torch.rand(2, WIDTH, generator=generator)
    grey = (factors + 0.1 * torch.rand(n, WIDTH, generator=generator)).clamp(0, 1)
    return Dataset((255 * grey).to(torch.uint8), name=name, binarize=binarize)


def vae(seed: int = 0, **arguments: Any) -> lb.models.VAE:
    """Return a model of some 150 weights."""
    torch.manual_seed(seed)
    return lb.models.VAE(**{"event_shape": (WIDTH,), "latent_dim": 2, "hidden": (8,), **arguments})


def images(n: int = 50) -> Dataset:
    """Return n binary pictures of 8 x 8 pixels."""
    return Dataset(torch.rand(n, 8, 8, generator=torch.Generator().manual_seed(0)).round(), name="pictures")


def conv_vae(seed: int = 0) -> lb.models.ConvVAE:
    """Return a model whose convolutions have their channels last in memory."""
    torch.manual_seed(seed)
    return lb.models.ConvVAE(event_shape=(8, 8), latent_dim=2)


def objective(name: str = "ELBO", *, model: Any = None, **arguments: Any) -> Any:
    """Return an objective over a new model."""
    return getattr(lb.objectives, name)(vae() if model is None else model, **arguments)


def fit(goal: Any = None, train: Any = None, **settings: Any) -> Any:
    """Train quietly: six steps an epoch unless told otherwise."""
    goal = objective() if goal is None else goal
    train = rows() if train is None else train
    return lb.fit(goal, train, **{"epochs": 2, "batch_size": 8, "progress": False, **settings})


class Steps(Callback):
    """Calls a function after every step, with the number of steps that this process has made."""

    def __init__(self, call: Any) -> None:
        self.call, self.made = call, 0

    def step(self, *, epoch: int, batch: int, sums: dict[str, Tensor]) -> None:
        self.made += 1
        self.call(self.made)


class Rows:
    """Data of one's own: the protocol and no more. `change` may alter a batch, given epoch and batch number."""

    def __init__(self, values: Tensor, change: Any = None) -> None:
        self.values, self.change = values, change
        self.event_shape = tuple(values.shape[1:])

    def __len__(self) -> int:
        return len(self.values)

    def batches(self, batch_size: int, *, seed: int, epoch: int, start: int = 0) -> Iterator[Tensor]:
        for batch in range(start, len(self) // batch_size):
            x = self.values[batch * batch_size : (batch + 1) * batch_size].clone()
            yield x if self.change is None else self.change(x, epoch, batch)

    def evaluation_batches(self, batch_size: int, *, limit: int | None = None) -> Iterator[Tensor]:
        return iter(self.values[:limit].split(batch_size))

    def describe(self) -> dict[str, Any]:
        return {"name": "rows of one's own"}


def unclocked(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records without what the clock says."""
    return [{key: value for key, value in record.items() if key not in CLOCK} for record in records]


def difference(mine: Any, theirs: Any, at: str = "") -> str:
    """Return where two trees of tensors and plain values differ in any bit, or an empty string."""
    if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
        same = mine.dtype == theirs.dtype and mine.shape == theirs.shape and torch.equal(mine, theirs)
        return "" if same else f"{at}: {mine} is not {theirs}"
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        if mine.keys() != theirs.keys():
            return f"{at}: keys {sorted(map(str, mine))} are not {sorted(map(str, theirs))}"
        pairs = [(f"{at}.{key}", mine[key], theirs[key]) for key in mine]
    elif isinstance(mine, (list, tuple)) and isinstance(theirs, (list, tuple)):
        if len(mine) != len(theirs):
            return f"{at}: {len(mine)} entries are not {len(theirs)}"
        pairs = [(f"{at}[{i}]", *pair) for i, pair in enumerate(zip(mine, theirs, strict=True))]
    else:
        return "" if type(mine) is type(theirs) and mine == theirs else f"{at}: {mine!r} is not {theirs!r}"
    return next(filter(None, (difference(a, b, place) for place, a, b in pairs)), "")


def contents(run: Path) -> dict[str, Any]:
    """Return all that a run folder says of the run, without what the clock says."""
    state = read_tree(run / "state" / "last.safetensors")
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "state": {**state, "history": unclocked(state["history"])},
        "model": read_tree(run / "model.safetensors"),
        "metrics": unclocked(metrics),
    }


def files(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
