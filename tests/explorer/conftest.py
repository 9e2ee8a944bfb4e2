"""Latents to explore, of models that are small and untrained: what is tested does not depend on how good they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lowerbound as lb
from lowerbound.data import Column, Dataset
from lowerbound.explorer.latents import Latents

CITIES = ("Bonn", "Kyiv", "Lima", "Nice", "Oslo", "Rome", "Turin", "Vaduz")
COLUMNS = (
    Column("age", "continuous"),
    Column("id", "skip"),
    Column("city", "categorical", CITIES),
    Column("visits", "counts"),
    Column("stage", "ordinal", ("low", "mid", "high")),
    Column("smoker", "binary", ("no", "yes")),
)
KINDS = [(column.kind, len(column.levels)) for column in COLUMNS if column.kind != "skip"]


def images(latent_dim: int = 3, *, n: int = 60, limit: int = 10_000, **arguments: Any) -> Latents:
    """Return the latents of digits, 8 x 8 pixels, with labels."""
    torch.manual_seed(1)
    model = lb.models.VAE(event_shape=(8, 8), latent_dim=latent_dim, hidden=(16,), **arguments)
    rows = lb.data.digits(binarize="threshold")[1]
    model.standardize(*[moment.clamp(min=0.1) for moment in rows.moments()])
    return Latents(model.eval(), rows, name="digits", limit=min(n, limit))


def table(n: int = 40) -> Latents:
    """Return the latents of a table of mixed types with a gap, without labels."""
    torch.manual_seed(1)
    rows = torch.stack([torch.randn(n) * 9 + 40, *(torch.randint(0, k, (n,)).float() for k in (8, 9, 3, 2))], 1)
    rows[0, 1] = torch.nan
    model = lb.models.VAE(
        event_shape=(5,),
        latent_dim=2,
        hidden=(16,),
        likelihood="mixed",
        likelihood_options={"columns": KINDS},
        missing=True,
    )
    data = Dataset(rows, name="people", missing=True, schema=COLUMNS)
    model.standardize(*data.moments())
    return Latents(model.eval(), data, name="people", columns=COLUMNS)


@pytest.fixture(scope="module")
def digits() -> Latents:
    return images()


@pytest.fixture(scope="module")
def people() -> Latents:
    return table()
