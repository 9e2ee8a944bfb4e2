"""Values that scikit-learn passes, as plain ones; and rows that suit a likelihood or do not."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from torch import Tensor

from lowerbound.core.checks import choice
from lowerbound.core.errors import DataError, explain
from lowerbound.nn.likelihoods import LIKELIHOODS

__all__ = ["check_values", "on_cpu", "plain", "seed_of"]


def check_values(x: NDArray[Any], likelihood: str, levels: int | None) -> None:
    """Raise an error if values do not suit a likelihood by name; `recipes.build` checks the rows of training only."""
    kind = LIKELIHOODS[choice("likelihood", likelihood, LIKELIHOODS)]
    if likelihood == "bernoulli":
        bad, expected = (x != 0) & (x != 1), "only 0 and 1"
        cure = "Binarise them, as sklearn.preprocessing.Binarizer does, or take likelihood='gaussian' or 'logistic'."
    elif getattr(kind, "counts", False):
        bad, expected = (x < 0) | (x != np.round(x)), "counts"
        cure = "Take likelihood='gaussian' for other numbers."
    elif levels is not None:
        steps = x * (levels - 1)
        bad, expected = (x < 0) | (x > 1) | (np.abs(steps - np.round(steps)) > 1e-3), f"multiples of 1/{levels - 1}"
        cure = "Scale pixels k to k / (levels - 1), and pass likelihood_options={'levels': ...} unless it is 256."
    else:
        return
    if bad.any():
        got = f"{x[bad][0]:g}"
        raise DataError(explain(f"X for likelihood={likelihood!r}", expected=expected, got=got, cure=cure))


def plain(value: Any) -> Any:
    """Return a value with Python's numbers and tuples in place of NumPy's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | list | tuple):
        return tuple(plain(one) for one in value)
    return value


def seed_of(random_state: Any) -> int:
    """Return a seed: the number that is given, or one that is drawn as scikit-learn draws them."""
    if isinstance(random_state, numbers.Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def on_cpu(tree: Any) -> Any:
    """Return a tree with its tensors on the processor."""
    if isinstance(tree, Tensor):
        return tree.cpu()
    if isinstance(tree, Mapping):
        return {key: on_cpu(value) for key, value in tree.items()}
    return [on_cpu(value) for value in tree] if isinstance(tree, list) else tree
