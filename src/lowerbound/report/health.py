"""The health of a run's latents: what they carry, what has collapsed, and how the prior fits them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowerbound.evaluation.latents import ACTIVE_VARIANCE, COLLAPSED_KL
from lowerbound.report.tables import nats

if TYPE_CHECKING:
    from lowerbound.evaluation import Scores

__all__ = ["HEADER", "Split", "health", "split_of"]

HEADER = ("latents", "value", "unit", "meaning")


@dataclass(frozen=True)
class Split:
    """The mean KL term as `lowerbound.evaluation.aggregate.decompose` split it, in nats.

    Attributes:
        rows: How many rows were aggregated.
        kl: The mean KL(q(z|x) || p(z)).
        told: I(x; z).
        misfit: KL(q(z) || p(z)).
        error: The standard error of the misfit, infinite if it is not known.
    """

    rows: int
    kl: float
    told: float
    misfit: float
    error: float

    @property
    def saturated(self) -> bool:
        """Whether the rows are told apart as well as so many rows can be: more of them would move the split."""
        return self.told > math.log(self.rows) - 0.5


def split_of(scores: Scores) -> Split | None:
    """Return how the KL term splits, None if that is not known."""
    found = scores.latents.get("aggregate")
    if not found:
        return None
    kl, told, misfit = (found[name]["value"] for name in ("kl", "mutual_information", "marginal_kl"))
    if not all(map(math.isfinite, (kl, told, misfit))):
        return None
    error = found["marginal_kl"]["stderr"]
    return Split(found["rows"], kl, told, misfit, math.inf if error is None else error)


def health(scores: Scores) -> Iterator[tuple[str, str, str, str]]:
    """Yield one row a quantity, in the order of `HEADER`."""
    latents = scores.latents
    active, size, collapsed = (latents.get(name) for name in ("active_units", "latent_dim", "collapsed_units"))
    if active is not None:
        meaning = f"Units whose posterior mean varies over the rows, with a variance above {ACTIVE_VARIANCE:g}."
        yield "active", f"{active} of {size}", "units", meaning
    if collapsed is not None:
        meaning = f"Units that stay at the prior, with a KL below {COLLAPSED_KL:g} nats for 99 % of the rows: they tell"
        yield "collapsed", f"{collapsed} of {size}", "units", f"{meaning} nothing and cost nothing."
    split = split_of(scores)
    if split is not None:
        yield from _split(split, latents["aggregate"])


def _split(split: Split, found: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the parts of the KL term."""
    shown = {name: nats(part["value"], part["stderr"]) for name, part in found.items() if name != "rows"}
    meaning = f"What the latents of a row cost the ELBO, over {split.rows:,} rows: the sum of the next two."
    yield "mean KL(q(z|x) || p(z))", shown["kl"], "nats", meaning
    most = f"log {split.rows:,} = {math.log(split.rows):.2f}"
    meaning = f"What a draw of z tells about which of these rows it came from, at most {most}."
    if split.saturated:
        meaning += " It is at that limit: more rows would raise it, and lower the next."
    yield "  I(x; z)", shown["mutual_information"], "nats", meaning
    meaning = "How far all posteriors together, q(z), lie from the prior: a prior that fitted them would raise the ELBO"
    yield "  KL(q(z) || p(z))", shown["marginal_kl"], "nats", f"{meaning} of these rows by as much."
