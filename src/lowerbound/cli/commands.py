"""The commands by name, each imported when it is run: the list of them and completion need nothing but their names."""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["COMMANDS", "Commands"]

# name: the module of `lowerbound.cli` that has a function of this name; in the order in which help shows them
COMMANDS = {
    "train": "train",
    "tune": "tune",
    **dict.fromkeys(
        ("evaluate", "report", "compare", "sample", "encode", "reconstruct", "impute", "score", "export"), "look"
    ),
    "profile": "profile",
    "explore": "explore",
    **dict.fromkeys(("recipes", "data"), "look"),
    "doctor": "doctor",
}


class Commands(TyperGroup):
    """A group whose commands are `COMMANDS`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.commands = {name: _Later(name, help=_docstring(module, name)) for name, module in COMMANDS.items()}


class _Later(TyperCommand):
    """Shows its help in the list; to be run, or to show its options, it becomes the command that it stands for."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of the command itself."""
        name = str(self.name)
        app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
        app.command(name)(getattr(import_module(f"lowerbound.cli.{COMMANDS[name]}"), name))
        return typer.main.get_command(app).make_context(info_name, args, parent=parent, **extra)


def _docstring(module: str, function: str) -> str:
    """Return a function's docstring, read from the source of its module."""
    found = [node for node in _tree(module).body if isinstance(node, ast.FunctionDef) and node.name == function]
    return (ast.get_docstring(found[0]) or "") if found else ""


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
