"""Named recipes: data, model, objective and training as one value; and everything that starts from a run folder."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowerbound import data as sources
from lowerbound import evaluation, models, objectives
from lowerbound.core.checks import choice, number
from lowerbound.core.errors import ArgumentError, DataError, RunError, explain
from lowerbound.core.files import read_json, writing
from lowerbound.core.random import seeded
from lowerbound.training import Callback, Run, TensorBoard, fit
from lowerbound.training.checkpoint import read_weights

__all__ = [
    "DATA",
    "RECIPES",
    "Recipe",
    "encode",
    "evaluate_run",
    "find_device",
    "load",
    "load_data",
    "reconstruct",
    "sample",
    "train",
    "write_rows",
]

_MODELS: dict[str, type[models.EncoderDecoder]] = {"VAE": models.VAE, "ConvVAE": models.ConvVAE}
_OBJECTIVES: dict[str, Any] = {"ELBO": objectives.ELBO, "IWAE": objectives.IWAE}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained on what, and how; `train` follows it.

    Attributes:
        name: What the recipe is called.
        summary: One line for people.
        data: What `lowerbound.data.load` takes: a built-in name or a path.
        binarize: The binarisation; None for the data's own, or none if the likelihood is not Bernoulli.
        likelihood: The likelihood; None for the one that fits the data: ``bernoulli`` for binary values, ``logistic``
            for 8-bit pixels, ``gaussian`` for the rest.
        likelihood_options: Arguments of the likelihood, such as ``{"scale": "per-dimension"}``.
        model: The name of a class of `lowerbound.models`.
        latent_dim: The size of the latent vector.
        model_options: Further arguments of the model.
        objective: The name of a class of `lowerbound.objectives`.
        objective_options: Its arguments.
        validation: The share of the training rows that is held out; None for a tenth, at most 3,000 rows; 0 for none.
        steps: Steps of training where `training` names no epochs.
        training: Settings of `lowerbound.fit`.
        seed: The seed of everything: splits, binarisation, weights, noise.
    """

    name: str
    summary: str
    data: str = "digits"
    binarize: str | None = None
    likelihood: str | None = None
    likelihood_options: Mapping[str, Any] = field(default_factory=dict)
    model: str = "VAE"
    latent_dim: int = 40
    model_options: Mapping[str, Any] = field(default_factory=dict)
    objective: str = "ELBO"
    objective_options: Mapping[str, Any] = field(default_factory=dict)
    validation: float | None = None
    steps: int = 20_000
    training: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def changed(self, **changes: Any) -> Recipe:
        """Return the recipe with other values; mappings are merged, and None changes nothing."""
        given = {name: value for name, value in changes.items() if value is not None}
        for name, value in given.items():
            if isinstance(value, Mapping):
                given[name] = {**getattr(self, name), **{k: v for k, v in value.items() if v is not None}}
        return replace(self, **given)

    def describe(self) -> dict[str, Any]:
        """Return the recipe as plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="vae",
            summary="Variational autoencoder: 500-500 ReLU networks, Gaussian posterior.",
            training={"batch_size": 128, "lr": 1e-3, "schedule": "cosine"},
        ),
        Recipe(
            name="conv-vae",
            summary="Convolutional variational autoencoder for images, 2 latent dimensions to look at.",
            model="ConvVAE",
            latent_dim=2,
            steps=12_000,
            training={"batch_size": 100, "lr": 1e-3, "schedule": "cosine"},
        ),
        Recipe(
            name="iwae",
            summary="The same network as vae, trained on the importance-weighted bound with 5 particles.",
            objective="IWAE",
            objective_options={"particles": 5, "gradient": "dreg"},
            training={"batch_size": 128, "lr": 1e-3, "schedule": "cosine"},
        ),
    )
}


def train(
    recipe: Recipe,
    *,
    out: str | os.PathLike[str],
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
    tensorboard: bool = False,
    callbacks: Sequence[Callback] = (),
    command: Sequence[str] = (),
) -> Run:
    """Follow a recipe: load the data, build the model, train it, and leave a run folder.

    Args:
        recipe: What to train on what.
        out: The run folder.
        resume: Whether to go on with the run in `out`, if there is one.
        device: Where to train; ``"auto"`` takes an accelerator if there is one.
        progress: Whether to show a progress bar.
        tensorboard: Whether to write ``tensorboard/`` into the run folder.
        callbacks: Further watchers of the run.
        command: The command line that was typed, for ``config.json``.

    Returns:
        The run.

    Raises:
        LowerboundError: if the data, the recipe or the folder do not allow it; the message names the cure.

    Example:
        >>> import tempfile
        >>> from lowerbound.recipes import RECIPES, train
        >>> quick = RECIPES["vae"].changed(latent_dim=2, training={"epochs": 1})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = train(quick, out=folder, progress=False)
        >>> run.model.latent_dim
        2
    """
    train_rows, validation_rows = _training_data(recipe)
    likelihood, options = _likelihood(recipe, train_rows)
    kind = _MODELS[choice("model", recipe.model, _MODELS)]
    with seeded(recipe.seed, "weights"):
        model = kind(
            event_shape=train_rows.event_shape,
            latent_dim=recipe.latent_dim,
            likelihood=likelihood,
            likelihood_options=options,
            **recipe.model_options,
        )
    _standardize(model, train_rows, likelihood)
    objective = _OBJECTIVES[choice("objective", recipe.objective, _OBJECTIVES)](model, **recipe.objective_options)
    settings = {"epochs": _epochs(recipe, len(train_rows)), **recipe.training, "seed": recipe.seed}
    return fit(
        objective,
        train_rows,
        validation=validation_rows,
        out=out,
        resume=resume,
        device=find_device(device),
        progress=progress,
        callbacks=[*callbacks, *([TensorBoard(Path(out) / "tensorboard")] if tensorboard else [])],
        config={"recipe": recipe.describe(), "command": list(command)},
        **settings,
    )


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
    rebuilt: Any = _rebuild(config, folder) if model is None else model
    read_weights(folder, rebuilt)
    rebuilt.eval()
    return Run(rebuilt, _history(folder), config, folder)


def load_data(
    run: Run, split: str = "test", *, source: str | None = None
) -> sources.Dataset:
    """Return the data that a run was trained on, split and binarised as then, or other data in the same form.

    Args:
        run: The run.
        split: ``"test"``, ``"validation"`` or ``"train"`` of the run's data; of another source, all rows.
        source: Another source, as for `lowerbound.data.load_all`; None for the run's own.

    Raises:
        DataError: if the source cannot be found again or has changed.
    """
    described = run.config["data"]
    binarize, seed = described["binarize"], described["binarize_seed"]
    if source is not None:
        return sources.load_all(source, binarize=binarize, seed=seed)
    choice("split", split, ("test", "validation", "train"))
    fraction = described.get("test_fraction")
    options = {} if fraction is None else {"test_fraction": fraction}
    train_rows, test_rows = sources.load(described["source"], binarize=binarize, seed=seed, **options)
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
        raise DataError(explain(described["source"], expected="the rows that the run was trained on", got="others", cure=cure))
    return parts_by_name[split]


def evaluate_run(
    run: str | os.PathLike[str],
    measures: Sequence[str] = ("elbo", "iwae-100"),
    *,
    split: str = "test",
    source: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
) -> evaluation.Scores:
    """Evaluate a run folder on its test rows and write the scores into it.

    Measures of an earlier evaluation on the same rows stay; the ones named here are replaced.

    Args:
        run: The run folder.
        measures: As for `lowerbound.evaluate`.
        split: ``"test"``, ``"validation"`` or ``"train"``.
        source: Other data than the run's own.
        limit: The number of rows; None for all.
        seed: The seed of the draws.
        device: Where to compute.
        progress: Whether to show a progress bar.

    Returns:
        The scores that now stand in ``scores.json``.
    """
    loaded = load(run)
    model: Any = loaded.model
    model.to(find_device(device))
    rows = load_data(loaded, split, source=source)
    scores = evaluation.evaluate(model, rows, measures, limit=limit, seed=seed, progress=progress)
    if (Path(run) / "scores.json").exists():
        earlier = evaluation.Scores.read(run)
        if earlier.data == scores.data:
            scores = replace(scores, measures={**earlier.measures, **scores.measures})
    scores.write(run)
    return scores


@torch.no_grad()
def encode(run: str | os.PathLike[str], source: str, *, device: str = "auto") -> tuple[Tensor, Tensor | None]:
    """Return the posterior means of all rows of a source, shape ``[n, latent_dim]``, and their labels ``[n]``."""
    loaded, rows = _run_and_rows(run, source, device)
    model: Any = loaded.model
    means = [model.encode(x.to(find_device(device))).mean.cpu() for x in rows.evaluation_batches(1000)]
    return torch.cat(means), rows.labels


@torch.no_grad()
def reconstruct(run: str | os.PathLike[str], source: str, *, device: str = "auto") -> tuple[Tensor, Tensor]:
    """Return all rows of a source and their reconstructions, each of shape ``[n, *event_shape]``."""
    loaded, rows = _run_and_rows(run, source, device)
    model: Any = loaded.model
    inputs = list(rows.evaluation_batches(1000))
    outputs = [model.reconstruct(x.to(find_device(device))).cpu() for x in inputs]
    return torch.cat(inputs), torch.cat(outputs)


@torch.no_grad()
def sample(run: str | os.PathLike[str], n: int, *, seed: int = 0, device: str = "auto") -> tuple[Tensor, Tensor]:
    """Return n rows drawn from a run's model and their means given the latents, each ``[n, *event_shape]``."""
    model: Any = load(run).model
    with seeded(seed, "sample"):
        trace = model.to(find_device(device)).sample(n)
    return trace["x"].cpu(), trace["x_mean"].cpu()


def find_device(name: str) -> str:
    """Return a device's name; ``"auto"`` is an accelerator if torch sees one, else the processor."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _run_and_rows(run: str | os.PathLike[str], source: str, device: str) -> tuple[Run, sources.Dataset]:
    loaded = load(run)
    model: Any = loaded.model
    model.to(find_device(device))
    return loaded, load_data(loaded, source=source)


def _training_data(recipe: Recipe) -> tuple[sources.Dataset, sources.Dataset | None]:
    """Load the rows and hold some out for validation."""
    binarize = recipe.binarize
    if binarize is None and recipe.likelihood not in (None, "bernoulli"):
        binarize = "none"
    rows, _ = sources.load(recipe.data, binarize=binarize, seed=recipe.seed)
    fraction = min(0.1, 3000 / len(rows)) if recipe.validation is None else recipe.validation
    number("validation", fraction, low=0.0, high=0.9)
    if fraction == 0 or len(rows) < 20:
        return rows, None
    return rows.split_off(fraction, seed=recipe.seed)


def _likelihood(recipe: Recipe, rows: sources.Dataset) -> tuple[str, dict[str, Any]]:
    """Return the likelihood and its options, checked against every row."""
    name = recipe.likelihood
    if name is None:
        name = "bernoulli" if rows.binary else "logistic" if rows.levels is not None else "gaussian"
    options = dict(recipe.likelihood_options)
    low, high = rows.range
    found = f"values from {low:g} to {high:g}"
    if name == "bernoulli" and not rows.binary:
        cure = "Binarise them (--binarize dynamic or threshold), or take --likelihood gaussian or logistic."
        raise DataError(explain(f"{rows.name} for likelihood bernoulli", expected="only 0 and 1", got=found, cure=cure))
    if name == "logistic":
        if rows.levels is None:
            cure = "Save 8-bit pixels as uint8, or take --likelihood gaussian."
            raise DataError(explain(f"{rows.name} for likelihood logistic", expected="8-bit pixels", got=found, cure=cure))
        options.setdefault("levels", rows.levels)
    return name, options


def _standardize(model: models.EncoderDecoder, rows: sources.Dataset, likelihood: str) -> None:
    """Start the model from the data's mean, and from its spread where the likelihood has a scale in units of x."""
    mean, std = rows.moments()
    if likelihood != "gaussian":
        spread = torch.ones(())
    elif len(rows.event_shape) == 1:  # columns of a table have units of their own
        spread = torch.where(std > 0, std, torch.ones(()))
    else:
        spread = std.square().mean().sqrt()
    model.standardize(mean, spread)


def _epochs(recipe: Recipe, rows: int) -> int:
    """Return the number of epochs that makes up the recipe's steps."""
    batch_size = min(int(recipe.training.get("batch_size", 128)), rows)
    return max(1, math.ceil(recipe.steps / (rows // batch_size)))


def _rebuild(config: Mapping[str, Any], folder: Path) -> nn.Module:
    try:
        described = config["objective"]["model"]
        name, arguments = described["class"], described["arguments"]
    except (KeyError, TypeError) as error:
        cure = "Pass the model that was trained: lb.load(run, model=...)."
        expected = "a model of the library"
        raise RunError(explain(str(folder / "config.json"), expected=expected, got="another", cure=cure)) from error
    if name not in _MODELS:
        cure = "Load it with the version that wrote it, or pass the model: lb.load(run, model=...)."
        raise RunError(explain(str(folder / "config.json"), expected=f"one of {', '.join(_MODELS)}", got=name, cure=cure))
    try:
        return _MODELS[name](**arguments)
    except (TypeError, ArgumentError) as error:
        cure = "The file is damaged or from another version; restore it."
        raise RunError(explain(str(folder / "config.json"), expected=f"arguments of {name}", got=error, cure=cure)) from error


def _history(folder: Path) -> list[dict[str, Any]]:
    import json

    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


# What `lowerbound data` lists: name, content, rows.
DATA = (
    ("digits", "handwritten digits, 8 x 8 pixels, with labels; ships with scikit-learn", "1,438 train, 359 test"),
    ("mnist", "handwritten digits, 28 x 28 pixels, with labels; found or downloaded", "60,000 train, 10,000 test"),
    ("four-points", "four binary points of four pixels, the example of adversarial variational Bayes", "512"),
    ("FILE.npy", "an array of rows, memory-mapped", "all but a tenth for testing"),
    ("FILE.npz", "an array `data` and, if there are any, `labels`", "all but a tenth for testing"),
    ("FILE.csv, FILE.parquet", "a table of numbers; a column `label` is kept beside", "all but a tenth for testing"),
    ("FOLDER", "images of one size; sub-folders are labels", "all but a tenth for testing"),
)


def write_rows(path: str | os.PathLike[str], arrays: Mapping[str, Tensor]) -> None:
    """Write arrays to a file: ``.npz`` takes all of them by name, ``.npy`` and ``.csv`` take ``data``.

    A ``.csv`` has one column a value, and a column ``label`` where ``labels`` are given.

    Raises:
        ArgumentError: if the ending is another.
    """
    target = Path(path)
    choice("out", target.suffix, (".npy", ".npz", ".csv"))
    data = arrays["data"].numpy()
    with writing(target) as temporary, temporary.open("wb") as file:
        if target.suffix == ".npz":
            np.savez(file, **{name: array.numpy() for name, array in arrays.items()})
        elif target.suffix == ".npy":
            np.save(file, data)
        else:
            columns = data.reshape(len(data), -1)
            header = [f"v{i}" for i in range(columns.shape[1])]
            if "labels" in arrays:
                columns, header = np.column_stack([columns, arrays["labels"].numpy()]), [*header, "label"]
            np.savetxt(file, columns, delimiter=",", header=",".join(header), comments="", fmt="%.9g")
