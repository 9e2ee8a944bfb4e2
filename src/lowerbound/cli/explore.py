"""``lowerbound explore``."""

from __future__ import annotations

from typing import Annotated

import typer

from lowerbound import explorer
from lowerbound.cli.options import Device, RunFolder, say

__all__ = ["explore"]


def explore(
    run: RunFolder,
    data: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="Other data than the run's own test rows.")
    ] = None,
    limit: Annotated[int, typer.Option(help="The number of rows to show at most.")] = 10_000,
    port: Annotated[int, typer.Option(help="Where to listen on this machine; 0 for any free port.")] = 8642,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Whether to open the page.")] = True,
    device: Device = "auto",
) -> None:
    """Open a page on this machine that explores a run's latents: drag, decode, compare."""
    explorer.explore(
        run,
        source=data,
        limit=limit,
        port=port,
        device=device,
        browser=browser,
        say=lambda address: say(f"explore: {address}\npress Ctrl-C to end"),
    )
