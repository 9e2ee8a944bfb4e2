"""The ladder of bounds: every number of a run that speaks of log p(x), from the training's to the tightest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowerbound.report.records import Record
from lowerbound.report.style import ACCENT, GREY, MAIN, new_figure, styled
from lowerbound.report.tables import meaning, measure_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lowerbound.evaluation import Scores

__all__ = ["Rung", "ladder", "rungs"]

# By kind: marker, colour, whether filled, and what the legend says of it.
_LOOKS: dict[str, tuple[str, str, bool, str]] = {
    "lower bound": (">", MAIN, True, "lower bound: log p(x) lies to the right, on average"),
    "upper bound": ("<", ACCENT, True, "upper bound: log p(x) lies to the left, on average"),
    "exact": ("D", MAIN, True, "log p(x) itself"),
    "estimate": ("o", GREY, False, "estimate: log p(x) may lie on either side"),
}


_ENDS = {
    "lower": "Bidirectional Monte Carlo, annealing towards the posterior of rows that the model drew itself: on "
    "average never above log p(x).",
    "upper": "Bidirectional Monte Carlo, annealing back from the draw of z that made the row: on average never below "
    "log p(x). How far the ends lie apart tells how far AIS can be trusted.",
}


@dataclass(frozen=True)
class Rung:
    """A number that speaks of log p(x).

    Attributes:
        name: As it is printed.
        value: In nats a row.
        stderr: Its standard error over rows; None if it has none.
        kind: ``"lower bound"``, ``"upper bound"``, ``"exact"`` or ``"estimate"``.
        rows: Of which rows it speaks.
        meaning: One sentence that says what it is.
    """

    name: str
    value: float
    stderr: float | None
    kind: str
    rows: str
    meaning: str


def rungs(record: Record, scores: Scores) -> list[Rung]:
    """Return the training objective and then the measures, the loosest lower bound first.

    A gap of bidirectional Monte Carlo gives two rungs, for the rows that the model drew: the two ends.

    Args:
        record: The run's settings and history.
        scores: What was measured.
    """
    last = record.history[-1]["train"][record.bound]
    kind = "lower bound" if record.certified else "estimate"
    rows = str(scores.data.get("split") or "all")
    name, rows_of_it = f"training: {measure_name(record.bound)}", "training rows, last epoch"
    first = [Rung(name, last, None, kind, rows_of_it, _of_training(record))]
    measured, simulated = [], []
    for name, measure in scores.measures.items():
        if measure.get("kind") == "gap on simulated rows":
            for side in ("lower", "upper"):
                label, rows_of_it = f"{measure_name(name)} {side} end", "the model's own rows"
                simulated.append(Rung(label, measure[side], None, f"{side} bound", rows_of_it, _ENDS[side]))
        else:
            kind = str(measure.get("kind")) if measure.get("kind") in _LOOKS else "estimate"
            value, stderr, said = measure["value"], measure.get("stderr"), meaning(name, measure)
            measured.append(Rung(measure_name(name), value, stderr, kind, f"{rows} rows", said))
    found = [*first, *sorted(measured, key=_place), *simulated]
    return [rung for rung in found if rung.value is not None and math.isfinite(rung.value)]


def _of_training(record: Record) -> str:
    """Return what the objective's value of the last epoch is."""
    what = "What the training raised" if record.certified else "What the training raised, no certified bound"
    return f"{what}: the mean over the last epoch, on rows that it learned from and while the weights still moved."


def _place(rung: Rung) -> tuple[int, float]:
    return ("estimate", "lower bound", "exact", "upper bound").index(rung.kind), rung.value


@styled
def ladder(steps: Sequence[Rung]) -> Figure:
    """Draw every rung with its standard error, and say what it is to log p(x) and of which rows it speaks.

    Args:
        steps: What `rungs` returned.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7.2, 1.3 + 0.34 * len(steps) + 0.16 * len({step.kind for step in steps}))
    axes = figure.add_subplot()
    for place, step in enumerate(steps):
        marker, colour, filled, meaning = _LOOKS[step.kind]
        look: dict[str, Any] = {"color": colour, "markerfacecolor": colour if filled else "white"}
        axes.errorbar(
            step.value, place, xerr=step.stderr, fmt=marker, markersize=6, elinewidth=1.2, capsize=2.5, label=meaning,
            **look,
        )  # fmt: skip
        where: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "annotation_clip": False}
        shown = f"{step.value:.2f}".replace("-", "−")
        axes.annotate(f"{shown}   {step.rows}", (1.02, place), va="center", fontsize=8, color=GREY, **where)
    axes.set_yticks(range(len(steps)), [step.name for step in steps])
    axes.set_ylim(len(steps) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.set(xlabel="nats per row", ylabel="measure")
    unique = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower left")
    return figure
