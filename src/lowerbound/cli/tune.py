"""``lowerbound tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from lowerbound import recipes, tuning
from lowerbound.cli.options import AsJson, Device, Seed, say, show, sizes
from lowerbound.core.checks import choice

__all__ = ["tune"]


def tune(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe; `lowerbound recipes` lists them.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the trials go; a search in it goes on.")],
    data: Annotated[str | None, typer.Option(metavar="NAME|PATH", help="The rows, as for `lowerbound train`.")] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=RANGE",
            help="lr=1e-4:1e-2:log, latent_dim=2:64 or batch_size=64,128; may be repeated.",
            show_default="lr, latent_dim and batch_size",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="How many there are to be in all.")] = 20,
    epochs: Annotated[int | None, typer.Option(help="How often a trial sees every row.")] = None,
    latent_dim: Annotated[int | None, typer.Option(help="The size of the latent vector.")] = None,
    hidden: Annotated[str | None, typer.Option(metavar="N,N", help="Sizes of the hidden layers, for MLPs.")] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Values may be missing.")] = False,
    schema: Annotated[Path | None, typer.Option(metavar="FILE", help="What the columns of a table are.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Search for good settings of a recipe, by the bound on held-out rows.

    Example: `lowerbound tune vae --data digits --trials 10 --epochs 20 --out runs/search`
    """
    chosen = recipes.RECIPES[choice("recipe", recipe, recipes.RECIPES)].changed(
        data=data,
        latent_dim=latent_dim,
        model_options={"hidden": sizes("--hidden", hidden)},
        missing=missing or None,
        schema=None if schema is None else str(schema),
        seed=seed,
        training={"epochs": epochs},
    )
    space = dict(map(tuning.parse, search)) if search else None
    found = tuning.tune(
        chosen, out=out, trials=trials, space=space, device=device, watch=None if as_json else _say_trial
    )
    table = Table("trial", f"{found.measure}, nats a row", "", "settings", box=SIMPLE)
    for trial in sorted(found.trials, key=_rank):
        bound = "" if trial.bound is None else f"{trial.bound:.2f}"
        table.add_row(str(trial.number), bound, trial.state, _words(trial.settings))
    show(table, found.describe(), as_json=as_json)
    if not as_json:
        say(f"best: {_words(found.best.settings)}")
        say(f"its run: {found.best.folder}")


def _say_trial(trial: tuning.Trial) -> None:
    bound = "" if trial.bound is None else f" {trial.bound:.2f} nats a row,"
    typer.echo(f"trial {trial.number}:{bound} {trial.state}: {_words(trial.settings)}", err=True)


def _rank(trial: tuning.Trial) -> tuple[bool, float]:
    return trial.state != "complete", -(trial.bound if trial.bound is not None else float("-inf"))


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )
