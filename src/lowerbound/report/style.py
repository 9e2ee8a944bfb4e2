"""One look for every figure: font sizes, colours and resolution, whatever the user's own matplotlib settings are.

Figures are built as `matplotlib.figure.Figure` objects and never through pyplot, so they open no window, leave no
global state behind and may be drawn in any thread.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ACCENT", "GREY", "INK", "MAIN", "new_figure", "palette", "png", "styled"]

P = ParamSpec("P")

MAIN, ACCENT, INK, GREY = "#0072B2", "#D55E00", "#222222", "#767676"

# Okabe and Ito, "Color Universal Design" (2008), with black before yellow because yellow is faint on white.
_OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
# Ten colours of Okabe and Ito's and of Tol's sets, chosen so that the two closest of them stay as far apart as can be
# under simulated protanopia, deuteranopia and tritanopia (twice as far as in Petroff's ten, five times as in tab10's).
_TEN = (
    "#0077BB", "#E69F00", "#44AA99", "#D55E00", "#332288", "#88CCEE", "#AA3377", "#000000", "#F0E442", "#661100",
)  # fmt: skip
# Ten of the same kind for dark grounds, as far apart, each with a contrast of 3 and more.
_TEN_ON_DARK = (
    "#0077BB", "#AAAA00", "#8FD18F", "#CC3311", "#7A5CFF", "#56B4E9", "#B07AA1", "#FFFFFF", "#F0E442", "#B56A4A",
)  # fmt: skip

_SETTINGS = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "font.family": ["DejaVu Sans"],  # it ships with matplotlib, so every machine draws the same figure
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "savefig.dpi": 150,
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.color": INK,
    "ytick.labelsize": 8,
    "ytick.major.width": 0.6,
}


@contextmanager
def _look() -> Iterator[None]:
    """Apply matplotlib's defaults and the settings above, and give the caller's own settings back."""
    from matplotlib import style

    with style.context(["default", _SETTINGS]):
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Give the figures that `draw` returns the common look."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _look():
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # ticks are made at the first draw, which must see the same settings
            return figure

    return wrapper


def new_figure(width: float, height: float, *, picture: bool = False) -> Figure:
    """Return an empty figure of `width` by `height` inches that lays its axes out without overlaps.

    Args:
        width: Inches.
        height: Inches.
        picture: Whether its axes have a fixed aspect, so that they are to be moved together.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="compressed" if picture else "constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file; equal figures give equal bytes.

    Example:
        >>> png(new_figure(1, 1))[1:4]
        b'PNG'
    """
    with _look(), io.BytesIO() as stream:
        figure.savefig(stream, format="png", bbox_inches="tight", pad_inches=0.1, metadata={"Software": None})
        return stream.getvalue()


def palette(n: int, *, dark: bool = False) -> list[str]:
    """Return `n` colours that stay apart for colour-blind readers as far as `n` allows.

    Up to 8 are Okabe and Ito's; more than 10 are steps of viridis, which keep no more than their order visible.

    Args:
        n: How many.
        dark: Whether they stand on a dark ground, and have to be lighter than it.

    Example:
        >>> palette(2)
        ['#0072B2', '#E69F00']
    """
    if n <= len(_OKABE_ITO):
        return ["#FFFFFF" if dark and colour == "#000000" else colour for colour in _OKABE_ITO[:n]]
    if n <= len(_TEN):
        return list((_TEN_ON_DARK if dark else _TEN)[:n])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    darkest = 0.4 if dark else 0.0
    return [to_hex(colormaps["viridis"](darkest + (1 - darkest) * i / (n - 1))) for i in range(n)]
