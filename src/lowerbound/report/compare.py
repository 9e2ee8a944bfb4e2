"""Several runs side by side: what each measure says of each run, and how sure the differences are."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lowerbound.report import comparison_page as pages
from lowerbound.report.comparable import Evaluated, differing_settings, in_short, read_comparable, short_names
from lowerbound.report.comparison_figure import comparison_figure
from lowerbound.report.tables import measure_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["Column", "Comparison", "Entry", "compare"]

RANKED = ("lower bound", "exact")
"""The kinds of measures whose values may be ranked; all others may lie on either side of log p(x)."""

CLEAR = 2.0
"""How many standard errors a difference must have to be called one."""


@dataclass(frozen=True)
class Entry:
    """What one measure says of one run, in nats a row.

    Attributes:
        value: The mean over rows.
        stderr: Its standard error over rows; None for a single row.
        difference: The value minus that of the first run that has the measure; None for that run, and for measures
            that are no bound.
        difference_stderr: The standard error of the difference; None for a single row.
        paired: Whether that error is of the differences row by row. If not, one of the runs has no values of its rows,
            and the error is that of two independent means.
    """

    value: float
    stderr: float | None
    difference: float | None = None
    difference_stderr: float | None = None
    paired: bool = True


@dataclass(frozen=True)
class Column:
    """One measure of all runs.

    Attributes:
        name: The measure.
        kind: What it is to log p(x): ``"lower bound"``, ``"exact"`` or ``"no bound"``.
        entries: One a run; None where a run lacks the measure.
        best: The run that lies above every other by more than `CLEAR` standard errors of their difference, or None.
    """

    name: str
    kind: str
    entries: tuple[Entry | None, ...]
    best: int | None

    @property
    def ranked(self) -> bool:
        """Whether its values may be ranked."""
        return self.kind in RANKED


@dataclass(frozen=True)
class Comparison:
    """Runs that were evaluated on the same rows, side by side.

    Attributes:
        names: The shortest ends of the runs' paths that tell them apart.
        models: What each run trained, in a few words.
        columns: The measures that two runs or more have.
        data: What all were evaluated on, as in `lowerbound.evaluation.Scores`.
        settings: The settings in which the runs differ, by name, one text a run.
        notes: What a reader should know, in sentences.
    """

    names: tuple[str, ...]
    models: tuple[str, ...]
    columns: tuple[Column, ...]
    data: dict[str, Any]
    settings: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Return the comparison and its verdict as plain values."""
        return {**asdict(self), "verdict": self.verdict}

    def table(self) -> Table:
        """Return the comparison as a `rich.table.Table`, to be printed by a `rich.console.Console`."""
        return pages.table(self)

    def markdown(self) -> str:
        """Return the comparison as Markdown."""
        return pages.markdown(self)

    def figure(self) -> Figure:
        """Return the figure: one panel a measure."""
        return comparison_figure(self)

    @property
    def verdict(self) -> str:
        """What the bounds say, in one line.

        A bound is ranked against the same bound of other runs and against nothing else.
        """
        said = []
        for column in self.columns:
            if column.ranked:
                best = "no run is clearly ahead" if column.best is None else f"{self.names[column.best]} is ahead"
                said.append(f"{measure_name(column.name)}: {best}")
        return "; ".join(said) or "No measure of these runs is a bound: nothing can be ranked"


def compare(runs: Sequence[str | os.PathLike[str]], *, out: str | os.PathLike[str] | None = None) -> Comparison:
    r"""Compare evaluated runs, each measure with its standard error and its difference to the first run.

    Rows that are hard for one model are hard for the next, so the errors of two runs are largely shared. A difference
    is therefore judged row by row: for values :math:`a_i` and :math:`b_i` of the same n rows

    .. math:: \Delta = \frac1n \sum_i d_i, \qquad
              \mathrm{se}(\Delta) = \sqrt{\frac{1}{n (n - 1)} \sum_i (d_i - \Delta)^2}, \qquad d_i = b_i - a_i

    Args:
        runs: Two run folders or more, evaluated on the same rows.
        out: A folder to write ``comparison.md``, ``comparison.html`` and ``comparison.png`` into; or a path with one of
            their three suffixes, to write that one; or None.

    Returns:
        The comparison.

    Raises:
        ArgumentError: if there are fewer than two runs, or one comes twice.
        RunError: if a run was not evaluated, if two were evaluated on different rows or under different binarisations,
            if one gives densities and another probabilities, or if no measure is common to all.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> train, test = lb.data.four_points(rows=64)
        >>> for size in (1, 2):
        ...     out = f"{folder.name}/latents-{size}"
        ...     model = lb.models.VAE(event_shape=(4,), latent_dim=size, hidden=(8,))
        ...     run = lb.fit(lb.objectives.ELBO(model), train, epochs=1, out=out, progress=False)
        ...     lb.evaluate(run.model, test, "elbo").write(out)
        >>> found = lb.report.compare([f"{folder.name}/latents-1", f"{folder.name}/latents-2"])
        >>> found.names, [column.name for column in found.columns], found.columns[0].entries[1].paired
        (('latents-1', 'latents-2'), ['elbo'], True)
        >>> folder.cleanup()
    """
    found = read_comparable(runs)
    names = short_names([run.folder for run in found])
    shared = [name for name in _measures(found) if sum(name in run.measures for run in found) > 1]
    comparison = Comparison(
        names=tuple(names),
        models=tuple(in_short(run.config) for run in found),
        columns=tuple(_column(name, found) for name in shared),
        data=found[0].scores.data,
        settings=differing_settings([run.config for run in found]),
        notes=tuple(_notes(found, names, shared)),
    )
    if out is not None:
        pages.write(comparison, out)
    return comparison


def _measures(found: Sequence[Evaluated]) -> list[str]:
    """Return the measures of all runs, in the order in which they come."""
    return list(dict.fromkeys(name for run in found for name in run.measures))


def _column(name: str, found: Sequence[Evaluated]) -> Column:
    having = [i for i, run in enumerate(found) if name in run.measures]
    kinds = {found[i].measures[name].get("kind") for i in having}
    kind = str(kinds.pop()) if len(kinds) == 1 else "no bound"
    entries: list[Entry | None] = [None] * len(found)
    for i in having:
        measure = found[i].measures[name]
        compared = _difference(found[having[0]], found[i], name) if kind in RANKED and i != having[0] else ()
        entries[i] = Entry(measure["value"], measure.get("stderr"), *compared)
    return Column(name, kind, tuple(entries), _best(name, found, having) if kind in RANKED else None)


def _difference(first: Evaluated, second: Evaluated, name: str) -> tuple[float, float | None, bool]:
    """Return the second run's value minus the first's, its standard error, and whether that is paired."""
    pair = [run.scores.rows.get(name) for run in (first, second)]
    if pair[0] is not None and pair[1] is not None:
        d = pair[1] - pair[0]
        return float(d.mean()), float(d.std(ddof=1) / math.sqrt(len(d))) if len(d) > 1 else None, True
    a, b = (run.measures[name] for run in (first, second))
    known = a.get("stderr") is not None and b.get("stderr") is not None
    return b["value"] - a["value"], math.hypot(a["stderr"], b["stderr"]) if known else None, False


def _best(name: str, found: Sequence[Evaluated], having: Sequence[int]) -> int | None:
    """Return the run that is clearly above every other that has the measure."""
    top = max(having, key=lambda i: found[i].measures[name]["value"])
    for rival in having:
        difference, stderr, _ = _difference(found[rival], found[top], name)
        if rival != top and (stderr is None or difference <= CLEAR * stderr):
            return None
    return top


def _notes(found: Sequence[Evaluated], names: Sequence[str], shared: Sequence[str]) -> Iterator[str]:
    """Yield what the table itself does not say."""
    without = [
        label
        for label, run in zip(names, found, strict=True)
        if not set(shared) & run.measures.keys() <= run.scores.rows.keys()
    ]
    if without:
        yield (
            f"No values of single rows are kept with {_listed(without)}: differences with it are unpaired, and their "
            "errors too large. Evaluate it again to have them paired."
        )
    left_out = {
        name: label for label, run in zip(names, found, strict=True) for name in run.measures if name not in shared
    }
    for name, label in left_out.items():
        yield f"{measure_name(name)} is left out: only {label} has it."
    n, total = found[0].scores.data.get("n_evaluated"), found[0].scores.data.get("n")
    if n != total:
        yield f"Only {n:,} of {total:,} rows were evaluated."
    hashes = {(run.config.get("data") or {}).get("sha256") for run in found}
    if len(hashes) > 1:
        yield "The runs were trained on different rows."


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
