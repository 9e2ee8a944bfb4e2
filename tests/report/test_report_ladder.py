"""The ladder: every number with what it is to log p(x), in the order of tightness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lowerbound.evaluation import Scores
from lowerbound.report.ladder import Rung, ladder, rungs
from lowerbound.report.records import Record
from readable import check_readable, texts

GAP = {"value": 0.4, "lower": -81.2, "upper": -80.8, "kind": "gap on simulated rows", "n": 9}


def record(*, certified: bool = True) -> Record:
    history = [{"epoch": 1, "train": {"elbo": -120.0}}, {"epoch": 2, "train": {"elbo": -100.0}}]
    return Record(Path("run"), {"objective": {"certified": certified}}, history)


def bound(value: float, kind: str = "lower bound") -> dict[str, Any]:
    return {"value": value, "stderr": 0.5, "kind": kind, "n": 9}


def scores(**measures: dict[str, Any]) -> Scores:
    return Scores({name.replace("_", "-"): measure for name, measure in measures.items()}, {"split": "test"})


ALL = scores(ais=bound(-90.0), bdmc=GAP, iwae_50=bound(-92.0), quadrature=bound(-89.9, "exact"), elbo=bound(-95.0),
             avb=bound(-85.0, "no bound"))  # fmt: skip


def test_rungs_climb_from_the_training_to_the_tightest() -> None:
    assert [(rung.name, rung.value, rung.kind) for rung in rungs(record(), ALL)] == [
        ("training: ELBO", -100.0, "lower bound"),
        ("AVB estimate", -85.0, "estimate"),
        ("ELBO", -95.0, "lower bound"),
        ("IWAE-50", -92.0, "lower bound"),
        ("AIS", -90.0, "lower bound"),
        ("log p(x)", -89.9, "exact"),
        ("BDMC lower end", -81.2, "lower bound"),
        ("BDMC upper end", -80.8, "upper bound"),
    ]


def test_an_objective_that_is_no_bound_is_an_estimate() -> None:
    assert rungs(record(certified=False), ALL)[0].kind == "estimate"
    assert rungs(record(), scores(mine=bound(-1.0, "something new")))[1].kind == "estimate"


def test_every_rung_says_of_which_rows_it_speaks() -> None:
    found = {rung.name: rung.rows for rung in rungs(record(), ALL)}
    assert (found["training: ELBO"], found["AIS"], found["BDMC upper end"]) == (
        "training rows, last epoch",
        "test rows",
        "the model's own rows",
    )


def test_what_is_not_finite_has_no_rung() -> None:
    assert len(rungs(record(), scores(elbo=bound(float("-inf"))))) == 1
    unknown = Record(Path("run"), {}, [{"epoch": 1, "train": {"elbo": None}}])
    assert rungs(unknown, scores(elbo=bound(-1.0), mine=bound(-0.5, "upper bound")))[-1].kind == "upper bound"


@pytest.mark.parametrize(
    "shown",
    [ALL, scores(elbo=bound(-100.0)), scores(elbo=bound(-1e5), ais=bound(-3.0)), scores(elbo=bound(-1.3863))],
    ids=["all", "one", "far apart", "near zero"],
)
def test_ladder_is_readable_and_says_every_number(shown: Scores) -> None:
    steps = rungs(record(), shown)
    figure = ladder(steps)
    check_readable(figure)
    written = " ".join(text.get_text() for text in texts(figure))
    for step in steps:
        assert step.name in written
        assert f"{step.value:.2f}".replace("-", "−") in written
    legend = " ".join(text.get_text() for text in figure.legends[0].get_texts())
    kinds = {step.kind for step in steps}
    assert ("estimate" in legend, "upper bound" in legend) == ("estimate" in kinds, "upper bound" in kinds)
    lines = [line for line in figure.axes[0].get_lines() if line.get_marker() in "<>Do"]
    assert [float(line.get_xdata()[0]) for line in lines] == [step.value for step in steps]
    assert all(isinstance(step, Rung) for step in steps)
