"""From the arguments of an estimator to a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowerbound.core.checks import choice
from lowerbound.recipes import Recipe

__all__ = ["certified", "common", "some"]


def certified(model: str, given: Mapping[str, Any], *own: str) -> Recipe:
    """Return the recipe of a model that is trained on a bound, with arguments of its own by name."""
    options = some(given, "particles", "gradient")
    return Recipe(
        **common(given),
        missing=given["missing"],
        model=model,
        model_options=some(given, *own),
        objective=choice("objective", given["objective"], ("ELBO", "IWAE")),
        objective_options={name: value for name, value in options.items() if value is not None},
        training=some(given, "batch_size", "lr", "schedule", "kl_warmup", "patience", "precision"),
    )


def common(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all recipes have, by name."""
    options = {"likelihood_options": given["likelihood_options"] or {}}
    return {"name": "sklearn", "summary": "", **some(given, "latent_dim", "likelihood"), **options}


def some(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return some of the arguments, by name."""
    return {name: given[name] for name in names}
