"""One pass through the encoder: what the latents carry, and the arrays for the figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.core.random import seeded
from lowerbound.distributions import Implicit
from lowerbound.evaluation.aggregate import AGGREGATED_ROWS, decompose, has_quick_density
from lowerbound.evaluation.gallery import Gallery, gallery
from lowerbound.evaluation.latents import COLLAPSED_KL, has_standard_prior, latent_summary, prior_of, unit_kl

__all__ = ["look"]

_SHOWN_LATENTS = 10_000


def look(
    model: Any, inputs: Tensor, batches: Iterable[Tensor], n: int, *, data: Any, seed: int
) -> tuple[dict[str, Any], Gallery]:
    """Return the summary of the latents and the gallery; latents only for models that encode.

    Args:
        model: The model.
        inputs: Rows to reconstruct, at most 16.
        batches: All rows.
        n: Their number.
        data: Where the rows come from; its labels, if any, are shown.
        seed: The seed of the draws.
    """
    if not hasattr(model, "encode") or not hasattr(model, "latent_dim"):
        return {}, gallery(model, inputs, seed=seed)
    latents, means = torch.empty(min(n, _SHOWN_LATENTS), model.latent_dim), torch.empty(n, model.latent_dim)
    standard = has_standard_prior(model, inputs)
    units = torch.zeros(2, model.latent_dim, dtype=torch.float64) if standard else None  # KL, and rows at the prior
    first: list[Distribution] = []  # the posteriors that are aggregated
    done, drawn = 0, False
    for x in batches:
        q = model.encode(x)
        means[done : done + len(x)] = q.mean.cpu()
        # Without a density there may be no centre to show either: the picture has one draw a row.
        shown = latents[done : done + len(x)]
        shown.copy_((q.sample() if isinstance(q, Implicit) else q.mean)[: len(shown)])
        drawn = isinstance(q, Implicit)
        kl = None if units is None else unit_kl(q)
        units = None if kl is None or units is None else units + _sums(kl)
        if done < AGGREGATED_ROWS:
            first.append(q)
        done += len(x)
    kl_of_units, at_prior = (None, None) if units is None else units / n
    split, draws = _aggregate(model, inputs, first, seed)
    labels = getattr(data, "labels", None)
    arrays = gallery(
        model,
        inputs,
        latents=latents,
        drawn=drawn,
        labels=None if labels is None else labels[: min(n, _SHOWN_LATENTS)],
        label_names=getattr(data, "label_names", None),
        unit_kl=kl_of_units,
        draws=draws,
        prior_draws=None if standard else _prior_draws(model, inputs, len(draws), seed),
        seed=seed,
    )
    return {**latent_summary(means, kl_of_units, at_prior), **split}, arrays


def _sums(kl: Tensor) -> Tensor:
    """Return the sum over rows of each unit's KL, and of whether it is that of a row at the prior."""
    return torch.stack([kl.double().sum(0), (kl < COLLAPSED_KL).double().sum(0)]).cpu()


def _aggregate(model: Any, inputs: Tensor, first: list[Distribution], seed: int) -> tuple[dict[str, Any], Tensor]:
    """Return the decomposition of the KL term, empty if it cannot be had, and a draw of each posterior."""
    with seeded(seed, "aggregate"):
        z = torch.cat([q.sample() for q in first])
    prior = prior_of(model, inputs[:1])
    if prior is None or len(z) < 2 or not all(map(has_quick_density, first)):
        return {}, z
    return {"aggregate": decompose(first, z, prior.log_prob(z))}, z


def _prior_draws(model: Any, inputs: Tensor, n: int, seed: int) -> Tensor | None:
    """Return draws from the prior, shape ``[n, latent_dim]``."""
    prior = prior_of(model, inputs[:1])
    if prior is None:
        return None
    with seeded(seed, "prior draws"):
        return prior.sample(torch.Size([n])).flatten(1)
