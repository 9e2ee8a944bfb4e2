"""Log-probabilities of 8-bit values as bits per dimension, in which images are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["bits_per_dim"]

_LEVELS = 256


def bits_per_dim(measure: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, float | None]:
    r"""Return a measure of log p(x) in bits per dimension, :math:`-\log p(x) / (D \ln 2)` for D values a row.

    Lower is better; a uniform distribution over 256 levels has 8. A lower bound of log p(x) is an upper bound of it.

    Args:
        measure: ``value`` and ``stderr``, in nats a row, and ``kind``.
        data: What was evaluated: ``levels``, ``binarize``, ``event_shape`` and ``log_p``.

    Returns:
        ``bits_per_dim`` and ``bits_per_dim_stderr``; empty where log p(x) is a density, where the values have other
        levels than 256, and for a measure that is no log p(x).

    Source: Theis, van den Oord and Bethge, A note on the evaluation of generative models (2016).

    Example:
        >>> data = {"levels": 256, "binarize": "none", "event_shape": [2], "log_p": "probability"}
        >>> bits_per_dim({"value": -2 * math.log(256), "stderr": None, "kind": "exact"}, data)
        {'bits_per_dim': 8.0, 'bits_per_dim_stderr': None}
    """
    discrete = data.get("log_p") == "probability" and data.get("binarize") == "none" and data.get("levels") == _LEVELS
    if not discrete or measure["kind"] == "gap on simulated rows":
        return {}
    unit = math.prod(data["event_shape"]) * math.log(2)
    stderr = measure["stderr"]
    return {"bits_per_dim": -measure["value"] / unit, "bits_per_dim_stderr": None if stderr is None else stderr / unit}
