"""The latents of a run: rows encoded once, their principal axes, their neighbours, and the way back to rows."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from lowerbound.core.checks import positive_int
from lowerbound.core.device import find_device
from lowerbound.core.errors import ArgumentError, RunError, explain
from lowerbound.core.random import seeded
from lowerbound.data import Column, Dataset
from lowerbound.runs import column_names, load, load_data, schema

__all__ = ["Latents", "principal_axes"]

_BATCH = 1000
_WIDEST = 3.0  # what a latent may take at least, in each direction: nearly all of a standard normal


class Latents:
    """The posterior means of rows under a model, and what can be asked of them.

    Everything that computes with the model holds a lock, so that requests may come from several threads.

    Args:
        model: A model with `encode`, `decode` and `latent_dim`.
        rows: The rows to encode.
        name: What the run is called.
        columns: What the columns of a table are, None for rows without names.
        limit: How many rows to encode at most.

    Attributes:
        means: The posterior means, float32 ``[n, latent_dim]``.
        labels: The labels of those rows, int64 ``[n]``, or None.

    Example:
        >>> model = lb.models.VAE(event_shape=(4,), latent_dim=2)
        >>> latents = Latents(model, lb.data.four_points()[1], limit=20)
        >>> latents.means.shape, latents.decode(torch.zeros(3, 2)).mean.shape
        (torch.Size([20, 2]), torch.Size([3, 4]))
    """

    def __init__(
        self,
        model: Any,
        rows: Dataset,
        *,
        name: str = "run",
        columns: Sequence[Column] | None = None,
        limit: int = 10_000,
    ) -> None:
        self.model, self.rows, self.name, self.columns = model, rows, name, columns
        self.device = next(model.parameters()).device
        self._lock = threading.Lock()
        self._map: NDArray[np.float32] | None = None
        positive_int("limit", limit)
        self.means = torch.cat([self.encode(x) for x in rows.evaluation_batches(_BATCH, limit=limit)])
        if not bool(self.means.isfinite().all()):
            cure = "Train it again, with a lower learning rate."
            raise RunError(explain(name, expected="a model with finite latents", got="some that are not", cure=cure))
        self.labels = None if rows.labels is None else rows.labels[: len(self.means)].cpu()

    @classmethod
    def of_run(
        cls,
        run: str | os.PathLike[str],
        *,
        source: str | None = None,
        limit: int = 10_000,
        device: str = "auto",
    ) -> Latents:
        """Load a run folder and encode its test rows, or all rows of another source.

        Raises:
            RunError: if there is no such run, or its model has no encoder and decoder.
            DataError: if its data are not there.
        """
        loaded = load(run)
        model: Any = loaded.model
        if not (hasattr(model, "encode") and hasattr(model, "decode")):
            cure = "Explore a run of a VAE or one of its relatives."
            got = type(model).__name__
            raise RunError(explain(str(run), expected="a model that encodes and decodes", got=got, cure=cure))
        model.to(find_device(device))
        name = Path(run).resolve().name
        columns = schema(loaded) or [Column(column, "continuous") for column in column_names(loaded) or []] or None
        return cls(model, load_data(loaded, source=source), name=name, columns=columns, limit=limit)

    def __len__(self) -> int:
        """Return the number of encoded rows."""
        return len(self.means)

    @property
    def latent_dim(self) -> int:
        """The size of a latent vector."""
        return self.means.shape[1]

    @property
    def spans(self) -> list[list[float]]:
        """The lowest and the highest value to offer of each latent: those of the rows, and -3 to 3 at least."""
        if self.binary:
            return [[0.0, 1.0]] * self.latent_dim
        low = self.means.amin(0).clamp(max=-_WIDEST)
        high = self.means.amax(0).clamp(min=_WIDEST)
        return torch.stack([low, high], 1).tolist()

    @property
    def binary(self) -> bool:
        """Whether latents are 0 or 1; their means are probabilities."""
        prior: Any = self.model.prior()
        return isinstance(getattr(prior, "base_dist", prior), Bernoulli)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the posterior means ``[B, latent_dim]`` of rows ``[B, *event_shape]``."""
        with self._lock, seeded(0, "encode"):  # means of implicit posteriors are those of their draws
            means: Tensor = self.model.encode(x.to(self.device)).mean
        return means.float().cpu()

    @torch.no_grad()
    def decode(self, z: Tensor) -> Distribution:
        """Return p(x | z) for latents ``[B, latent_dim]``.

        Raises:
            ShapeError: if `z` has another last axis.
        """
        with self._lock:
            p: Distribution = self.model.decode(z.to(self.device))
        return p

    @torch.no_grad()
    def sample(self, n: int, *, seed: int) -> Tensor:
        """Return n latents drawn from the model, next to the rows if there are several layers, ``[n, latent_dim]``."""
        with self._lock, seeded(seed, "sample"):
            trace = self.model.sample(positive_int("n", n))
        z: Tensor = trace["z"] if "z" in trace else trace["z1"]
        return z.float().cpu()

    def nearest(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the k rows whose means are nearest to a latent vector, the nearest first, and their distances.

        Args:
            z: A latent vector, ``[latent_dim]``.
            k: How many rows; all if there are fewer.

        Returns:
            Indices, int64 ``[k]``, and Euclidean distances ``[k]``.
        """
        distances = (self.means - z).norm(dim=1)
        found = distances.topk(min(positive_int("k", k), len(self)), largest=False)
        return found.indices, found.values

    def observed(self, indices: Sequence[int]) -> Tensor:
        """Return rows as the model saw them, ``[len(indices), *event_shape]``.

        Raises:
            ArgumentError: if an index is not one of the encoded rows.
        """
        outside = [i for i in indices if not 0 <= i < len(self)]
        if outside:
            cure = "Ask for rows that are shown."
            raise ArgumentError(explain("rows", expected=f"0 to {len(self) - 1}", got=outside[0], cure=cure))
        return self.rows.rows(list(indices)).cpu()

    @property
    def has_map(self) -> bool:
        """Whether umap-learn is installed, which draws maps that are not linear."""
        return importlib.util.find_spec("umap") is not None

    def map(self) -> NDArray[np.float32]:
        """Return the rows' places on a UMAP, ``[n, 2]``, computed when it is first asked for.

        Source: McInnes, Healy and Melville, UMAP: Uniform Manifold Approximation and Projection (2018).
        """
        with self._lock:
            if self._map is None:
                import umap

                self._map = umap.UMAP(random_state=0, n_jobs=1).fit_transform(self.means.numpy()).astype(np.float32)
            return self._map


def principal_axes(means: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of vectors, their two main directions, and the share of the variance along each.

    Each direction has length 1, and its largest entry is positive.

    Args:
        means: Vectors, ``[n, dims]`` with at least two dims.

    Returns:
        The mean ``[dims]``, the directions ``[2, dims]``, the shares ``[2]``.

    Example:
        >>> center, axes, share = principal_axes(torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        >>> axes.tolist(), share.tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [0.899..., 0.1...])
    """
    center = means.double().mean(0)
    covariance = (means.double() - center).T @ (means.double() - center)
    values, vectors = torch.linalg.eigh(covariance)
    axes = vectors[:, -2:].flip(1).T
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    share = values[-2:].flip(0) / values.sum().clamp(min=1e-12)
    return center.float(), (axes * signs).float(), share.float()
