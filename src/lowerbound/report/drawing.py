"""The pieces that several figures are made of: pictures, heat maps, colour bars, ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lowerbound.report.style import new_figure
from lowerbound.report.tiles import Coloured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bare", "class_bar", "class_names", "colour_bar", "gap", "heat_map", "picture", "quantile_ticks"]

Array = NDArray[Any]


def gap(tiles: Array) -> int:
    """Return the white pixels between tiles ``[n, H, W, 3]``: about a sixteenth of a tile."""
    height, width = tiles.shape[1:3]
    return max(1, round(int(max(height, width)) / 16))


def picture(image: Array, title: str, low: float, high: float, *, width: float = 4.6) -> tuple[Figure, Axes]:
    """Return a figure that fits an image ``[H, W, 3]`` drawn at most `width` inches wide, and its axes."""
    rows, columns = image.shape[:2]
    scale = min(width / columns, 6.0 / rows)
    figure = new_figure(max(scale * columns, 4.0) + 0.8, scale * rows + 0.6, picture=True)
    axes = figure.add_subplot()
    axes.imshow(image, aspect="equal")
    axes.set_title(title if (low, high) == (0, 1) else f"{title}\nblack {low:.3g}, white {high:.3g}")
    return figure, axes


def bare(axes: Axes) -> None:
    """Take the frame and the tick marks off axes that hold a picture."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def heat_map(figure: Figure, all_axes: Sequence[Axes], shown: Coloured) -> None:
    """Draw tables ``[rows, features]`` side by side on one colour scale."""
    from matplotlib.ticker import MaxNLocator

    for axes, table in zip(all_axes, shown.tables, strict=True):
        n, features = table.shape
        extent = (0.5, features + 0.5, n + 0.5, 0.5)
        image = axes.imshow(
            table,
            cmap="viridis",
            vmin=shown.low,
            vmax=shown.high,
            aspect="auto",
            interpolation="nearest",
            extent=extent,
        )
        axes.set_xlabel("feature")
        for axis, count in ((axes.xaxis, features), (axes.yaxis, n)):
            if count <= 8:
                axis.set_ticks(range(1, count + 1))
            else:
                axis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        bare(axes)
    colour_bar(figure, image, list(all_axes), shown.unit)


def colour_bar(figure: Figure, image: Any, all_axes: list[Axes], label: str) -> None:
    """Add a colour bar for a continuous scale."""
    bar = figure.colorbar(image, ax=all_axes, label=label, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2)


def class_names(classes: Array, names: Sequence[str] | None) -> list[str]:
    """Return the classes' names, short and without mathematics, or their numbers."""
    known = [names[c] if names is not None and 0 <= c < len(names) else str(c) for c in classes]
    return [(name if len(name) <= 24 else name[:23] + "…").replace("$", r"\$") for name in known]


def class_bar(figure: Figure, axes: Axes, colours: list[str], names: list[str]) -> None:
    """Add a colour bar with one block a class and a tick in the middle of each, thinned out beyond 25 classes."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    n = len(names)
    scale = ScalarMappable(BoundaryNorm(np.arange(n + 1) - 0.5, n), ListedColormap(colours))
    bar = figure.colorbar(scale, ax=axes, label="class", pad=0.02, aspect=30)
    ticks = range(0, n, math.ceil(n / 25))
    bar.set_ticks(list(ticks), labels=[names[i] for i in ticks])
    bar.ax.tick_params(which="both", length=0)
    bar.outline.set_visible(False)


def quantile_ticks(axes: Axes, axis: Literal["x", "y"], places: Array, *, count: int) -> None:
    """Label up to `count` of the tiles' middles, symmetric about the centre, with the latent's value."""
    n = len(places)
    index = np.unique(np.linspace(0, n - 1, min(count, n)).round().astype(int))
    values = [NormalDist().inv_cdf(q) for q in np.linspace(0.05, 0.95, n)]
    labels = [f"{values[i]:.2f}".replace("-", "−") for i in index]
    (axes.set_xticks if axis == "x" else axes.set_yticks)(places[index], labels)
    (axes.set_xlabel if axis == "x" else axes.set_ylabel)("$z_1$" if axis == "x" else "$z_2$")
