"""The commands that look at runs, evaluate, report, compare, sample and so on; and the lists of what there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from lowerbound import data as sources
from lowerbound import export as exporting
from lowerbound import report as reports
from lowerbound import runs, scoring
from lowerbound.cli.options import AsJson, Data, Device, OutFile, RunFolder, Seed, say, schema_lines, show
from lowerbound.core.checks import choice
from lowerbound.recipes import RECIPES

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "compare",
    "data",
    "encode",
    "evaluate",
    "export",
    "impute",
    "recipes",
    "reconstruct",
    "report",
    "sample",
    "score",
]

# What `lowerbound data` lists: name, content, rows.
_DATA = (
    ("digits", "handwritten digits, 8 x 8 pixels, with labels; ships with scikit-learn", "1,438 train, 359 test"),
    ("mnist", "handwritten digits, 28 x 28 pixels, with labels; found or downloaded", "60,000 train, 10,000 test"),
    (
        "four-points",
        "four binary points of four pixels, the example of adversarial variational Bayes",
        "5,120, the same to train and to test",
    ),
    ("FILE.npy", "an array of rows, read from disk as they are wanted", "all but a tenth for testing"),
    ("FILE.npz", "an array `data` and, if there are any, `labels`", "all but a tenth for testing"),
    (
        "FILE.csv, FILE.parquet",
        "a table of numbers or mixed types; a column `label` is kept beside",
        "all but a tenth for testing",
    ),
    ("FOLDER", "images, brought to one size; sub-folders are labels", "all but a tenth for testing"),
)


def evaluate(
    run: RunFolder,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            help="elbo, elbo-K, iwae-K or is-K with a number K, quadrature, avb, ais, bdmc; may be repeated.",
            show_default="elbo, iwae-100; for implicit posteriors avb, and quadrature or is-1000",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="Other data than the run's own test rows.")
    ] = None,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    limit: Annotated[int | None, typer.Option(help="The number of rows; all if left out.")] = None,
    chains: Annotated[int, typer.Option(help="Of ais and bdmc: chains a row.")] = 16,
    temperatures: Annotated[int, typer.Option(help="Of ais and bdmc: steps from the start to the posterior.")] = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a run in nats, with error bars, and write `scores.json` into it."""
    scores = runs.evaluate_run(
        run,
        measure or None,
        split=split,
        source=data,
        limit=limit,
        chains=chains,
        temperatures=temperatures,
        seed=seed,
        device=device,
        progress=not (quiet or as_json),
    )
    show(reports.tables.scores_table(scores), scores.describe(), as_json=as_json)


def report(run: RunFolder) -> None:
    """Draw the figures of a run and write `report.html`, one page that needs no network."""
    path = reports.write(run)
    say(f"report: {path}")


def compare(
    run: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders that were evaluated.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER|FILE", help="Where to write the table (.md), the page (.html), the figure (.png)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put evaluated runs side by side: each measure with its error, and paired differences to the first run."""
    found = reports.compare(run, out=out)
    show(found.table(), found.describe(), as_json=as_json)
    if out is not None and not as_json:
        say(f"comparison: {out}")


def sample(
    run: RunFolder,
    out: OutFile,
    n: Annotated[int, typer.Option("-n", "--number", help="How many rows to draw.")] = 100,
    mean: Annotated[
        bool, typer.Option("--mean", help="Write the means given the latents, without observation noise.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Draw new rows from a run's model; a .png shows images side by side."""
    columns, names, images = _form(run)
    if mean and columns is not None:
        raise typer.BadParameter("columns of levels have no means; draw rows instead.", param_hint="--mean")
    runs.check_out(out, columns, images=images)
    rows, means = runs.sample(run, n, seed=seed, device=device)
    _write(out, means if mean else rows, columns, names)
    say(f"{n} rows: {out}")


def encode(
    run: RunFolder,
    data: Data,
    out: OutFile,
    device: Device = "auto",
) -> None:
    """Write the posterior means of all rows of DATA, with their labels if there are any."""
    runs.check_out(out)
    latents, labels = runs.encode(run, data, device=device)
    runs.write_rows(out, {"data": latents, **({} if labels is None else {"labels": labels})})
    say(f"{len(latents)} rows of {latents.shape[1]} latents: {out}")


def reconstruct(
    run: RunFolder,
    data: Data,
    out: OutFile,
    device: Device = "auto",
) -> None:
    """Encode all rows of DATA and decode them again; a .png shows images side by side."""
    columns, names, images = _form(run)
    runs.check_out(out, columns, images=images)
    _, outputs = runs.reconstruct(run, data, device=device)
    _write(out, outputs, columns, names)
    say(f"{len(outputs)} rows: {out}")


def impute(
    run: RunFolder,
    data: Data,
    out: OutFile,
    particles: Annotated[int, typer.Option(help="Posterior draws a row.")] = 1000,
    draws: Annotated[
        int, typer.Option(help="Completions of each row, for multiple imputation: `draws` in a .npz.")
    ] = 0,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Fill the gaps in the rows of DATA with their means given what is observed."""
    if draws and out.suffix != ".npz":
        raise typer.BadParameter(
            f"--draws needs a .npz, which holds more than one array; got {out}.", param_hint="--out"
        )
    columns, names, _ = _form(run)
    runs.check_out(out, columns)
    found = runs.impute(run, data, particles=particles, draws=draws, seed=seed, device=device)
    runs.write_rows(out, {"data": found.mean, **({"draws": found.draws} if draws else {})}, columns, names=names)
    say(f"{len(found.mean)} rows: {out}")
    effective = found.particles
    say(f"effective particles a row: median {effective.median():.0f}, smallest {effective.min():.0f} of {particles}")


def recipes(as_json: AsJson = False) -> None:
    """List the recipes."""
    table = Table("recipe", "what it trains", "objective", "latents", box=SIMPLE)
    for recipe in RECIPES.values():
        table.add_row(recipe.name, recipe.summary, recipe.objective, str(recipe.latent_dim))
    show(table, [recipe.describe() for recipe in RECIPES.values()], as_json=as_json)


def score(
    run: RunFolder,
    data: Data,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write: .csv or .parquet.")],
    particles: Annotated[int, typer.Option(help="Posterior draws a row behind the bound.")] = 100,
    split: Annotated[str, typer.Option(help="The held-out rows behind the p-values: test or validation.")] = "test",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Write how likely each row of DATA is, and a p-value: its rank among rows that the run has not seen."""
    choice("out", out.suffix, (".csv", ".parquet"))
    found = scoring.score(run, data, particles=particles, split=split, seed=seed, device=device)
    columns = {
        "row": list(range(len(found.p_value))),
        "log_likelihood": found.log_likelihood.tolist(),
        "p_value": found.p_value.tolist(),
    }
    sources.write_cells(out, columns)
    say(f"{len(found.p_value)} rows: {out}")
    say(f"p-values: ranks among the {found.held_out} rows of the {found.split} split")


def export(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where to write; by default RUN/export.")] = None,
    format: Annotated[str, typer.Option(help="onnx, or torch for torch.export.")] = "onnx",
) -> None:
    """Write encoder and decoder as files that onnxruntime or torch run alone, with a model card."""
    folder = exporting.export(run, out=out, format=format)
    say(f"encode, decode and README.md: {folder}")


def data(
    table: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="A .csv or .parquet whose columns to show.")
    ] = None,
    schema: Annotated[Path | None, typer.Option(metavar="FILE", help="A schema in TOML that overrides it.")] = None,
    write_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the schema there, to be changed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the data that can be read; of a TABLE, show what its columns are taken for."""
    if table is None:
        for option, value in (("--schema", schema), ("--write-schema", write_schema)):
            if value is not None:
                raise typer.BadParameter("it is about a table; name one.", param_hint=option)
        listed = Table("data", "what it is", "rows", box=SIMPLE)
        for row in _DATA:
            listed.add_row(*row)
        show(listed, [dict(zip(("data", "content", "rows"), row, strict=True)) for row in _DATA], as_json=as_json)
        return
    found = sources.load_all(table, schema="infer" if schema is None else schema, missing=True)
    columns = found.schema or ()
    if write_schema is not None:
        sources.write_schema(write_schema, columns)
    show("\n".join(schema_lines(columns)), [column.describe() for column in columns], as_json=as_json)
    if write_schema is not None and not as_json:
        say(f"schema: {write_schema}")


def _form(run: Path) -> tuple[list[sources.Column] | None, list[str] | None, bool]:
    """Return the columns of a run's mixed table, the names of those of a table of numbers, and if rows are images."""
    loaded = runs.load(run)
    model: Any = loaded.model
    return runs.schema(loaded), runs.column_names(loaded), reports.is_image(model.event_shape)


def _write(out: Path, rows: Tensor, columns: list[sources.Column] | None, names: list[str] | None) -> None:
    """Write rows, as one picture or as an array or a table."""
    if out.suffix == ".png":
        reports.write_sheet(out, rows.numpy())
    else:
        runs.write_rows(out, {"data": rows}, columns, names=names)
