"""The arrays that figures are drawn from: small, computed once, kept beside the scores."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.core.errors import RunError, explain
from lowerbound.core.files import write_bytes
from lowerbound.core.random import seeded
from lowerbound.evaluation.latents import has_standard_prior

__all__ = ["Gallery", "gallery"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Gallery:
    """What the figures of a model show; a field is None where the model has no such thing.

    Attributes:
        samples: Means of p(x | z) for z from the prior, ``[64, *event_shape]``.
        inputs: Rows of the data, ``[16, *event_shape]``.
        reconstructions: Means of p(x | z) at the posterior means of `inputs`, ``[16, *event_shape]``.
        latents: Posterior means, ``[n, latent_dim]``, for at most 10,000 rows; or draws, one a row, if `drawn`.
        labels: The labels of those rows, ``[n]``.
        label_names: The names of the labels.
        manifold: Means of p(x | z) on the normal-quantile grid, ``[20, 20, *event_shape]``; row j, column i is decoded
            at ``(grid[i], grid[j])``. For two latent dimensions with a standard normal prior only.
        grid: The quantiles 0.05 to 0.95 of the standard normal, ``[20]``.
        unit_kl: The mean KL of each latent unit from a standard normal prior in nats, ``[latent_dim]``.
        drawn: Whether `latents` are draws, a scalar.
        draws: One draw of each row's posterior, ``[n, latent_dim]``, for at most 2,000 rows.
        prior_draws: As many draws from the prior, ``[n, latent_dim]``; None where that is a standard normal.
    """

    samples: Array | None = None
    inputs: Array | None = None
    reconstructions: Array | None = None
    latents: Array | None = None
    labels: Array | None = None
    label_names: tuple[str, ...] | None = None
    manifold: Array | None = None
    grid: Array | None = None
    unit_kl: Array | None = None
    drawn: Array | None = None
    draws: Array | None = None
    prior_draws: Array | None = None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        shown = self.samples if self.samples is not None else self.inputs
        return tuple(shown.shape[1:]) if shown is not None else ()

    def write(self, run: str | os.PathLike[str]) -> None:
        """Write ``gallery.npz`` into a run folder."""
        arrays: dict[str, Any] = {
            f.name: np.asarray(getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) is not None
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_bytes(Path(run) / "gallery.npz", buffer.getvalue())

    @classmethod
    def read(cls, run: str | os.PathLike[str]) -> Gallery | None:
        """Read ``gallery.npz`` of a run folder; None if there is none.

        Raises:
            RunError: if the file is damaged.
        """
        path = Path(run) / "gallery.npz"
        if not path.exists():
            return None
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays: dict[str, Any] = {f.name: file[f.name] for f in fields(cls) if f.name in file}
        except Exception as error:  # numpy and zipfile raise many kinds on a damaged archive
            cure = "Evaluate the run again."
            raise RunError(explain(str(path), expected="arrays for the figures", got=error, cure=cure)) from error
        if "label_names" in arrays:
            arrays["label_names"] = tuple(str(name) for name in arrays["label_names"])
        return cls(**arrays)


@torch.no_grad()
def gallery(
    model: Any,
    inputs: Tensor,
    *,
    latents: Tensor | None = None,
    labels: Tensor | None = None,
    label_names: tuple[str, ...] | None = None,
    unit_kl: Tensor | None = None,
    drawn: bool = False,
    draws: Tensor | None = None,
    prior_draws: Tensor | None = None,
    seed: int = 0,
) -> Gallery:
    """Compute what the figures of a model show.

    Args:
        model: A model with a node ``x`` or ``x_mean``, and with `reconstruct` and `decode` if it has an encoder.
        inputs: Rows to reconstruct, shape ``[n, *event_shape]``.
        latents: Posterior means or draws, shape ``[n, latent_dim]``.
        labels: Their labels, shape ``[n]``.
        label_names: The names of the labels.
        unit_kl: The mean KL of each unit, shape ``[latent_dim]``.
        drawn: Whether `latents` are draws.
        draws: One draw of each row's posterior, shape ``[n, latent_dim]``.
        prior_draws: As many from the prior, if that is no standard normal.
        seed: The seed of the samples.
    """
    with seeded(seed, "gallery"):
        trace = model.programs(inputs[torch.arange(64) % len(inputs)]).model.observe()
    samples = trace.get("x_mean", trace.get("x"))
    reconstructions = model.reconstruct(inputs) if hasattr(model, "reconstruct") else None
    grid = torch.special.ndtri(torch.linspace(0.05, 0.95, 20, dtype=torch.float64)).to(inputs)
    manifold = None
    if getattr(model, "latent_dim", 0) == 2 and hasattr(model, "decode") and has_standard_prior(model, inputs):
        z = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
        manifold = model.decode(z).mean
    return Gallery(
        samples=_array(samples),
        inputs=_array(inputs),
        reconstructions=_array(reconstructions),
        latents=_array(latents),
        labels=_array(labels),
        label_names=label_names,
        manifold=_array(manifold),
        grid=_array(grid) if manifold is not None else None,
        unit_kl=_array(unit_kl),
        drawn=np.array(True) if drawn else None,
        draws=_array(draws),
        prior_draws=_array(prior_draws),
    )


def _array(tensor: Tensor | None) -> Array | None:
    if tensor is None:
        return None
    array: Array = (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    return array
