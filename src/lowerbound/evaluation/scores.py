"""The result of an evaluation: numbers with what they were measured on."""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.core.errors import RunError, explain
from lowerbound.core.files import read_json, write_bytes, write_json
from lowerbound.evaluation.gallery import Gallery

__all__ = ["Scores"]


@dataclass(frozen=True)
class Scores:
    """Measures of a model on a data set.

    Attributes:
        measures: By name: ``value`` and ``stderr`` (over rows) in nats a row, ``n`` rows, ``particles``, ``kind``
            (``"lower bound"``), for the ELBO its parts ``reconstruction`` and ``kl``, and for 8-bit values whose
            log p(x) is a probability ``bits_per_dim`` and ``bits_per_dim_stderr``.
        data: What was evaluated: set, split, binarisation, seed, hash.
        latents: Active and collapsed units, the KL term of each unit, and under ``aggregate`` what
            `lowerbound.evaluation.aggregate.decompose` found; empty for models without an encoder.
        rows: The values of each row by measure, float64 ``[n]``, in the order of the data; kept in ``rows.npz``. A
            measure of an older run may lack them.
        gallery: What the figures show; kept in ``gallery.npz``.
    """

    measures: dict[str, dict[str, Any]]
    data: dict[str, Any]
    latents: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    gallery: Gallery | None = field(default=None, repr=False)

    def describe(self) -> dict[str, Any]:
        """Return what ``scores.json`` holds: measures, data and latents, as plain values."""
        return {"measures": self.measures, "data": self.data, "latents": self.latents}

    def write(self, run: str | os.PathLike[str]) -> None:
        """Write ``scores.json``, ``rows.npz`` and ``gallery.npz`` into a run folder."""
        write_json(Path(run) / "scores.json", self.describe())
        if self.rows:
            buffer = io.BytesIO()
            arrays: dict[str, Any] = {name: np.asarray(row, dtype=np.float64) for name, row in self.rows.items()}
            np.savez_compressed(buffer, **arrays)
            write_bytes(Path(run) / "rows.npz", buffer.getvalue())
        if self.gallery is not None:
            self.gallery.write(run)

    @classmethod
    def read(cls, run: str | os.PathLike[str]) -> Scores:
        """Read the scores of a run folder.

        Raises:
            RunError: if there are none or a file is damaged.
        """
        path = Path(run) / "scores.json"
        if not path.exists():
            cure = f"Evaluate the run first: lowerbound evaluate {run}"
            raise RunError(explain(str(path), expected="the scores of a run", got="no such file", cure=cure))
        document = read_json(path)
        try:
            measures, data = document["measures"], document["data"]
        except (KeyError, TypeError) as error:
            cure = "Evaluate the run again."
            raise RunError(explain(str(path), expected="measures and data", got=f"no {error}", cure=cure)) from error
        rows = _read_rows(Path(run) / "rows.npz", measures)
        return cls(measures, data, document.get("latents", {}), rows, Gallery.read(run))


def _read_rows(path: Path, measures: dict[str, dict[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """Return the values of every row by measure, and only those whose mean is the measure's value.

    Two files are not written at once: rows of another evaluation than the scores' would have another mean.
    """
    if not path.exists():
        return {}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            rows = {name: np.asarray(file[name], dtype=np.float64) for name in measures if name in file}
    except Exception as error:  # numpy and zipfile raise many kinds on a damaged archive
        cure = "Evaluate the run again."
        raise RunError(explain(str(path), expected="the values of every row", got=error, cure=cure)) from error
    return {name: row for name, row in rows.items() if _belong(row, measures[name])}


def _belong(row: NDArray[np.float64], measure: dict[str, Any]) -> bool:
    n, value = measure.get("n"), measure.get("value")
    return row.shape == (n,) and value is not None and math.isclose(float(row.mean()), value, rel_tol=1e-12)
