"""Scores as tables: aligned text, Markdown, and a rich table for the terminal.

Every value is in nats per row of data, with its standard error over the rows; those of 8-bit values stand in bits per
dimension too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from lowerbound.evaluation import Scores

__all__ = [
    "critic_line",
    "header",
    "markdown",
    "markdown_table",
    "meaning",
    "measure_name",
    "nats",
    "rows",
    "rows_of",
    "scores_table",
    "text",
]

_HEADER = ("measure", "nats per row", "rows", "particles", "kind")

_NAMES = {"quadrature": "log p(x)", "avb_estimate": "AVB training estimate", "avb": "AVB estimate"}

# The parts of a measure that follow it, indented.
_PARTS = (
    ("reconstruction", "reconstruction"),
    ("kl", "KL"),
    ("claimed", "by the training's critic"),
    ("refitted", "by a re-fitted critic"),
)

_MEANINGS = {
    "elbo": "Expected reconstruction minus KL(q(z|x) || p(z)): on average never above log p(x), and equal to it only "
    "where the posterior is exact.",
    "iwae": "Importance-weighted bound with {particles} draws a row: on average never above log p(x), and never below "
    "the ELBO.",
    "is": "Importance sampling with {particles} draws a row from a Gaussian fitted to draws of the posterior: on "
    "average never above log p(x).",
    "quadrature": "log p(x) itself, summed over a grid of the latent space.",
    "avb": "Expected reconstruction minus a KL that a critic estimates: the training's, or one freshly fitted to these "
    "rows if its loss is lower. It may lie on either side of log p(x).",
    "ais": "Annealed importance sampling: on average never above log p(x), and closer to it the slower the annealing.",
    "bdmc": "Bidirectional Monte Carlo: brackets log p(x) on rows that the model drew itself, which tells how far "
    "AIS can be trusted.",
}


def measure_name(name: str) -> str:
    """Return a measure's name as it is printed.

    Example:
        >>> measure_name("elbo"), measure_name("iwae-1000"), measure_name("quadrature")
        ('ELBO', 'IWAE-1000', 'log p(x)')
    """
    return _NAMES.get(name, name.upper())


def meaning(name: str, measure: dict[str, Any]) -> str:
    """Return one sentence that says what a measure is.

    Args:
        name: The measure's name, such as ``"iwae-1000"``.
        measure: Its entry in `Scores.measures`.

    Example:
        >>> meaning("my-own", {"kind": "estimate"})
        'An estimate of log p(x), which may lie above or below it.'
    """
    known = _MEANINGS.get(name.split("-")[0])
    if known:
        return known.format(particles=measure.get("particles") or "several")
    if measure.get("kind") == "lower bound":
        return "On average never above log p(x)."
    return "An estimate of log p(x), which may lie above or below it."


def nats(value: float | None, stderr: float | None = None) -> str:
    """Return a value with two digits of its standard error, or with two decimals if it has none.

    Example:
        >>> nats(-104.2163, 0.3141), nats(-104.2163), nats(-1234.5, 48.0)
        ('-104.22 ± 0.31', '-104.22', '-1234 ± 48')
    """
    if value is None or not math.isfinite(value):
        return "not finite"
    if stderr is None or not math.isfinite(stderr) or stderr <= 0:
        return f"{value:.2f}"
    decimals = min(max(1 - math.floor(math.log10(stderr)), 0), 6)
    return f"{value:.{decimals}f} ± {stderr:.{decimals}f}"


def rows_of(data: Mapping[str, Any]) -> str:
    """Return in a few words what was evaluated.

    Example:
        >>> rows_of({"name": "digits", "split": "test", "binarize": "dynamic", "binarize_seed": 7})
        'digits, test rows, dynamic binarisation (seed 7)'
    """
    kind, seed = data.get("binarize"), data.get("binarize_seed")
    how = "not binarised" if kind in (None, "none") else f"{kind} binarisation"
    if kind in ("dynamic", "static") and seed is not None:
        how += f" (seed {seed})"
    return f"{data.get('name', 'the data')}, {data.get('split') or 'all'} rows, {how}"


def header(scores: Scores) -> tuple[str, ...]:
    """Return the columns of a table of scores; all but the first and the last hold numbers.

    Bits per dimension are among them if a measure has them.
    """
    return (*_HEADER[:2], *(["bits/dim"] if _has_bits(scores) else []), *_HEADER[2:])


def _has_bits(scores: Scores) -> bool:
    return any(measure.get("bits_per_dim") is not None for measure in scores.measures.values())


def _bits(measure: Mapping[str, Any]) -> str:
    """Return bits per dimension, with four decimals if they have no standard error."""
    value, stderr = measure.get("bits_per_dim"), measure.get("bits_per_dim_stderr")
    return "" if value is None else nats(value, stderr) if stderr else f"{value:.4f}"


def rows(scores: Scores) -> list[tuple[str, ...]]:
    """Return one row a measure, in the order of `header`; the parts of a measure follow it, indented."""
    table: list[tuple[str, ...]] = []
    with_bits = _has_bits(scores)
    for name, measure in scores.measures.items():
        particles = measure.get("particles")
        table.append(
            (
                measure_name(name),
                nats(measure["value"], measure.get("stderr")),
                *([_bits(measure)] if with_bits else []),
                f"{measure['n']:,}",
                "" if particles is None else f"{particles:,}",
                str(measure.get("kind", "")),
            )
        )
        for part, label in _PARTS:
            if measure.get(part) is not None:
                table.append((f"  {label}", nats(measure[part]), *[""] * (len(_HEADER) - 2 + with_bits)))
    return table


def text(scores: Scores) -> str:
    """Return the scores as aligned columns of plain text."""
    table = [header(scores), *rows(scores)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    numeric = (False, *[True] * (len(widths) - 2), False)
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in table
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown(scores: Scores) -> str:
    """Return the scores as a Markdown table."""
    titles = header(scores)
    return markdown_table(titles, rows(scores), numbers=range(1, len(titles) - 1))


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    r"""Return a Markdown table, whose columns of numbers stand to the right.

    Example:
        >>> print(markdown_table(("a", "b"), [("x|y", "1")], numbers=(1,)))
        | a | b |
        | --- | ---: |
        | x\|y | 1 |
    """

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.strip().replace("|", "\\|") for cell in cells) + " |"

    rule = ["---:" if i in numbers else "---" for i in range(len(header))]
    return "\n".join([line(header), line(rule), *map(line, lines)])


def critic_line(scores: Scores) -> str:
    """Return what the measure ``avb`` found of the training's critic in one line, or an empty string."""
    found = scores.measures.get("avb", {})
    if "distance" not in found:
        return ""
    pairs = (
        f"{word} {found[f'{name}_claimed']:{form}} (re-fitted {found[f'{name}_refitted']:{form}})"
        for word, name, form in (
            ("loss", "loss", ".3f"),
            ("accuracy", "accuracy", ".1%"),
            ("calibration error", "calibration_error", ".1%"),
        )
    )
    return f"the training's critic: {', '.join(pairs)}; they differ by {found['distance']:.3f} nats a draw"


def scores_table(scores: Scores) -> Table:
    """Return the scores as a `rich.table.Table`, to be printed by a `rich.console.Console`."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    data = scores.data
    caption = f"{data.get('name', 'data')}, {data.get('split', 'all')} rows"
    if "grid_change" in scores.measures.get("quadrature", {}):
        change = scores.measures["quadrature"]["grid_change"]
        caption += f"\nlog p(x) moves by at most {change:.1g} nats when the grid is twice as coarse"
    if critic := critic_line(scores):
        caption += f"\n{critic}"
    table = Table(box=box.SIMPLE_HEAD, caption=Text(caption), caption_justify="left")
    titles = header(scores)
    for index, title in enumerate(titles):
        numeric = 0 < index < len(titles) - 1
        table.add_column(title, justify="right" if numeric else "left", no_wrap=index < len(titles) - 1)
    for row in rows(scores):
        # Text, and no markup: a name may hold square brackets
        table.add_row(*map(Text, row), style="dim" if row[0].startswith(" ") else "")
    return table
