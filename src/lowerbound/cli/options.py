"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Data", "Device", "OutFile", "RunFolder", "Seed", "key_values", "say"]

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, as `lowerbound train --out RUN` writes it.")
]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="digits, four-points, mnist, or a path: .npy, .npz, .csv, .parquet, or a folder of images."
    ),
]
OutFile = Annotated[Path, typer.Option(metavar="FILE", help="Where to write: .npy, .npz or .csv.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto for an accelerator if there is one.")]
Seed = Annotated[int, typer.Option(help="The seed of everything that is drawn.")]


def say(line: str) -> None:
    """Print a line as it is: not wrapped, and with the square brackets that a path may have."""
    typer.echo(line)


def key_values(option: str, pairs: list[str]) -> dict[str, float | str | bool]:
    """Turn ``["alpha=0.9"]`` into ``{"alpha": 0.9}``; numbers and true/false are recognised.

    Example:
        >>> key_values("--optimizer-option", ["alpha=0.9", "centered=true", "mode=x"])
        {'alpha': 0.9, 'centered': True, 'mode': 'x'}
    """
    found: dict[str, float | str | bool] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"expected NAME=VALUE, got {pair!r}.", param_hint=option)
        found[key] = _value(text)
    return found


def _value(text: str) -> float | str | bool:
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text
