"""Matrix products of a compiled step, each by the library that is fastest at its shape.

torch calls MKL. oneDNN, which comes with torch too, takes 4 to 19 % less time for large products of a row-major array,
which are those of a layer's forward pass and of the gradient with respect to its input, and more for others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

__all__ = ["PRODUCTS"]

_NARROW = 16  # columns of a row-major factor up to which the products of common libraries are slow
_WIDE = 64  # columns and inner length from which oneDNN is ahead
_LARGE = 4_000_000  # multiplications from which its call is worth what it costs

_library = Library("lowerbound", "FRAGMENT")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", tags=(torch.Tag.needs_fixed_stride_order,))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x @ weight.T + bias`` by oneDNN."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return found


def _shape_of(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return an array like the result, for tracing."""
    return x.new_empty(x.shape[0], weight.shape[0])


_library.impl("linear", _linear, "CPU")
_library.impl("linear", _shape_of, "Meta")


def _suits(a: Tensor, b: Tensor) -> bool:
    """Return whether oneDNN is ahead at a product."""
    return (
        torch.backends.mkldnn.is_available()
        and a.dtype == b.dtype == torch.float32
        and a.is_contiguous()
        and min(b.shape) >= _WIDE
        and a.shape[0] * b.numel() >= _LARGE
    )


def _mm(a: Tensor, b: Tensor) -> Tensor:
    """Return a matrix product; one with few columns by way of its transpose, which takes a fifth of the time."""
    if b.shape[1] <= _NARROW < a.shape[0] and b.is_contiguous():
        turned: Tensor = torch.ops.aten.mm.default(b.t(), a.t())
        return turned.t()
    if _suits(a, b):
        product: Tensor = torch.ops.lowerbound.linear(a, b.t(), None)
        return product
    return NotImplemented  # type: ignore[no-any-return]


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Return a matrix product plus a row."""
    if beta == alpha == 1 and bias.dim() == 1 and _suits(a, b):
        found: Tensor = torch.ops.lowerbound.linear(a, b.t(), bias)
        return found
    return NotImplemented  # type: ignore[no-any-return]


PRODUCTS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.mm.default: _mm,
    torch.ops.aten.addmm.default: _addmm,
}
"""What a trace puts in place of torch's products; ``NotImplemented`` leaves them as they are."""
