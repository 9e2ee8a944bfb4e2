"""What every reader of a file hands to `load`, and labels of any kind as integers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowerbound.core.errors import DataError, explain
from lowerbound.data.store import Store

__all__ = ["Table", "encode_labels"]


class Table(NamedTuple):
    """The content of a file.

    Attributes:
        rows: The rows, shape ``[n, *event_shape]``.
        labels: Numbers or texts, one for each row, or None.
        levels: The number of levels if the kind of file fixes it.
        record: What was done to the content, as plain values, for `Dataset.describe`.
    """

    rows: Tensor | Store
    labels: Any = None
    levels: int | None = None
    record: Mapping[str, Any] = MappingProxyType({})


def encode_labels(values: Any, *, source: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """Return labels as integers, and the names of these if the labels are texts.

    Texts that are all integers are taken as such; other texts are numbered in sorted order.

    Args:
        values: Integers, whole numbers or texts: a sequence, an array or a tensor.
        source: Whose labels they are, for the error.

    Returns:
        The labels, int64, of the shape of `values`, and the names or None.

    Raises:
        DataError: if a label is no text and no whole number.

    Example:
        >>> encode_labels(["cat", "ant", "cat"], source="pets")
        (tensor([1, 0, 1]), ('ant', 'cat'))
    """
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if array.dtype.kind in "US":
        texts = array.astype(str)
        try:
            return torch.from_numpy(texts.astype(np.int64)), None
        except (ValueError, OverflowError):
            names, numbers = np.unique(texts, return_inverse=True)
            return torch.from_numpy(numbers.reshape(array.shape).astype(np.int64)), tuple(names.tolist())
    whole = array.dtype.kind in "biu" or (array.dtype.kind == "f" and bool((array == np.floor(array)).all()))
    if not whole or not np.isfinite(array).all():
        cure = "Give one integer or one text for each row."
        raise DataError(explain(f"labels of {source}", expected="integers or texts", got=array.dtype, cure=cure))
    return torch.from_numpy(array.astype(np.int64)), None
