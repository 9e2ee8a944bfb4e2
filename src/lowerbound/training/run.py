"""A trained model with its history."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowerbound.core.types import Model

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """What `lowerbound.fit` returns and `lowerbound.load` reads.

    Attributes:
        model: The trained model: the best by validation, or the last.
        history: One record for each epoch: epoch, step, seconds, the terms in nats a row, lr, kl_weight.
        config: What was trained on what, as in ``config.json``.
        folder: The run folder, or None.
    """

    model: Model
    history: list[dict[str, Any]] = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    folder: Path | None = None
