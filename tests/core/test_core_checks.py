"""One sentence for all errors, and checks that raise it."""

from __future__ import annotations

import math

import pytest
import torch

from lowerbound.core import errors
from lowerbound.core.checks import choice, event_shape, number, positive_int, suggestion
from lowerbound.core.errors import ArgumentError, LowerboundError, explain
from lowerbound.core.numerics import flushed_denormals


def test_the_sentence():
    message = explain("particles", expected="a positive integer", got=0, cure="Pass particles=1 or more.")
    assert message == "particles: expected a positive integer, got 0. Pass particles=1 or more."


BUILT_IN = {
    "ArgumentError": ValueError,
    "ShapeError": ValueError,
    "NodeError": ValueError,
    "DataError": ValueError,
    "RunError": RuntimeError,
    "NonFiniteError": ArithmeticError,
}


def test_all_errors_are_lowerbounds_and_pythons():
    classes = {name for name in errors.__all__ if name.endswith("Error")} - {"LowerboundError"}
    assert classes == set(BUILT_IN)
    for name, parent in BUILT_IN.items():
        assert issubclass(getattr(errors, name), LowerboundError)
        assert issubclass(getattr(errors, name), parent)


def test_suggestion_names_the_nearest_first():
    assert suggestion("elbow", ["iwae", "elbo"]) == "Did you mean 'elbo'? Known: elbo, iwae."
    assert suggestion("zzz", ["iwae", "elbo"]) == "Known: elbo, iwae."


def test_choice():
    assert choice("init", "he", ("glorot", "he")) == "he"
    with pytest.raises(
        ArgumentError, match=r"init: expected one of the known names, got 'glorott'\. Did you mean 'glorot'"
    ):
        choice("init", "glorott", iter(("glorot", "he")))
    with pytest.raises(ArgumentError, match=r"init: .*got None"):
        choice("init", None, ("glorot", "he"))


@pytest.mark.parametrize("value", [0, -3, True, False, 1.0, "1", None, math.nan])
def test_positive_int_refuses(value):
    with pytest.raises(ArgumentError, match=r"k: expected a positive integer, got .*\. Pass k=1 or more\."):
        positive_int("k", value)


def test_positive_int():
    assert positive_int("k", 1) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None, 2.1, -0.1])
def test_number_refuses(value):
    with pytest.raises(ArgumentError, match=r"lr: expected a finite number of at least 0 and at most 2, got "):
        number("lr", value, low=0, high=2)


def test_number():
    assert number("lr", 0, low=0.0) == 0.0
    assert type(number("lr", 1)) is float
    with pytest.raises(ArgumentError, match=r"lr: expected a finite number above 0, got 0"):
        number("lr", 0, low=0.0, open_low=True)


@pytest.mark.parametrize(
    "value, wanted", [((28, 28), (28, 28)), ([5], (5,)), (7, (7,)), (torch.Size((2, 3)), (2, 3)), (iter((4,)), (4,))]
)
def test_event_shape(value, wanted):
    assert event_shape(value) == wanted


@pytest.mark.parametrize("value", [(), 0, (3, 0), (-1,), (2.0,), (True,), True, "ab"])
def test_event_shape_refuses(value):
    with pytest.raises(
        ArgumentError, match=r"event_shape: expected positive sizes, got .*such as \(28, 28\) or \(64,\)"
    ):
        event_shape(value)


def test_denormals_are_flushed_inside_the_block_only():
    tiny = torch.full((), 1e-30)

    def product() -> float:
        return float(tiny * 1e-10)

    assert product() > 0
    with flushed_denormals():
        assert product() == 0
    assert product() > 0
    with pytest.raises(RuntimeError, match="stop"), flushed_denormals():
        raise RuntimeError("stop")
    assert product() > 0
