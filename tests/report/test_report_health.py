"""The health of the latents on the page, and the verdict in plain words: both follow from the numbers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from lowerbound.core.errors import ArgumentError
from lowerbound.evaluation import Gallery, Scores
from lowerbound.report.aggregate_figure import aggregated_posterior
from lowerbound.report.health import HEADER, health
from lowerbound.report.ladder import rungs
from lowerbound.report.records import Record
from lowerbound.report.verdict import notes, verdict


def make(*, active=30, collapsed=8, told=3.0, misfit=0.2, rows=2000, kl=None, variance=None, n=100) -> Scores:
    parts = {"kl": told + misfit, "mutual_information": told, "marginal_kl": misfit}
    latents = {
        "active_units": active,
        "latent_dim": 40,
        "collapsed_units": collapsed,
        "unit_kl": kl,
        "unit_variance": variance,
        "aggregate": {"rows": rows, **{name: {"value": value, "stderr": 0.04} for name, value in parts.items()}},
    }
    measure = {"value": -90.0, "stderr": 0.5, "n": n, "particles": 1, "kind": "lower bound", "unit": "nats"}
    return Scores({"elbo": measure}, {"name": "digits", "split": "test", "n": 100, "n_evaluated": n}, latents)


def record(*, rising=False, warmup=0) -> Record:
    gain = 1.0 if rising else 0.001
    history = [
        {"epoch": e, "train": {"elbo": -99.0}, "validation": {"elbo": -100.0 + gain * e}, "kl_weight": 1.0}
        for e in range(1, 21)
    ]
    return Record(Path("run"), {"training": {"kl_warmup": warmup}, "objective": {"certified": True}}, history)


def test_every_quantity_has_its_unit_and_a_sentence():
    rows = list(health(make()))
    assert [row[:3] for row in rows] == [
        ("active", "30 of 40", "units"),
        ("collapsed", "8 of 40", "units"),
        ("mean KL(q(z|x) || p(z))", "3.200 ± 0.040", "nats"),
        ("  I(x; z)", "3.000 ± 0.040", "nats"),
        ("  KL(q(z) || p(z))", "0.200 ± 0.040", "nats"),
    ]
    assert all(len(row) == len(HEADER) and row[3].endswith(".") for row in rows)
    assert "at most log 2,000 = 7.60" in rows[3][3]


def test_information_at_its_limit_is_said():
    (row,) = (row for row in health(make(told=math.log(50) - 0.1, rows=50)) if "I(x; z)" in row[0])
    assert "It is at that limit" in row[3]
    assert not any("at that limit" in row[3] for row in health(make()))


def test_what_is_not_known_is_not_shown():
    scores = make()
    assert list(health(Scores(scores.measures, scores.data, {}))) == []
    del scores.latents["aggregate"]
    assert [row[0] for row in health(scores)] == ["active", "collapsed"]
    scores.latents["collapsed_units"] = None
    assert [row[0] for row in health(scores)] == ["active"]


@pytest.mark.parametrize(
    "run, scores, expected",
    [
        (record(), make(), "30 of 40 latents used, and nothing stands out"),
        (record(), make(active=3), "3 of 40 latents used: try a KL warm-up"),
        (record(warmup=100), make(active=3), "3 of 40 latents used: try a longer KL warm-up"),
        (record(), make(active=0), "0 of 40 latents used: the decoder ignores them, try a KL warm-up"),
        (record(rising=True), make(active=3), "3 of 40 latents used: train longer; try a KL warm-up"),
        (record(), make(misfit=2.0), "30 of 40 latents used: a learned prior may gain up to 2.0 nats"),
        (record(), make(n=50), "30 of 40 latents used: evaluate all rows before you compare"),
        (record(), make(active=None), "Evaluated, and nothing stands out"),
        (record(), None, "Trained and not evaluated yet: evaluate it"),
        (record(rising=True), None, "Trained and not evaluated yet: evaluate it; train longer"),
    ],
)
def test_the_verdict_says_what_to_do(run, scores, expected):
    assert verdict(run, scores) == expected


@pytest.mark.parametrize(
    "scores, words",
    [
        (make(misfit=2.0), "All posteriors together lie 2.00 nats from the prior"),
        (make(kl=[1.0, 0.5, 0.0], variance=[0.9, 0.001, 0.0]), "1 latent unit is much the same for every row"),
        (make(kl=[0.25, 0.5], variance=[0.0, 0.0]), "2 latent units are much the same .* at a cost of 0.75 nats"),
    ],
)
def test_each_note_follows_from_its_numbers(scores, words):
    (note,) = notes(record(), scores)
    assert re.search(words, note.text)


def test_a_misfit_that_is_not_known_well_is_left_alone():
    """Rows too few to tell, an error as large as the misfit, or a misfit of no weight beside the rest."""
    noisy = make(misfit=2.0)
    noisy.latents["aggregate"]["marginal_kl"]["stderr"] = 1.0
    saturated = make(misfit=20.0, told=math.log(50), rows=50)
    for scores in (noisy, saturated, make(told=7.0, misfit=0.6)):
        assert notes(record(), scores) == []


def test_every_rung_has_a_sentence():
    scores = make()
    scores.measures["bdmc"] = {
        **scores.measures["elbo"], "kind": "gap on simulated rows", "lower": -80.0, "upper": -79.0,
    }  # fmt: skip
    steps = rungs(record(), scores)
    assert [step.name for step in steps] == ["training: ELBO", "ELBO", "BDMC lower end", "BDMC upper end"]
    assert all(step.meaning.endswith(".") for step in steps)
    assert "never above" in steps[2].meaning
    assert "never below" in steps[3].meaning


# --- The picture of the aggregated posterior --------------------------------------------------------------------------


def gallery(units: int, *, prior: bool = False, n: int = 500) -> Gallery:
    draws = np.random.default_rng(0).normal(size=(n, units)) * np.linspace(0.1, 2, units)
    return Gallery(draws=draws, unit_kl=np.arange(units), prior_draws=draws[::-1] + 9 if prior else None)


@pytest.mark.parametrize("units, shown", [(1, [1]), (2, [2, 1]), (5, [5, 4, 3, 2, 1]), (40, list(range(40, 28, -1)))])
def test_units_stand_by_falling_divergence(units, shown):
    axes = aggregated_posterior(gallery(units)).axes
    assert [a.get_title(loc="left") for a in axes] == [f"$z_{{{unit}}}$" for unit in shown]


def test_bars_are_the_share_of_draws_and_the_line_is_the_prior():
    made = gallery(2)
    first = aggregated_posterior(made).axes[0]
    inside = sum(bar.get_height() * bar.get_width() for bar in first.patches)
    assert inside == pytest.approx(1, abs=1e-6)
    edges = [bar.get_x() for bar in first.patches] + [first.patches[-1].get_x() + first.patches[-1].get_width()]
    counts, _ = np.histogram(made.draws[:, 1], edges)
    areas = [bar.get_height() * bar.get_width() for bar in first.patches]
    assert np.allclose(areas, counts / counts.sum(), atol=1e-3)
    x, y = first.lines[0].get_data()
    assert np.allclose(y, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi))


def test_another_prior_is_drawn_from_its_draws():
    axes = aggregated_posterior(gallery(2, prior=True)).axes[0]
    assert len(axes.lines) == 0
    assert axes.get_xlim()[1] > 9


def test_a_gallery_without_draws_is_an_error():
    with pytest.raises(ArgumentError, match="gallery: expected an array 'draws', got none"):
        aggregated_posterior(Gallery())
