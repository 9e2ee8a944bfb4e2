"""Everything that starts from a run folder: load it, evaluate it, sample, encode and reconstruct with it."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowerbound import data as sources
from lowerbound import evaluation, objectives
from lowerbound.core.checks import choice, positive_int
from lowerbound.core.device import find_device
from lowerbound.core.distributed import place, share
from lowerbound.core.errors import ArgumentError, DataError, EvaluationWarning, RunError, explain
from lowerbound.core.files import read_json, writing
from lowerbound.core.random import seeded
from lowerbound.models import MODELS
from lowerbound.nn import BernoulliLikelihood
from lowerbound.training import Run
from lowerbound.training.checkpoint import check_format, read_weights

_COMPLETIONS = 200  # of each row, at least, behind the most frequent level and the median

__all__ = [
    "check_out",
    "column_names",
    "encode",
    "evaluate_run",
    "impute",
    "load",
    "load_data",
    "reconstruct",
    "sample",
    "schema",
    "write_rows",
]


def load(run: str | os.PathLike[str], *, model: nn.Module | None = None) -> Run:
    """Read a run folder: the trained model, its history and its configuration.

    Args:
        run: The run folder.
        model: A model of one's own class, built as it was for training; models of the library are rebuilt.

    Raises:
        RunError: if the folder is no run, a file is missing or damaged, or it is from another version.
    """
    folder = Path(run)
    if not folder.is_dir():
        cure = "Check the path; `lowerbound train` and lb.fit(..., out=...) write run folders."
        raise RunError(explain(str(folder), expected="a run folder", got="no such folder", cure=cure))
    config = read_json(folder / "config.json")
    check_format(folder / "config.json", config)
    with seeded(0, "load"):  # a new model draws weights, which are overwritten
        rebuilt: Any = _rebuild(config, folder) if model is None else model
    read_weights(folder, rebuilt)
    rebuilt.eval()
    return Run(rebuilt, _history(folder), config, folder)


def load_data(run: Run, split: str = "test", *, source: str | None = None) -> sources.Dataset:
    """Return the data that a run was trained on, split and binarised as then, or other data in the same form.

    Args:
        run: The run.
        split: ``"test"``, ``"validation"`` or ``"train"`` of the run's data; of another source, all rows.
        source: Another source, as for `lowerbound.data.load_all`; None for the run's own. Whole numbers in a uint8
            array have the levels of the run's data; labels are those that the source itself has.

    Raises:
        DataError: if the source cannot be found again or has changed, or its values are none of the run's levels.
    """
    described = run.config["data"]
    if not {"source", "binarize", "binarize_seed", "sha256"} <= described.keys():
        cure = "Evaluate it in Python: lb.evaluate(run.model, data)."
        expected = "data of lowerbound.data"
        raise DataError(explain("data of the run", expected=expected, got="a class of one's own", cure=cure))
    binarize, seed = described["binarize"], described["binarize_seed"]
    missing = bool(described.get("missing", False))
    own: dict[str, Any] = {"labels": described["labels"]} if "labels" in described else {}
    columns = schema(run)
    table: dict[str, Any] = {} if columns is None else {"schema": columns}
    if "images" in described and Path(source or described["source"]).expanduser().is_dir():
        table["image_size"] = described["event_shape"]
    if source is not None:
        return _levelled(run, _others(source, described, own, table))
    choice("split", split, ("test", "validation", "train"))
    fraction = described.get("test_fraction")
    options = own | table if fraction is None else {**own, **table, "test_fraction": fraction}
    if described["source"] not in sources.SOURCES and not Path(described["source"]).expanduser().exists():
        cure = "Go to the folder from which it was trained, or name data with --data."
        got = f"nothing at {described['source']}"
        raise DataError(explain("data of the run", expected="a path that leads to them from here", got=got, cure=cure))
    train_rows, test_rows = sources.load(described["source"], binarize=binarize, seed=seed, missing=missing, **options)
    validation = described.get("validation_fraction")
    parts_by_name = {"test": test_rows, "train": train_rows}
    if validation is not None:
        rest, held_out = train_rows.split_off(validation, seed=described["validation_split_seed"])
        parts_by_name |= {"train": rest, "validation": held_out}
    if split not in parts_by_name:
        cure = "Choose the test split."
        raise DataError(explain("split", expected="a split of the run", got="a run without validation rows", cure=cure))
    if parts_by_name["train"].describe()["sha256"] != described["sha256"]:
        cure = "Evaluate on the data that the run has seen, or name others with --data."
        raise DataError(
            explain(described["source"], expected="the rows that the run was trained on", got="others", cure=cure)
        )
    return parts_by_name[split]


def _others(
    source: str, described: Mapping[str, Any], own: Mapping[str, Any], table: Mapping[str, Any]
) -> sources.Dataset:
    """Return all rows of another source than the run's, in the form of the run's own data."""
    form: dict[str, Any] = {"binarize": described["binarize"], "seed": described["binarize_seed"]}
    if source in sources.SOURCES:
        return sources.load_all(source, **form)
    labels = own if own and sources.has_labels(source, own["labels"]) else {}
    missing = bool(described.get("missing", False))
    return sources.load_all(source, missing=missing, **form, **labels, **table)


def _levelled(run: Run, rows: sources.Dataset) -> sources.Dataset:
    """Return rows of other data with the levels of the run's, if theirs were guessed.

    Raises:
        DataError: if values lie between the levels of a run whose likelihood knows no others.
    """
    levels = run.config["data"].get("levels")
    if levels is None or rows.levels is None or rows.event_shape != tuple(run.config["data"]["event_shape"]):
        return rows  # of another shape: the model will say so
    guessed = Path(rows.source).suffix.lower() in (".npy", ".npz")  # of pictures and built-in sets it is known
    if guessed:
        rows = rows.with_levels(levels)
    if rows.levels == levels:
        return rows
    likelihood = getattr(getattr(run.model, "generator", None), "likelihood", None)
    discrete = hasattr(likelihood, "levels") or (levels == 2 and isinstance(likelihood, BernoulliLikelihood))
    if discrete and not rows.binary:
        cure = f"Save them as uint8, as whole numbers from 0 to {levels - 1}."
        expected = f"values of {levels} levels, which the run was trained on"
        raise DataError(explain(rows.source, expected=expected, got=f"{rows.levels} levels", cure=cure))
    if guessed and rows.levels == 256:
        what = f"there are numbers above {levels - 1}, the last level of the run: taken as 8-bit pixels, up to 255"
        warnings.warn(f"{rows.source}: {what}", EvaluationWarning, stacklevel=3)
    return rows


def schema(run: Run) -> list[sources.Column] | None:
    """Return what the columns of the table are that a run was trained on, None if its data are no mixed table."""
    described = run.config["data"].get("schema")
    return described and [
        sources.Column(column["name"], column["kind"], tuple(column["levels"])) for column in described
    ]


def evaluate_run(
    run: str | os.PathLike[str],
    measures: Sequence[str] | None = None,
    *,
    split: str = "test",
    source: str | None = None,
    limit: int | None = None,
    chains: int = 16,
    temperatures: int = 1000,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
) -> evaluation.Scores:
    """Evaluate a run folder on its test rows and write the scores into it.

    Measures of an earlier evaluation of the same weights on the same rows stay; the ones named here are replaced. An
    evaluation that was interrupted goes on where it was, from what it left in the folder ``evaluation`` of the run.
    Under torchrun all processes make this call, and the first one alone writes.

    Args:
        run: The run folder.
        measures: As for `lowerbound.evaluate`; None for ``elbo`` and ``iwae-100``, or for what an implicit posterior
            allows: ``avb``, and ``quadrature`` for at most two latent dimensions and binary values, else ``is-1000``.
        split: ``"test"``, ``"validation"`` or ``"train"``; of other data all rows are measured.
        source: Other data than the run's own.
        limit: The number of rows; None for all.
        chains: The number of chains a row of ``ais`` and ``bdmc``.
        temperatures: Their number of steps from the start to the posterior.
        seed: The seed of the draws.
        device: Where to compute.
        progress: Whether to show a progress bar.

    Returns:
        The scores that now stand in ``scores.json``; in other processes than the first, those of this call alone.
    """
    here = place()
    weights = _weights_hash(run)
    if source is not None and split != "test":
        cure = "Leave one of them out: other data are measured whole."
        raise ArgumentError(explain("split", expected="none beside other data", got=repr(split), cure=cure))
    loaded = load(run)
    model: Any = loaded.model
    model.to(find_device(device))
    rows = load_data(loaded, split, source=source)
    objective = _adversarial(loaded)
    if measures is None:
        smooth = model.latent_dim <= 2 and isinstance(model.generator.likelihood, BernoulliLikelihood)
        certified = "quadrature" if smooth else "is-1000"
        measures = ["elbo", "iwae-100"] if objective is None else ["avb", certified]
    annealing = {"chains": chains, "temperatures": temperatures}
    options: dict[str, Any] = {"limit": limit, "objective": objective, "seed": seed, "progress": progress, **annealing}
    unfinished = Path(run) / "evaluation"
    scores = evaluation.evaluate(model, rows, measures, keep=unfinished, **options)
    if _weights_hash(run) != weights:
        cure = "Evaluate it again, when it has been trained."
        expected, got = "the same weights from beginning to end", "others, of a training that went on"
        raise RunError(explain(str(run), expected=expected, got=got, cure=cure))
    scores = replace(scores, data={**scores.data, "weights_sha256": weights})
    if here.first:
        scores = _write_scores(run, scores, unfinished)
    share({})  # the first process has written all
    return scores


def _write_scores(run: str | os.PathLike[str], scores: evaluation.Scores, unfinished: Path) -> evaluation.Scores:
    """Write scores into a run folder beside those that still hold, and return all."""
    with contextlib.suppress(RunError):  # no scores yet, or damaged ones
        earlier = evaluation.Scores.read(run)
        if earlier.data == scores.data:
            kept, rows_kept = {**earlier.measures, **scores.measures}, {**earlier.rows, **scores.rows}
            scores = replace(scores, measures=kept, rows=rows_kept)
        elif lost := earlier.measures.keys() - scores.measures.keys():
            what = f"{', '.join(sorted(lost))}, of other rows, another seed or earlier weights"
            warnings.warn(f"{run}: the new scores replace {what}", EvaluationWarning, stacklevel=3)
    scores.write(run)
    for name in scores.measures:
        (unfinished / f"{name}.safetensors").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it stays where another measure has not come to its end
        unfinished.rmdir()
    return scores


def _weights_hash(run: str | os.PathLike[str]) -> str | None:
    """Return the hash of a run's weights, None if there are none (`load` says so)."""
    path = Path(run) / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


@torch.no_grad()
def encode(run: str | os.PathLike[str], source: str, *, device: str = "auto") -> tuple[Tensor, Tensor | None]:
    """Return the posterior means of all rows of a source, shape ``[n, latent_dim]``, and their labels ``[n]``."""
    loaded, rows = _run_and_rows(run, source, device)
    model: Any = loaded.model
    with seeded(0, "encode"):  # means of implicit posteriors are those of their draws
        means = [model.encode(x.to(find_device(device))).mean.cpu() for x in rows.evaluation_batches(1000)]
    return torch.cat(means), rows.labels


@torch.no_grad()
def reconstruct(run: str | os.PathLike[str], source: str, *, device: str = "auto") -> tuple[Tensor, Tensor]:
    """Return all rows of a source and their reconstructions, each of shape ``[n, *event_shape]``."""
    loaded, rows = _run_and_rows(run, source, device)
    model: Any = loaded.model
    inputs = list(rows.evaluation_batches(1000))
    with seeded(0, "encode"):
        outputs = [model.reconstruct(x.to(find_device(device))).cpu() for x in inputs]
    return torch.cat(inputs), torch.cat(outputs)


@torch.no_grad()
def impute(
    run: str | os.PathLike[str],
    source: str,
    *,
    particles: int = 1000,
    draws: int = 0,
    seed: int = 0,
    device: str = "auto",
) -> evaluation.Imputation:
    """Return all rows of a source with their gaps filled by a run's model, as `lowerbound.evaluation.impute` does.

    In a table of mixed types, a gap gets the conditional mean if it is continuous, the conditional median if it is a
    count or ordinal, and else the most frequent level of at least 200 completions.

    Raises:
        RunError: if the run was trained on data without gaps.
    """
    loaded = load(run)
    model: Any = loaded.model
    if not getattr(model, "missing", False):
        cure = "Train one with --missing."
        raise RunError(explain(str(run), expected="a model that takes gaps", got="one that does not", cure=cure))
    model.to(find_device(device))
    rows = load_data(loaded, source=source)
    columns = schema(loaded)
    at = find_device(device)
    with seeded(seed, "impute"):
        parts = [
            _filled(model, x.to(at), columns, particles=particles, draws=draws) for x in rows.evaluation_batches(100)
        ]
    means, completions, effective = zip(*parts, strict=True)
    return evaluation.Imputation(torch.cat(means), torch.cat(completions, 1), torch.cat(effective))


def _filled(
    model: Any, x: Tensor, columns: Sequence[sources.Column] | None, *, particles: int, draws: int
) -> evaluation.Imputation:
    """Return some rows with their gaps filled, on the processor; columns that are not continuous by completions."""
    counted = type(draws) is int and draws >= 0  # anything else is refused where completions are drawn
    made = max(draws, _COMPLETIONS) if columns and counted else draws
    mean, completions, effective = (part.cpu() for part in evaluation.impute(model, x, particles=particles, draws=made))
    for index, column in enumerate(c for c in columns or () if c.kind != "skip"):
        if column.kind != "continuous":
            values = completions[:, :, index]
            likely = values.mode(0) if column.kind in ("binary", "categorical") else values.median(0)
            mean[:, index] = likely.values
    return evaluation.Imputation(mean, completions[:draws].clone(), effective)


@torch.no_grad()
def sample(run: str | os.PathLike[str], n: int, *, seed: int = 0, device: str = "auto") -> tuple[Tensor, Tensor]:
    """Return n rows drawn from a run's model and their means given the latents, each ``[n, *event_shape]``."""
    model: Any = load(run).model
    model.to(find_device(device))
    sizes = [min(1000, n - done) for done in range(0, positive_int("n", n), 1000)]
    with seeded(seed, "sample"):
        traces = (model.sample(size) for size in sizes)
        parts = [(trace["x"].cpu(), trace["x_mean"].cpu()) for trace in traces]
    rows, means = (torch.cat(part) for part in zip(*parts, strict=True))
    return rows, means


def column_names(run: Run) -> list[str] | None:
    """Return the names of the columns of a table of numbers that a run was trained on, None if they have none."""
    names: list[str] | None = run.config["data"].get("columns")
    return names


def write_rows(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Tensor],
    table: Sequence[sources.Column] | None = None,
    *,
    names: Sequence[str] | None = None,
) -> None:
    """Write arrays to a file: ``.npz`` takes all of them by name, ``.npy`` and ``.csv`` take ``data``.

    A ``.csv`` has one column a value, called by `names` or v0, v1, ..., and a column ``label`` where ``labels`` are
    given. With `table`, its columns, a
    ``.csv`` or ``.parquet`` is a table like the one that the run was trained on: names, levels and integers are back.

    Raises:
        ArgumentError: if the ending is another.
    """
    target = check_out(path, table)
    if table is not None and target.suffix in (".csv", ".parquet"):
        sources.write_cells(target, sources.decode(arrays["data"], table))
        return
    plain: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
    data = plain["data"]
    with writing(target) as temporary, temporary.open("wb") as file:
        if target.suffix == ".npz":
            np.savez(file, **plain)
        elif target.suffix == ".npy":
            np.save(file, data)
        else:
            columns = data.reshape(len(data), -1)
            header = [f"v{i}" for i in range(columns.shape[1])] if names is None else list(names)
            if "labels" in plain:
                columns, header = np.column_stack([columns, plain["labels"]]), [*header, "label"]
            formats = ["%.9g"] * data[0].size + ["%d"] * ("labels" in plain)
            np.savetxt(file, columns, delimiter=",", encoding="utf-8", header=_header(header), comments="", fmt=formats)


def _header(names: Sequence[str]) -> str:
    """Return names as the first line of a CSV file, quoted where they must be."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return line.getvalue()


def check_out(
    path: str | os.PathLike[str], table: Sequence[sources.Column] | None = None, *, images: bool = False
) -> Path:
    """Return a path that `write_rows` can write to, or, for images, `lowerbound.report.write_sheet`.

    Raises:
        ArgumentError: if it has another ending.
    """
    target = Path(path)
    more = [*([".parquet"] if table else []), *([".png"] if images else [])]
    choice("out", target.suffix, (".npy", ".npz", ".csv", *more))
    return target


def _run_and_rows(run: str | os.PathLike[str], source: str, device: str) -> tuple[Run, sources.Dataset]:
    loaded = load(run)
    model: Any = loaded.model
    model.to(find_device(device))
    return loaded, load_data(loaded, source=source)


def _adversarial(run: Run) -> objectives.AVB | None:
    """Return the objective of a run that was trained against a critic, None for any other."""
    described = run.config["objective"]
    if described.get("class") != "AVB" or not described.get("own_critic") or not hasattr(run.model, "critic"):
        return None
    names = ("contrast", "learns", "moment_draws")
    return objectives.AVB(run.model, **{name: described[name] for name in names if name in described})


def _rebuild(config: Mapping[str, Any], folder: Path) -> nn.Module:
    try:
        described = config["objective"]["model"]
        name, arguments = described["class"], described["arguments"]
    except (KeyError, TypeError) as error:
        cure = "Pass the model that was trained: lb.load(run, model=...)."
        expected = "a model of the library"
        raise RunError(explain(str(folder / "config.json"), expected=expected, got="another", cure=cure)) from error
    if name not in MODELS:
        cure = "Load it with the version that wrote it, or pass the model: lb.load(run, model=...)."
        raise RunError(
            explain(str(folder / "config.json"), expected=f"one of {', '.join(MODELS)}", got=name, cure=cure)
        )
    try:
        return MODELS[name](**arguments)
    except (TypeError, ArgumentError) as error:
        cure = "The file is damaged or from another version; restore it."
        raise RunError(
            explain(str(folder / "config.json"), expected=f"arguments of {name}", got=error, cure=cure)
        ) from error


def _history(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line]
    except (ValueError, OSError) as error:
        cure = "The file is damaged; restore it, or remove it to go on without a history."
        raise RunError(explain(str(path), expected="one JSON record a line", got=error, cure=cure)) from error
