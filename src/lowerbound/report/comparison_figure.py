"""The figure of a comparison: one row a measure, with its values to the left and its differences to the right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lowerbound.report.style import ACCENT, GREY, MAIN, new_figure, styled
from lowerbound.report.tables import measure_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lowerbound.report.compare import Column, Comparison

__all__ = ["comparison_figure"]

_LABEL = 30
# By kind: marker, and what the legend says of it.
_MARKERS = {
    "lower bound": (">", "lower bound: log p(x) lies to the right, on average"),
    "exact": ("D", "log p(x) itself"),
}
_OTHER = ("o", "no bound of log p(x): not to be ranked")
_AHEAD = "clearly above all other runs"


@styled
def comparison_figure(comparison: Comparison) -> Figure:
    """Draw every measure of every run, with its standard error, and beside it the difference to the first run.

    Each measure has axes of its own, in nats. The error of a value is over rows; that of a difference is over the same
    rows, and so smaller, where the values of every row are known.

    Args:
        comparison: What `lowerbound.report.compare` found.
    """
    columns, labels = comparison.columns, _labels(comparison.names)
    height = len(columns) * (0.85 + 0.26 * len(labels)) + 0.9
    figure = new_figure(5.6 + 0.07 * max(map(len, labels)), height)
    panels = figure.subplots(len(columns), 2, squeeze=False)
    for (left, right), column in zip(panels, columns, strict=True):
        left.set_title(f"{measure_name(column.name)}, {column.kind}")
        _panel(left, column, [None if entry is None else (entry.value, entry.stderr) for entry in column.entries])
        if column.ranked:
            paired = all(entry is None or entry.paired for entry in column.entries)
            right.set_title("difference to the first run" + ("" if paired else ", not all paired"))
            _panel(right, column, list(_differences(column)))
            right.axvline(0, color=GREY, linewidth=0.6, linestyle=":", zorder=0)
        else:
            right.set_axis_off()
        left.set_yticks(range(len(labels)), labels)
        right.set_yticks(range(len(labels)), [""] * len(labels))
    handles: dict[str, Any] = {}
    for axes in panels.ravel():
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    handles |= {_AHEAD: handles.pop(_AHEAD)} if _AHEAD in handles else {}  # last
    figure.legend(handles.values(), handles.keys(), loc="outside lower left")
    return figure


def _differences(column: Column) -> Iterator[tuple[float, float | None] | None]:
    """Yield the difference of every run and its standard error; the first run's is zero without one."""
    for entry in column.entries:
        if entry is None:
            yield None
        else:
            yield (0.0, None) if entry.difference is None else (entry.difference, entry.difference_stderr)


def _panel(axes: Axes, column: Column, numbers: Sequence[tuple[float, float | None] | None]) -> None:
    """Draw a number of every run, with its standard error."""
    from matplotlib.ticker import MaxNLocator

    marker, meaning = _MARKERS.get(column.kind, _OTHER)
    for place, number in enumerate(numbers):
        if number is None:
            words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "color": GREY}
            axes.text(0.5, place, "not measured", transform=axes.get_yaxis_transform(), **words)
            continue
        ahead = place == column.best
        colour = ACCENT if ahead else MAIN
        look: dict[str, Any] = {"color": colour, "markerfacecolor": colour if column.ranked else "white"}
        axes.errorbar(
            number[0], place, xerr=number[1], fmt=marker, markersize=5, elinewidth=1.2, capsize=2.5, **look,
            label=_AHEAD if ahead else meaning,
        )  # fmt: skip
    axes.set_xlabel("nats per row")
    axes.set_ylim(len(numbers) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.ticklabel_format(axis="x", useOffset=False)


def _labels(names: Sequence[str]) -> list[str]:
    """Return names cut in their middle where they are long, and numbered if they are no longer told apart."""
    half = _LABEL // 2
    short = [name if len(name) <= _LABEL else f"{name[:half]}…{name[1 - half :]}" for name in names]
    if len(set(short)) < len(names):
        short = [f"{number}: {name}" for number, name in enumerate(short, start=1)]
    return [name.replace("$", r"\$") for name in short]
