"""Options that several commands share."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lowerbound.data import Column

__all__ = [
    *("COMPILE", "AsJson", "Data", "Device", "OutFile", "RunFolder", "Seed"),
    *("key_values", "say", "schema_lines", "show", "sizes"),
]

COMPILE: dict[str, Any] = {"on": True, "off": False, "graphs": "graphs", "auto": "auto"}

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, as `lowerbound train --out RUN` writes it.")
]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="digits, four-points, mnist, or a path: .npy, .npz, .csv, .parquet, or a folder of images."
    ),
]
OutFile = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help="Where to write: .npy, .npz or .csv; .parquet too for tables of mixed types, .png for images.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto for an accelerator if there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the table as JSON, and nothing else.")]
Seed = Annotated[int, typer.Option(help="The seed of everything that is drawn.")]


def say(line: str) -> None:
    """Print a line as it is: not wrapped, and with the square brackets that a path may have."""
    typer.echo(line)


def show(table: Any, value: Any, *, as_json: bool) -> None:
    """Print a table of rich or a text, or what it shows as JSON: plain values, null for what is not finite."""
    if as_json:
        typer.echo(json.dumps(_finite(value), indent=2))
    elif isinstance(table, str):
        say(table)
    else:
        Console().print(table)


def _finite(value: Any) -> Any:
    """Return a tree of plain values with None in place of each number that JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def schema_lines(columns: Sequence[Column]) -> list[str]:
    """Return a line for each column of a table: its name, its type, and its levels, ten of them at most."""
    width = max((len(column.name) for column in columns), default=0)
    lines = []
    for column in columns:
        levels = ", ".join(str(level) for level in column.levels[:10]) + (", ..." if len(column.levels) > 10 else "")
        lines.append(f"{column.name:{width}}  {column.kind:11}  {levels}".rstrip())
    return lines


Value = float | str | bool | list[Any]


def key_values(option: str, pairs: list[str]) -> dict[str, Value]:
    """Turn ``["alpha=0.9"]`` into ``{"alpha": 0.9}``; numbers, true/false and lists with commas are recognised.

    Example:
        >>> key_values("--optimizer-option", ["alpha=0.9", "centered=true", "mode=x", "hidden=64,64"])
        {'alpha': 0.9, 'centered': True, 'mode': 'x', 'hidden': [64, 64]}
    """
    found: dict[str, Value] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"expected NAME=VALUE, got {pair!r}.", param_hint=option)
        found[key] = _value(text)
    return found


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    if "," in text:
        return [_value(part) for part in text.split(",") if part]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def sizes(option: str, text: str | None) -> list[int] | None:
    """Turn ``"500,500"`` into ``[500, 500]``."""
    if text is None:
        return None
    try:
        return [int(size) for size in text.split(",") if size]
    except ValueError:
        raise typer.BadParameter(f"expected sizes like 500,500, got {text!r}.", param_hint=option) from None
