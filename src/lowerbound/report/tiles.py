"""Rows of data as one picture: which events are images, what range of values to show, and how to lay tiles out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Coloured", "coloured", "columns_for", "is_image", "mosaic", "pixels", "value_range"]

Array = NDArray[np.float32]


def is_image(event_shape: tuple[int, ...]) -> bool:
    """Return whether an event is drawn as an image: ``(H, W)``, ``(1, H, W)`` or ``(3, H, W)``.

    Example:
        >>> is_image((28, 28)), is_image((3, 16, 16)), is_image((30,)), is_image((5, 8, 8))
        (True, True, False, False)
    """
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[0] in (1, 3))


def value_range(values: Array) -> tuple[float, float]:
    """Return the values that are drawn as the two ends of a colour scale.

    Data within [0, 1] keep exactly that range, so that figures of one data set can be compared; other data get the
    span of all but the outermost 0.5 % on each side, so that one odd value does not turn the rest grey.

    Args:
        values: Any shape; values that are not finite are left out.

    Example:
        >>> value_range(np.array([0.2, 0.7])), value_range(np.array([-2.0, -2.0]))
        ((0.0, 1.0), (-2.5, -1.5))
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0 or (finite.min() >= 0 and finite.max() <= 1):
        return 0.0, 1.0
    low, high = (float(q) for q in np.quantile(finite, [0.005, 0.995]))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


@dataclass(frozen=True)
class Coloured:
    """Tables as they are drawn on one colour scale.

    Attributes:
        tables: Each ``[rows, features]``.
        low: The value at the lower end of the scale.
        high: The value at its upper end.
        unit: What the scale counts.
    """

    tables: tuple[Array, ...]
    low: float
    high: float
    unit: str


def coloured(reference: Array, *tables: Array) -> Coloured:
    """Return tables for one colour scale; columns of widely different spreads are shown in units of their own.

    Args:
        reference: The rows of data that fix the scale, ``[n, *event_shape]``.
        tables: Rows to draw, ``[rows, *event_shape]``.

    Example:
        >>> data = np.array([[0.0, 0.0], [2.0, 2000.0]])
        >>> coloured(data, data).tables[0].tolist(), coloured(data, data).unit
        ([[-1.0, -1.0], [1.0, 1.0]], "standard deviations from the column's mean")
    """
    flat = [table.reshape(len(table), -1) for table in tables]
    known = np.ma.masked_invalid(reference.reshape(len(reference), -1).astype(float))
    center, spread = np.ma.filled(known.mean(axis=0), 0.0), np.ma.filled(known.std(axis=0), 0.0)
    moving = spread[spread > 0]
    if len(moving) < 2 or moving.max() < 10 * moving.min():
        return Coloured(tuple(flat), *value_range(reference), "value")
    spread = np.where(spread > 0, spread, 1.0)
    shown = tuple(((table - center) / spread).astype(np.float32) for table in flat)
    return Coloured(shown, -2.5, 2.5, "standard deviations from the column's mean")


def pixels(rows: Array, low: float, high: float) -> Array:
    """Return images as colours.

    Args:
        rows: Shape ``[n, H, W]``, ``[n, 1, H, W]`` or ``[n, 3, H, W]``.
        low: The value that is drawn black.
        high: The value that is drawn white.

    Returns:
        Colours in [0, 1], shape ``[n, H, W, 3]``.
    """
    scaled = np.clip(np.nan_to_num((rows - low) / (high - low)), 0, 1)
    channels = scaled[:, None] if scaled.ndim == 3 else scaled
    colours = np.moveaxis(channels, 1, -1)
    return np.broadcast_to(colours, (*colours.shape[:3], 3)).astype(np.float32)


def columns_for(n: int, height: int, width: int) -> int:
    """Return into how many columns to lay `n` tiles of `height` by `width` so that the whole is nearly square.

    A number that divides `n` is taken unless it makes the picture more than twice as long as it need be.

    Example:
        >>> columns_for(64, 28, 28), columns_for(64, 10, 40), columns_for(16, 8, 8)
        (8, 4, 4)
    """
    ideal = math.sqrt(n * height / width)
    best = min((c for c in range(1, n + 1) if n % c == 0), key=lambda c: abs(math.log(c / ideal)))
    return best if 0.5 <= best / ideal <= 2 else min(n, max(1, round(ideal)))


def mosaic(tiles: Array, columns: int, gap: int) -> Array:
    """Lay tiles out row by row on white.

    Args:
        tiles: Colours, shape ``[n, H, W, 3]``.
        columns: The number of tiles in a row of the mosaic.
        gap: White pixels between tiles.

    Returns:
        Shape ``[R * (H + gap) - gap, columns * (W + gap) - gap, 3]`` with R rows.

    Example:
        >>> mosaic(np.zeros((6, 2, 3, 3)), columns=3, gap=1).shape
        (5, 11, 3)
    """
    n, height, width = tiles.shape[:3]
    rows = math.ceil(n / columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), dtype=np.float32)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return canvas
