"""The program: its commands, and what it does with a user's mistake."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from lowerbound.cli.commands import Commands
from lowerbound.core.errors import EvaluationWarning, LowerboundError, SamplingWarning, TrainingWarning

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
def lowerbound() -> None:
    """Deep latent-variable models, trained and evaluated honestly: in nats, with error bars, by bounds that hold."""


def main() -> None:
    """Run the program; a mistake of the user's is one line on standard error and exit status 2, a warning is a line."""
    warnings.showwarning = _show_warning
    try:
        app()
    except LowerboundError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error[/]: {escape(str(error))}", highlight=False)
        sys.exit(2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            Console(stderr=True).print("interrupted; training goes on with --resume, evaluation when asked again")
        raise


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Print the library's own warnings as a sentence, and others as Python does."""
    if issubclass(category, (EvaluationWarning, SamplingWarning, TrainingWarning)):
        Console(stderr=True, soft_wrap=True).print(f"[bold yellow]warning[/]: {escape(str(message))}", highlight=False)
    else:
        _python_shows(message, category, *place, **more)
