"""The program: its commands, and what it does with a user's mistake."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from lowerbound.cli.commands import Commands
from lowerbound.core.errors import (
    ArgumentError,
    EvaluationWarning,
    LowerboundError,
    SamplingWarning,
    TrainingWarning,
    explain,
)

__all__ = ["app", "main"]

_python_shows = warnings.showwarning
_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt

app = typer.Typer(
    name="lowerbound",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.callback()
def lowerbound(context: typer.Context) -> None:
    """Deep latent-variable models, trained and evaluated honestly: in nats, with error bars, by bounds that hold."""
    command = context.invoked_subcommand
    if _several() and command not in ("train", "evaluate"):
        cure = "Start it without torchrun; train and evaluate can be shared out."
        raise ArgumentError(explain(f"lowerbound {command}", expected="one process", got="several", cure=cure))


def main() -> None:
    """Run the program; a mistake of the user's is one line on standard error and exit status 2, a warning is a line.

    Of several processes under torchrun the first one speaks, and another only to say what the first one does not.
    """
    warnings.showwarning = _show_warning
    try:
        with _silent() if _several() and os.environ.get("RANK") != "0" else contextlib.nullcontext():
            app()
    except LowerboundError as error:
        if _to_say(str(error)):
            Console(stderr=True, soft_wrap=True).print(f"[bold red]error[/]: {escape(str(error))}", highlight=False)
        if _several():  # the others may never come to where an orderly end would wait for them
            os._exit(2)
        sys.exit(2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            Console(stderr=True).print("interrupted; training goes on with --resume, evaluation when asked again")
        raise


def _several() -> bool:
    """Return whether torchrun has started several processes of this program."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ


def _to_say(text: str) -> bool:
    """Return whether it is for this process to say something."""
    if not _several():
        return True
    from lowerbound.core.distributed import first_to_say  # it imports torch

    return first_to_say(text)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Print nothing inside the block; what it raises is printed outside."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Print the library's own warnings as a sentence, and others as Python does."""
    if issubclass(category, (EvaluationWarning, SamplingWarning, TrainingWarning)):
        Console(stderr=True, soft_wrap=True).print(f"[bold yellow]warning[/]: {escape(str(message))}", highlight=False)
    else:
        _python_shows(message, category, *place, **more)
