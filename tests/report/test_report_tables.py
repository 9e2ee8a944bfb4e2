"""Tables and verdicts: the numbers are the scores', and the words follow from the numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowerbound.evaluation import Scores
from lowerbound.report import tables
from lowerbound.report.records import Record
from lowerbound.report.verdict import headline, notes


def make_scores(elbo=-104.2163, *, iwae=None, active=37, n=10_000, total=10_000) -> Scores:
    measures = {
        "elbo": {
            "value": elbo, "stderr": 0.3141, "n": n, "particles": 1, "kind": "lower bound", "unit": "nats",
            "reconstruction": -79.1, "kl": 25.1163,
        }
    }  # fmt: skip
    if iwae is not None:
        common = {"stderr": 0.3, "n": n, "particles": 1000, "kind": "lower bound", "unit": "nats"}
        measures["iwae-1000"] = {"value": iwae, **common}
    data = {"name": "mnist", "split": "test", "n": total, "n_evaluated": n, "sha256": "ab" * 32}
    return Scores(measures, data, {"active_units": active, "latent_dim": 40})


def make_record(validation=None, *, kl_weight=1.0, certified=True, bound="elbo") -> Record:
    curve = validation or [-100.0]
    history = []
    for epoch, value in enumerate(curve, start=1):
        record = {"epoch": epoch, "train": {bound: value + 1}, "kl_weight": kl_weight}
        if validation:
            record["validation"] = {bound: value}
        history.append(record)
    return Record(Path("run"), {"objective": {"class": "X", "certified": certified}}, history)


@pytest.mark.parametrize(
    "value, stderr, expected",
    [
        (-104.2163, 0.3141, "-104.22 ± 0.31"),
        (-104.2163, 0.00314, "-104.2163 ± 0.0031"),
        (-1234.5678, 48.2, "-1235 ± 48"),
        (-104.2163, None, "-104.22"),
        (-104.2163, 0.0, "-104.22"),
        (float("nan"), 1.0, "not finite"),
        (None, None, "not finite"),
    ],
)
def test_values_show_two_digits_of_their_standard_error(value, stderr, expected):
    assert tables.nats(value, stderr) == expected


def test_text_is_aligned_and_complete():
    lines = tables.text(make_scores(iwae=-99.5)).splitlines()
    assert lines[0].split() == ["measure", "nats", "per", "row", "rows", "particles", "kind"]
    assert [line.split()[0] for line in lines[2:]] == ["ELBO", "reconstruction", "KL", "IWAE-1000"]
    assert "-104.22 ± 0.31" in lines[2]
    end = lines[2].index("10,000") + len("10,000")
    assert lines[5].index("10,000") + len("10,000") == end
    assert lines[0].index("rows", 25) + len("rows") == end


def test_markdown_has_as_many_cells_in_every_row_and_escapes_bars():
    scores = make_scores()
    scores.measures["a|b"] = {"value": 1.0, "stderr": 0.1, "n": 5, "kind": "estimate"}
    lines = tables.markdown(scores).splitlines()
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(tables.header(scores)) + 1}
    assert lines[-1] == "| A\\|B | 1.00 ± 0.10 | 5 |  | estimate |"


def test_rich_table_shows_the_same_and_takes_brackets_literally():
    from rich.console import Console

    scores = make_scores(iwae=-99.5)
    scores.measures["[red]x"] = {"value": -1.0, "stderr": 0.1, "n": 5, "particles": None, "kind": "estimate"}
    console = Console(width=120)
    with console.capture() as capture:
        console.print(tables.scores_table(scores))
    shown = capture.get()
    for row in tables.rows(scores):
        assert all(cell.strip() in shown for cell in row)
    assert "mnist, test rows" in shown


def test_bits_per_dimension_have_a_column_where_there_are_any():
    scores = make_scores(iwae=-99.5)
    plain = tables.text(scores)
    scores.measures["elbo"] |= {"bits_per_dim": 5.43219, "bits_per_dim_stderr": 0.0123}
    lines = tables.text(scores).splitlines()
    assert "bits/dim" not in plain
    assert tables.header(scores) == ("measure", "nats per row", "bits/dim", "rows", "particles", "kind")
    assert {len(row) for row in tables.rows(scores)} == {6}
    assert "-104.22 ± 0.31  5.432 ± 0.012  10,000" in lines[2]
    assert "IWAE-1000" in lines[5]
    assert "5.4" not in lines[5]
    scores.measures["elbo"] |= {"bits_per_dim_stderr": None}
    assert tables.rows(scores)[0][2] == "5.4322"


def test_meaning_names_the_particles_and_tells_bounds_from_estimates():
    assert "1000 draws" in tables.meaning("iwae-1000", {"particles": 1000})
    assert tables.meaning("other", {"kind": "lower bound"}) == "On average never above log p(x)."
    assert "may lie above" in tables.meaning("other", {"kind": "estimate"})


def test_headline_with_scores_names_measures_and_units():
    line = headline(make_record(), make_scores(iwae=-99.5))
    assert line == "Test ELBO -104.22 ± 0.31, IWAE-1000 -99.50 ± 0.30 nats; 37 of 40 latent units active"


def test_headline_without_scores_names_the_best_validation():
    record = make_record([-110.0, -105.25, -106.0])
    assert headline(record) == "Validation ELBO -105.25 nats at epoch 2; not evaluated yet"
    assert headline(make_record()) == "Train ELBO -99.00 nats at epoch 1; not evaluated yet"
    uncertified = make_record(certified=False, bound="avb")
    assert headline(uncertified) == "Train AVB estimate (no bound) -99.00 nats at epoch 1; not evaluated yet"


RISING = [-100.0 + 0.5 * epoch for epoch in range(20)]
FLAT = [*RISING[:10], *[-95.5 + 0.001 * epoch for epoch in range(10)]]
FALLING = [*RISING[:12], *[-94.5 - 0.25 * epoch for epoch in range(1, 19)]]


@pytest.mark.parametrize(
    "record, scores, level, words",
    [
        (make_record(RISING), None, "warning", "still rising: 1.00 nats over the last 2 epochs"),
        (make_record(FALLING), None, "info", "stopped improving at epoch 12 of 30 and has since lost 4.50 nats"),
        (make_record(kl_weight=0.4), None, "warning", "warm-up had not finished when training ended (weight 0.40)"),
        (make_record(certified=False, bound="avb"), None, "warning", "AVB estimate, is no certified bound"),
        (make_record(), make_scores(active=3), "warning", "Only 3 of 40 latent units are active: try a KL warm-up"),
        (make_record(), make_scores(active=0), "warning", "posterior collapse"),
        (make_record(), make_scores(iwae=-99.2163), "info", "IWAE-1000 lies 5.00 nats above the ELBO"),
        (make_record(), make_scores(n=500), "warning", "Only 500 of 10,000 rows"),
    ],
)
def test_each_note_follows_from_its_numbers(record, scores, level, words):
    (note,) = notes(record, scores)
    assert words in note.text
    assert note.level == level


def test_a_sound_run_has_no_notes():
    assert notes(make_record(FLAT), make_scores()) == []
    assert notes(make_record(RISING[:5]), make_scores(active=None)) == []


def test_warnings_come_first():
    levels = [note.level for note in notes(make_record(FALLING), make_scores(iwae=-99.0, active=1))]
    assert levels == ["warning", "info", "info"]
