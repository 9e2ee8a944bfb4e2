"""Products of a compiled step: each equals torch's, whichever library it is given to."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from lowerbound.training.products import PRODUCTS

MKLDNN = torch.backends.mkldnn.is_available()
LINEAR, MM, ADDMM = "lowerbound.linear.default", "aten.mm.default", "aten.addmm.default"

# rows of the left factor, inner length, columns, whether each factor is the transpose of a row-major array
MATRICES = {
    "a layer": (256, 128, 128, False, True, LINEAR),
    "the gradient of its input": (256, 128, 128, False, False, LINEAR),
    "the gradient of its weight": (128, 256, 128, True, False, MM),
    "a small layer": (128, 64, 64, False, True, MM),
    "a layer of few inputs": (100_000, 8, 64, False, True, MM),
    "a narrow factor": (4096, 256, 4, False, False, MM),
    "a narrow factor, transposed": (4096, 256, 4, False, True, MM),
}


def factors(case, dtype=torch.float32):
    rows, inner, columns, left, right, called = MATRICES[case]
    torch.manual_seed(0)
    a = torch.randn(inner, rows, dtype=dtype).t() if left else torch.randn(rows, inner, dtype=dtype)
    b = torch.randn(columns, inner, dtype=dtype).t() if right else torch.randn(inner, columns, dtype=dtype)
    return a, b, called


def called_by(traced):
    return [str(node.target) for node in traced.graph.nodes if str(node.target) in {LINEAR, MM, ADDMM}]


@pytest.mark.parametrize("case", MATRICES)
def test_product_is_that_of_torch(case):
    a, b, called = factors(case)
    traced = make_fx(torch.mm, decomposition_table=PRODUCTS)(a, b)
    assert called_by(traced) == [called if MKLDNN else MM]
    exact = a.double() @ b.double()
    torch.testing.assert_close(traced(a, b).double(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", MATRICES)
def test_product_plus_a_row_is_that_of_torch(case):
    a, b, called = factors(case)
    row = torch.linspace(-3, 3, b.shape[1])
    traced = make_fx(lambda row, a, b: torch.addmm(row, a, b), decomposition_table=PRODUCTS)(row, a, b)
    assert called_by(traced) == [LINEAR if called == LINEAR and MKLDNN else ADDMM]
    torch.testing.assert_close(traced(row, a, b).double(), a.double() @ b.double() + row, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scales", [{"beta": 2.0}, {"alpha": 0.5}])
def test_scaled_sum_is_left_to_torch(scales):
    a, b, _ = factors("a layer")
    row = torch.linspace(-3, 3, b.shape[1])
    traced = make_fx(lambda row, a, b: torch.addmm(row, a, b, **scales), decomposition_table=PRODUCTS)(row, a, b)
    assert called_by(traced) == [ADDMM]
    torch.testing.assert_close(traced(row, a, b), torch.addmm(row, a, b, **scales))


def test_other_precisions_are_left_to_torch():
    a, b, _ = factors("a layer", torch.float64)
    assert called_by(make_fx(torch.mm, decomposition_table=PRODUCTS)(a, b)) == [MM]
