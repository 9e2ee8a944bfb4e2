"""Rows that are no images, as the cells of a table: what each column is, and what it holds."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from lowerbound.data import Column

__all__ = ["MOST_COLUMNS", "Cell", "decoded", "describe", "observed"]

MOST_COLUMNS = 200  # that are shown

# {"value": number, "spread": number or None} or {"level": code, "shares": probabilities or None}; None for a gap
Cell = dict[str, Any] | None


def describe(rows: Tensor, columns: Sequence[Column] | None) -> list[dict[str, Any]]:
    """Return name, levels and range of each column, as plain values.

    Args:
        rows: Rows of data, ``[n, *event_shape]``.
        columns: What the columns are; None for numbers, which are named v0, v1 and so on.

    Example:
        >>> describe(torch.tensor([[1.0], [3.0]]), None)
        [{'name': 'v0', 'levels': [], 'low': 1.0, 'high': 3.0}]
    """
    flat = rows.flatten(1)[:, :MOST_COLUMNS]
    shown = [column for column in columns or [] if column.kind != "skip"]
    names = [column.name for column in shown] or [f"v{i}" for i in range(flat.shape[1])]
    levels = [[str(level) for level in column.levels] for column in shown] or [[] for _ in names]
    low = torch.where(flat.isnan(), math.inf, flat).amin(0)
    high = torch.where(flat.isnan(), -math.inf, flat).amax(0)
    return [
        {"name": name, "levels": level, "low": _number(bottom), "high": _number(top)}
        for name, level, bottom, top in zip(names, levels, low.tolist(), high.tolist(), strict=False)
    ]


def observed(rows: Tensor, columns: Sequence[Column] | None) -> list[list[Cell]]:
    """Return the cells of rows of data ``[n, *event_shape]``.

    Example:
        >>> observed(torch.tensor([[2.5, 1.0]]), [Column("age", "continuous"), Column("sex", "binary", ("f", "m"))])
        [[{'value': 2.5, 'spread': None}, {'level': 1, 'shares': None}]]
    """
    flat = rows.flatten(1)[:, :MOST_COLUMNS].tolist()
    coded = _coded(columns, rows[0].numel())
    return [[_observed(value, code) for value, code in zip(row, coded, strict=False)] for row in flat]


def decoded(p: Distribution, columns: Sequence[Column] | None) -> list[list[Cell]]:
    """Return the cells of p(x | z): mean and standard deviation of numbers, the probabilities of levels.

    Args:
        p: The distribution of rows, batch shape ``[n]``.
        columns: What the columns are, as for `describe`.
    """
    base: Any = getattr(p, "base_dist", p)
    if columns is not None and hasattr(base, "parts"):
        return _mixed(base, columns)
    mean = p.mean.flatten(1)[:, :MOST_COLUMNS].float().cpu()
    spread = torch.full_like(mean, math.nan)
    if not isinstance(base, Bernoulli):
        with contextlib.suppress(AttributeError, NotImplementedError):  # a distribution that does not know it
            spread = p.variance.flatten(1)[:, :MOST_COLUMNS].float().sqrt().cpu()
    return [
        [{"value": _number(m), "spread": _number(s)} for m, s in zip(means, spreads, strict=True)]
        for means, spreads in zip(mean.tolist(), spread.tolist(), strict=True)
    ]


def _mixed(p: Any, columns: Sequence[Column]) -> list[list[Cell]]:
    """Return the cells of a distribution over columns of several types."""
    shown = [column for column in columns if column.kind != "skip"]
    n = p.batch_shape[0]
    found: list[list[Cell]] = [[None] * len(shown) for _ in range(n)]
    (continuous, counts, coded), (numbers, whole, codes) = p.parts, (places.tolist() for places in p.places)
    for part, places in ((continuous, numbers), (counts, whole)):
        mean, spread = part.mean.cpu(), part.variance.sqrt().cpu()
        for row in range(n):
            for column, place in enumerate(places):
                value, width = float(mean[row, column]), float(spread[row, column])
                found[row][place] = {"value": _number(value), "spread": _number(width)}
    shares = coded.probs.nan_to_num(0.0).cpu()  # far away, nothing is known
    for row in range(n):
        for column, place in enumerate(codes):
            known = shares[row, column, : len(shown[place].levels)]
            rounded = [round(share, 4) for share in known.tolist()]
            found[row][place] = {"level": int(known.argmax()), "shares": rounded}
    return [row[:MOST_COLUMNS] for row in found]


def _coded(columns: Sequence[Column] | None, width: int) -> list[bool]:
    return [False] * width if columns is None else [bool(column.levels) for column in columns if column.kind != "skip"]


def _observed(value: float, coded: bool) -> Cell:
    if math.isnan(value):
        return None
    return {"level": round(value), "shares": None} if coded else {"value": value, "spread": None}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
