"""Named recipes: data, model, objective and training as one value, and the function that follows them."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from lowerbound import data as sources
from lowerbound import objectives
from lowerbound.core.checks import choice, number, positive_int
from lowerbound.core.device import find_device
from lowerbound.core.errors import ArgumentError, DataError, explain
from lowerbound.core.random import seeded
from lowerbound.core.types import Objective
from lowerbound.models import MODELS, EncoderDecoder
from lowerbound.nn.likelihoods import LIKELIHOODS
from lowerbound.training import Callback, MLflow, Run, TensorBoard, fit

__all__ = ["RECIPES", "Recipe", "build", "train", "training_data", "training_settings"]

_OBJECTIVES: dict[str, Any] = {"AVB": objectives.AVB, "ELBO": objectives.ELBO, "IWAE": objectives.IWAE}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained on what, and how; `train` follows it.

    Attributes:
        name: What the recipe is called.
        summary: One line for people.
        data: What `lowerbound.data.load` takes: a built-in name or a path.
        binarize: The binarisation; None for the data's own, or none if the likelihood is not Bernoulli.
        missing: Whether values of the data may be missing; the model then takes rows with gaps.
        schema: A schema file for a table; None to infer one where the table has columns of text.
        image_size: The side of the square that the pictures of a folder are brought to; None for their common size, or
            for what fits most of them.
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
        data_seed: The seed of splits and of the binarisation for evaluation; None for `seed`. Runs of several seeds
            can be compared if they share it.
    """

    name: str
    summary: str
    data: str = "digits"
    binarize: str | None = None
    missing: bool = False
    schema: str | None = None
    image_size: int | None = None
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
    data_seed: int | None = None

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


_ADVERSARIAL = {
    "batch_size": 512,
    "lr": 1e-3,
    "optimizer": "adam",
    "optimizer_options": {"betas": [0.5, 0.999]},
    "schedule": "cosine",
}

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
            training={
                "batch_size": 100,
                "lr": 1e-3,
                "optimizer": "rmsprop",
                "optimizer_options": {"alpha": 0.9, "eps": 1e-7},
            },
        ),
        Recipe(
            name="iwae",
            summary="The network of vae, trained on the importance-weighted bound, 5 particles.",
            objective="IWAE",
            objective_options={"particles": 5, "gradient": "dreg"},
            training={"batch_size": 128, "lr": 1e-3, "schedule": "cosine"},
        ),
        Recipe(
            name="flow-vae",
            summary="The network of vae with a flow as posterior: inverse autoregressive, from the Gaussian on.",
            model_options={"posterior": "iaf"},
            training={"batch_size": 128, "lr": 1e-3, "schedule": "cosine"},
        ),
        Recipe(
            name="hvae",
            summary="Two layers of Gaussian latents, tanh networks, the importance-weighted bound with 5 particles.",
            model="HierarchicalVAE",
            latent_dim=100,
            model_options={"above": [50]},
            objective="IWAE",
            objective_options={"particles": 5, "gradient": "dreg"},
            training={"batch_size": 128, "lr": 1e-3, "schedule": "cosine"},
        ),
        Recipe(
            name="sbn",
            summary="Sigmoid belief net: three layers of 200 binary latents, trained by VIMCO with 10 particles.",
            model="HierarchicalVAE",
            latent_dim=200,
            model_options={"latent": "bernoulli", "above": [200, 200], "hidden": [], "between": []},
            objective="IWAE",
            objective_options={"particles": 10, "gradient": "vimco"},
            training={"batch_size": 100, "lr": 1e-3, "schedule": "cosine"},
        ),
        Recipe(
            name="avb",
            summary="Adversarial variational Bayes: a sampler as posterior, a critic that judges it row by row.",
            data="four-points",
            model="ImplicitVAE",
            latent_dim=2,
            objective="AVB",
            objective_options={
                "contrast": "adaptive",
                "particles": 16,
                "critic_steps": 2,
                "critic_lr": 2e-3,
            },
            validation=0.0,
            steps=8_000,
            training={**_ADVERSARIAL, "batch_size": 32},
        ),
        Recipe(
            name="avb-ac",
            summary="The same with a sampler of random basis vectors, whose moments are known, for many latents.",
            data="four-points",
            model="ImplicitVAE",
            latent_dim=2,
            model_options={"sampler": "basis", "basis": 8, "noise_dim": 8},
            objective="AVB",
            objective_options={"critic_steps": 2, "critic_lr": 2e-3, "contrast": "adaptive"},
            validation=0.0,
            steps=10_000,
            training=_ADVERSARIAL,
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
    mlflow: bool = False,
    callbacks: Sequence[Callback] = (),
    command: Sequence[str] = (),
    show: Callable[[sources.Dataset], None] | None = None,
) -> Run:
    """Follow a recipe: load the data, build the model, train it, and leave a run folder.

    Args:
        recipe: What to train on what.
        out: The run folder.
        resume: Whether to go on with the run in `out`, if there is one.
        device: Where to train; ``"auto"`` takes an accelerator if there is one.
        progress: Whether to show a progress bar.
        tensorboard: Whether to write ``tensorboard/`` into the run folder.
        mlflow: Whether to log to MLflow, as `lowerbound.training.MLflow` does.
        callbacks: Further watchers of the run.
        command: The command line that was typed, for ``config.json``.
        show: What is called with the training rows before the training.

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
    train_rows, validation_rows = training_data(recipe)
    if show is not None:
        show(train_rows)
    objective = build(recipe, train_rows)
    settings = training_settings(recipe, len(train_rows))
    loggers: list[Callback] = [TensorBoard(Path(out) / "tensorboard")] if tensorboard else []
    loggers += [MLflow(out, {**recipe.describe(), "training": settings})] if mlflow else []
    return fit(
        objective,
        train_rows,
        validation=validation_rows,
        out=out,
        resume=resume,
        device=find_device(device),
        progress=progress,
        callbacks=[*callbacks, *loggers],
        config={"recipe": recipe.describe(), "command": list(command)},
        **settings,
    )


def build(recipe: Recipe, rows: sources.Dataset) -> Objective:
    """Return a recipe's objective over its model, untrained; scale, prior and likelihood start from the rows.

    Args:
        recipe: What to build; its `data`, `validation` and `training` do not matter.
        rows: The rows that it is to be trained on, each of shape ``event_shape``.

    Raises:
        LowerboundError: if the rows or the recipe do not allow it; the message names the cure.

    Example:
        >>> from lowerbound.recipes import RECIPES, build
        >>> build(RECIPES["vae"].changed(latent_dim=3), lb.data.digits()[0]).model.latent_dim
        3
    """
    likelihood, options = _likelihood(recipe, rows)
    kind = MODELS[choice("model", recipe.model, MODELS)]
    model_options = {**recipe.model_options, **({"missing": True} if recipe.missing else {})}
    _check_options(kind, model_options)
    goal = _OBJECTIVES[choice("objective", recipe.objective, _OBJECTIVES)]
    _check_options(goal, recipe.objective_options)
    with seeded(recipe.seed, "weights"):
        model = kind(
            event_shape=rows.event_shape,
            latent_dim=recipe.latent_dim,
            likelihood=likelihood,
            likelihood_options=options,
            **model_options,
        )
    _standardize(model, rows, likelihood)
    first = next(iter(rows.batches(min(len(rows), 1000), seed=recipe.seed, epoch=0)))
    model.generator.prior.start(torch.where(first.isnan(), model.posterior.center, first))
    objective: Objective = goal(model, **recipe.objective_options)
    return objective


def _check_options(kind: Any, options: Mapping[str, Any]) -> None:
    """Raise an error if a class of the library has no argument of a name."""
    for name in options:
        if name not in inspect.signature(kind).parameters:
            cure = "Leave it out, or choose a recipe that has it."
            expected = f"an argument of {kind.__name__}"
            raise ArgumentError(explain(name, expected=expected, got="another's", cure=cure))


def training_data(recipe: Recipe) -> tuple[sources.Dataset, sources.Dataset | None]:
    """Load a recipe's training rows; return those to train on and those held out for validation, if any are.

    Raises:
        LowerboundError: if the data or the recipe do not allow it; the message names the cure.
    """
    binarize = recipe.binarize
    if binarize is None and recipe.likelihood not in (None, "bernoulli"):
        binarize = "none"
    seed = recipe.seed if recipe.data_seed is None else recipe.data_seed
    schema = recipe.schema or ("infer" if recipe.likelihood == "mixed" else None)
    options: dict[str, Any] = {"missing": recipe.missing, "schema": schema, "image_size": recipe.image_size}
    rows, _ = sources.load(recipe.data, binarize=binarize, seed=seed, **options)
    fraction = min(0.1, 3000 / len(rows)) if recipe.validation is None else recipe.validation
    number("validation", fraction, low=0.0, high=0.9)
    if fraction == 0 or (recipe.validation is None and len(rows) < 20):
        return rows, None
    return rows.split_off(fraction, seed=seed)


def training_settings(recipe: Recipe, rows: int) -> dict[str, Any]:
    """Return what `lowerbound.fit` is told when it follows a recipe on so many rows: its steps as epochs, its seed."""
    batch_size = min(positive_int("batch_size", recipe.training.get("batch_size", 128)), rows)
    epochs = max(1, math.ceil(recipe.steps / (rows // batch_size)))
    return {"epochs": epochs, **recipe.training, "seed": recipe.seed}


def _likelihood(recipe: Recipe, rows: sources.Dataset) -> tuple[str, dict[str, Any]]:
    """Return the likelihood and its options, checked against every row."""
    name = recipe.likelihood
    if name is None:
        plain = "bernoulli" if rows.binary else "logistic" if rows.levels is not None else "gaussian"
        name = plain if rows.schema is None else "mixed"
    options = dict(recipe.likelihood_options)
    if rows.schema is not None or name == "mixed":
        return name, {**_mixed(recipe, rows, name), **options}
    low, high = rows.range
    found = f"values from {low:g} to {high:g}"
    if name == "bernoulli" and not rows.binary:
        cure = "Binarise them (--binarize dynamic or threshold), or take --likelihood gaussian or logistic."
        raise DataError(explain(f"{rows.name} for likelihood bernoulli", expected="only 0 and 1", got=found, cure=cure))
    if name in ("logistic", "logistic-mixture"):
        if rows.levels is None:
            cure = "Save 8-bit pixels as uint8, or take --likelihood gaussian."
            raise DataError(
                explain(f"{rows.name} for likelihood {name}", expected="8-bit pixels", got=found, cure=cure)
            )
        options.setdefault("levels", rows.levels)
    if getattr(LIKELIHOODS.get(name), "counts", False):
        _check_counts(rows, name)
    return name, options


def _mixed(recipe: Recipe, rows: sources.Dataset, name: str) -> dict[str, Any]:
    """Return the options of the likelihood of a table of mixed types, if all goes together."""
    if rows.schema is None or name != "mixed":
        cure = "The likelihood mixed takes a table with a schema, and such a table takes the likelihood mixed."
        found = "a schema" if rows.schema is not None else "no schema"
        raise ArgumentError(explain("likelihood", expected="one that fits the data", got=f"{name}, {found}", cure=cure))
    prior = recipe.model_options.get("prior", "standard")
    if recipe.model != "VAE" or prior == "vamp":
        cure = "Take a recipe of the model VAE, such as vae or iwae, and another prior than vamp."
        raise ArgumentError(explain("mixed columns", expected="a VAE", got=f"{recipe.model}, prior {prior}", cure=cure))
    return {"columns": rows.columns}


def _check_counts(rows: sources.Dataset, name: str) -> None:
    """Raise an error that names the first row which holds something else than counts."""
    done = 0
    for x in rows.evaluation_batches(10_000):
        bad = ((x < 0) | (x != x.round())) & ~x.isnan()
        if bad.any():
            row = int(bad.flatten(1).any(1).nonzero()[0])
            got = f"{float(x[row][bad[row]][0]):g} in row {done + row}"
            cure = "Take --likelihood gaussian; or save counts as int32 or in a table, since uint8 means pixels."
            raise DataError(explain(f"{rows.name} for likelihood {name}", expected="counts", got=got, cure=cure))
        done += len(x)


def _standardize(model: EncoderDecoder, rows: sources.Dataset, likelihood: str) -> None:
    """Start the model from the data's mean, and from its spread where the likelihood has a scale in units of x."""
    mean, std = rows.moments()
    if likelihood not in ("gaussian", "mixed"):
        spread = torch.ones(())
    elif len(rows.event_shape) == 1:  # columns of a table have units of their own
        spread = std
    else:
        spread = std.square().mean().sqrt()
    model.standardize(mean, torch.where(spread > 0, spread, torch.ones(())))
