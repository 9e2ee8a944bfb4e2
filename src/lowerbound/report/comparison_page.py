"""A comparison as people read it: a table for the terminal, Markdown, and a page with the figure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lowerbound.core.errors import ArgumentError, explain
from lowerbound.core.files import write_bytes
from lowerbound.report.comparison_figure import comparison_figure
from lowerbound.report.html import Markup, Page, Picture, Section, element, picture, render, typeset
from lowerbound.report.html import table as html_table
from lowerbound.report.style import png
from lowerbound.report.tables import markdown_table, measure_name, nats, rows_of
from lowerbound.report.verdict import Note

if TYPE_CHECKING:
    from rich.table import Table

    from lowerbound.report.compare import Comparison, Entry

__all__ = ["html", "markdown", "table", "write"]

NONE = "—"


def table(comparison: Comparison) -> Table:
    """Return the comparison as a `rich.table.Table`: below each value its difference to the first run."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    notes = "".join(f"\n{note}" for note in comparison.notes)
    caption = Text(f"{comparison.verdict}.\n", style="not italic")
    caption.append(f"{_about(comparison)}{notes}", style="dim")
    shown = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", caption_style="")
    shown.add_column("run", overflow="fold")
    shown.add_column("model")
    for column in comparison.columns:
        shown.add_column(Text(f"{measure_name(column.name)}\n{column.kind}"), justify="right")
    for place, (name, model) in enumerate(zip(comparison.names, comparison.models, strict=True)):
        cells = []
        for column in comparison.columns:
            entry = column.entries[place]
            style = "bold" if place == column.best else "" if column.ranked else "italic dim"
            cell = Text(NONE if entry is None else nats(entry.value, entry.stderr), style=style)
            if entry is not None and entry.difference is not None:
                cell.append(f"\n{_difference(entry)}", style="not bold dim")
            cells.append(cell)
        shown.add_row(Text(name), Text(model), *cells)  # Text, and no markup: a name may hold square brackets
    return shown


def markdown(comparison: Comparison, *, figure: bool = False) -> str:
    """Return the comparison as Markdown, with a link to the figure beside it if asked for."""
    rows = []
    for place, (name, model) in enumerate(zip(comparison.names, comparison.models, strict=True)):
        cells = [name, model]
        for column in comparison.columns:
            entry = column.entries[place]
            value = NONE if entry is None else nats(entry.value, entry.stderr)
            cell = f"**{value}**" if place == column.best else value
            if entry is not None and entry.difference is not None:
                cell += f" ({_difference(entry)})"
            cells.append(cell)
        rows.append(cells)
    header = ["run", "model", *(f"{measure_name(column.name)} ({column.kind})" for column in comparison.columns)]
    blocks = [
        f"**{comparison.verdict}.**",
        markdown_table(header, rows, numbers=range(2, len(header))),
        _about(comparison, below="In brackets"),
        "\n".join(f"- {note}" for note in comparison.notes),
        "![Every measure of every run with its standard error](comparison.png)" if figure else "",
    ]
    if comparison.settings:
        settings = [(key, *values) for key, values in comparison.settings.items()]
        blocks += ["Settings that differ:", markdown_table(("setting", *comparison.names), settings)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def html(comparison: Comparison) -> str:
    """Return the comparison as one page that needs nothing else."""
    rows: list[tuple[str, ...]] = []
    for place, (name, model) in enumerate(zip(comparison.names, comparison.models, strict=True)):
        cells = [_cell(column.entries[place], best=place == column.best) for column in comparison.columns]
        rows.append((name, element("div", model, class_="wrapped"), *cells))
    header = ("run", "model", *(f"{measure_name(column.name)}, {column.kind}" for column in comparison.columns))
    caption = "Bars are one standard error. Axes differ from panel to panel: a measure is compared with itself."
    shown = Picture("comparison", "Measures of all runs", caption, png(comparison_figure(comparison)))
    sections = [
        Section(
            "Scores",
            [
                html_table(header, rows, numbers=range(2, len(header))),
                element("p", typeset(_about(comparison))),
                element("div", picture(shown), class_="figures"),
            ],
        )
    ]
    if comparison.settings:
        settings = [(key, *values) for key, values in comparison.settings.items()]
        sections.append(Section("Settings that differ", [html_table(("setting", *comparison.names), settings)]))
    title = f"Comparison of {len(comparison.names)} runs: {', '.join(comparison.names)}"
    notes = [Note(note, "warning" if "unpaired" in note else "info") for note in comparison.notes]
    return render(Page(title=title, verdict=comparison.verdict, notes=notes, sections=sections))


def write(comparison: Comparison, out: str | os.PathLike[str]) -> list[Path]:
    """Write the comparison as Markdown, page and figure into a folder, or as one file of these kinds.

    Args:
        comparison: What `lowerbound.report.compare` found.
        out: A folder; or a path that ends in ``.md``, ``.html`` or ``.png``.

    Returns:
        The paths of the files.

    Raises:
        ArgumentError: if `out` has the ending of another kind of file.
        RunError: if a file cannot be written.
    """
    target = Path(out)
    makers = {
        ".md": lambda: markdown(comparison, figure=not target.suffix).encode(),
        ".html": lambda: html(comparison).encode(),
        ".png": lambda: png(comparison_figure(comparison)),
    }
    if target.suffix in makers and not target.is_dir():
        paths = [target]
    elif target.suffix[1:].isalpha() and not target.is_dir():
        cure = "Name a folder, or a file of one of these kinds."
        raise ArgumentError(explain("out", expected=", ".join(makers), got=repr(target.suffix), cure=cure))
    else:
        paths = [target / f"comparison{suffix}" for suffix in makers]
    for path in paths:
        write_bytes(path, makers[path.suffix]())
    return paths


def _about(comparison: Comparison, *, below: str = "Below it") -> str:
    """Return the sentences that say how to read the table."""
    n = comparison.data.get("n_evaluated", 0)
    firsts = {next(i for i, entry in enumerate(column.entries) if entry is not None) for column in comparison.columns}
    first = comparison.names[0] if firsts == {0} else "the first run that has the measure"
    text = f"On {rows_of(comparison.data)}, n = {n:,}; nats per row, ± one standard error over rows."
    if any(column.ranked for column in comparison.columns):
        text += (
            f" {below}: the difference to {first}, ± its standard error over the same rows. Bold: above every other "
            "run by more than two standard errors of their difference."
        )
    if any(not column.ranked for column in comparison.columns):
        text += " A value of another kind is no bound of log p(x) on these rows, and is not ranked."
    return text


def _difference(entry: Entry) -> str:
    text = nats(entry.difference, entry.difference_stderr)
    sign = "" if text.startswith("-") else "+"
    return f"{sign}{text}{'' if entry.paired else ' unpaired'}"


def _cell(entry: Entry | None, *, best: bool) -> Markup:
    if entry is None:
        return element("div", NONE)
    value = typeset(nats(entry.value, entry.stderr))
    pieces = [element("div", element("b", value) if best else value)]
    if entry.difference is not None:
        pieces.append(element("div", typeset(_difference(entry)), class_="soft"))
    return element("div", pieces)
