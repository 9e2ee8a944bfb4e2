"""``lowerbound profile``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import torch
import typer
from rich.box import SIMPLE
from rich.table import Table

from lowerbound import recipes as library
from lowerbound.cli.options import COMPILE, AsJson, Device, say, show, sizes
from lowerbound.core.checks import choice, positive_int
from lowerbound.training.profile import PARTS, profile_steps

__all__ = ["profile"]


def profile(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe; `lowerbound recipes` lists them.")],
    data: Annotated[str | None, typer.Option(metavar="NAME|PATH", help="The rows, as for `lowerbound train`.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a step.")] = None,
    latent_dim: Annotated[int | None, typer.Option(help="The size of the latent vector.")] = None,
    hidden: Annotated[str | None, typer.Option(metavar="N,N", help="Sizes of the hidden layers, for MLPs.")] = None,
    particles: Annotated[int | None, typer.Option(help="Posterior draws a row.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or auto.")] = None,
    compile: Annotated[str | None, typer.Option(help="on, graphs (CUDA), off or auto.")] = None,
    steps: Annotated[int, typer.Option(help="Steps that are timed.")] = 50,
    threads: Annotated[int | None, typer.Option(help="Threads of torch; all cores by default.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show where the time of a training step goes, beside the least that its matrix products take.

    Example: `lowerbound profile vae --data digits`
    """
    if threads is not None:
        torch.set_num_threads(positive_int("threads", threads))
    chosen = library.RECIPES[choice("recipe", recipe, library.RECIPES)].changed(
        data=data,
        latent_dim=latent_dim,
        model_options={"hidden": sizes("--hidden", hidden)},
        objective_options={"particles": particles},
        training={
            "batch_size": batch_size,
            "precision": precision,
            "compile": None if compile is None else COMPILE[choice("compile", compile, COMPILE)],
        },
    )
    rows, _ = library.training_data(chosen)
    settings = library.training_settings(chosen, len(rows))
    found = profile_steps(library.build(chosen, rows), rows, steps=steps, device=device, **settings)
    table = Table("part of a step", "ms", "share", box=SIMPLE)
    for name, milliseconds in found.parts.items():
        table.add_row(PARTS[name], f"{milliseconds:.2f}", f"{milliseconds / found.step:.0%}")
    table.add_row("a step", f"{found.step:.2f}", "")
    floor = f"floor: its {found.products} products alone"
    table.add_row(floor, f"{found.floor:.2f}", f"{found.floor / found.step:.0%}")
    show(table, {**asdict(found), "threads": torch.get_num_threads(), "unit": "milliseconds"}, as_json=as_json)
    how = f"{found.mode}, threads: {torch.get_num_threads()}"
    if not as_json:
        say(f"{how}; a step takes {found.step / found.floor:.2f} times its floor")
