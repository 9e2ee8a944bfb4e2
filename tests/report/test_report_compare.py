"""Comparisons: numbers from planted scores, errors of paired differences, and runs that must not be compared."""

from __future__ import annotations

import hashlib
import json
import math
import re

import numpy as np
import pytest
from scipy import stats

import lowerbound.report as report
from lowerbound.core.errors import ArgumentError, RunError
from lowerbound.evaluation import Scores
from lowerbound.report import style
from lowerbound.report.compare import CLEAR

N = 211
DATA = {
    "name": "digits", "source": "digits", "split": "test", "n": N, "n_evaluated": N, "evaluation_seed": 0,
    "binarize": "dynamic", "binarize_seed": 0, "split_seed": 0, "test_fraction": 0.2, "sha256": "ab" * 32,
    "log_p": "probability",
}  # fmt: skip
KINDS = {"elbo": "lower bound", "iwae-100": "lower bound", "is-1000": "lower bound", "quadrature": "exact"}


def plant(folder, rows, *, kept=True, config=None, weights=None, **data):
    """Write a run folder with a measure for each array of rows; `kept` says whether its rows are kept."""
    folder.mkdir(parents=True)
    model = {"class": "VAE", "arguments": {"latent_dim": 2}}
    settings = {"recipe": {"name": "vae"}, "objective": {"class": "ELBO", "model": model}, "training": {"lr": 0.001}}
    (folder / "config.json").write_text(json.dumps({**settings, **(config or {})}))
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    measures = {
        name: {
            "value": float(row.mean()),
            "stderr": float(row.std(ddof=1) / math.sqrt(len(row))) if len(row) > 1 else None,
            "n": len(row),
            "kind": KINDS.get(name, "no bound"),
        }
        for name, row in rows.items()
    }
    Scores(measures, {**DATA, **data}, rows=rows if kept else {}).write(folder)
    return folder


def noisy(shift, *, seed=0, n=N, own=0.3):
    """Values of rows: what all runs share, and a little noise of a run's own."""
    shared = np.random.default_rng(99).normal(-100, 20, N)[:n]
    return shared + np.random.default_rng(seed).normal(shift, own, n)


def test_annealing_at_two_speeds_is_not_compared(tmp_path):
    runs = [plant(tmp_path / name, {"ais": noisy(0.0)}) for name in ("a", "b")]
    for run, temperatures in zip(runs, (100, 1000), strict=True):
        scores = Scores.read(run)
        scores.measures["ais"] |= {"chains": 16, "temperatures": temperatures}
        scores.write(run)
    message = "measure 'ais' of .*the same annealing, got 16 chains of 100 temperatures and 16 chains of 1000"
    with pytest.raises(RunError, match=message):
        report.compare(runs)


# --- Numbers ----------------------------------------------------------------------------------------------------------


def test_differences_are_paired_row_by_row(tmp_path):
    a, b = noisy(0.0, seed=1), noisy(0.2, seed=2)
    found = report.compare([plant(tmp_path / "a", {"elbo": a}), plant(tmp_path / "b", {"elbo": b})])
    first, second = found.columns[0].entries
    assert (first.value, first.difference, first.difference_stderr) == (pytest.approx(a.mean(), rel=1e-14), None, None)
    assert second.value == pytest.approx(b.mean(), rel=1e-14)
    assert second.stderr == pytest.approx(stats.sem(b), rel=1e-12)
    assert second.difference == pytest.approx((b - a).mean(), rel=1e-10)
    assert second.difference_stderr == pytest.approx(stats.sem(b - a), rel=1e-12)
    # the t statistic of scipy's paired test, and far from the unpaired one's
    ratio = second.difference / second.difference_stderr
    assert ratio == pytest.approx(stats.ttest_rel(b, a).statistic, rel=1e-10)
    assert abs(ratio) > 10 * abs(stats.ttest_ind(b, a).statistic)


@pytest.mark.parametrize("kept", [(True, False), (False, True), (False, False)])
def test_without_rows_errors_are_unpaired_and_the_reader_is_told(tmp_path, kept):
    a, b = noisy(0.0, seed=1), noisy(0.2, seed=2)
    runs = [plant(tmp_path / name, {"elbo": row}, kept=k) for name, row, k in zip("ab", (a, b), kept, strict=True)]
    found = report.compare(runs)
    second = found.columns[0].entries[1]
    assert not second.paired
    assert second.difference_stderr == pytest.approx(math.hypot(stats.sem(a), stats.sem(b)), rel=1e-12)
    assert found.columns[0].best is None
    without = " and ".join(name for name, k in zip("ab", kept, strict=True) if not k)
    assert f"No values of single rows are kept with {without}: " in found.notes[0]
    assert "unpaired" in found.markdown()


def test_rows_of_another_evaluation_are_not_believed(tmp_path):
    run = plant(tmp_path / "a", {"elbo": noisy(0.0)})
    other = plant(tmp_path / "b", {"elbo": noisy(1.0)})
    (run / "rows.npz").write_bytes((other / "rows.npz").read_bytes())
    assert Scores.read(other).rows["elbo"].tobytes() == noisy(1.0).tobytes()
    assert Scores.read(run).rows == {}
    (run / "rows.npz").write_bytes(b"PK no archive")
    with pytest.raises(RunError, match=r"rows\.npz: expected the values of every row, .*Evaluate the run again"):
        report.compare([run, other])


@pytest.mark.parametrize("factor, clear", [(0.95, False), (1.05, True)])
def test_best_is_ahead_by_more_than_twice_the_error(tmp_path, factor, clear):
    """The shift is just below or just above twice the paired error."""
    noise = np.random.default_rng(0).normal(size=N)
    noise -= noise.mean()
    shift = factor * CLEAR * noise.std(ddof=1) / math.sqrt(N)
    base = noisy(0.0, seed=1)
    runs = [plant(tmp_path / "a", {"elbo": base + noise + shift}), plant(tmp_path / "b", {"elbo": base})]
    for order, best in ((runs, 0), (runs[::-1], 1)):
        found = report.compare(order)
        assert found.columns[0].best == (best if clear else None)
        assert found.verdict == ("ELBO: a is ahead" if clear else "ELBO: no run is clearly ahead")
        assert ("**-" in found.markdown().partition("| run |")[2]) == clear


def test_best_must_beat_every_run_and_not_only_the_first(tmp_path):
    shifts = {"a": 0.0, "b": 5.0, "c": 5.001}
    runs = [plant(tmp_path / name, {"elbo": noisy(shift, seed=i)}) for i, (name, shift) in enumerate(shifts.items())]
    assert report.compare(runs).columns[0].best is None
    assert report.compare(runs[:2]).columns[0].best == 1


def test_equal_runs_have_no_best(tmp_path):
    runs = [plant(tmp_path / name, {"elbo": noisy(0.0)}) for name in "ab"]
    found = report.compare(runs).columns[0]
    assert (found.entries[1].difference, found.entries[1].difference_stderr, found.best) == (0.0, 0.0, None)


def test_a_single_row_has_no_error_and_no_best(tmp_path):
    runs = [plant(tmp_path / name, {"elbo": noisy(s, n=1)}, n_evaluated=1) for name, s in (("a", 0.0), ("b", 9.0))]
    found = report.compare(runs)
    assert (found.columns[0].entries[1].difference_stderr, found.columns[0].best) == (None, None)
    assert f"Only 1 of {N} rows were evaluated." in found.notes
    assert "+9.00" in found.markdown()


def test_what_is_no_bound_is_shown_and_never_ranked(tmp_path):
    rows = [
        {"quadrature": noisy(0.0, seed=1), "avb": noisy(0.0, seed=2)},
        {"quadrature": noisy(3.0), "avb": noisy(9.0)},
    ]
    found = report.compare([plant(tmp_path / name, row) for name, row in zip("ab", rows, strict=True)])
    exact, estimate = found.columns
    assert (exact.kind, exact.best, exact.ranked) == ("exact", 1, True)
    assert (estimate.kind, estimate.best, estimate.ranked) == ("no bound", None, False)
    assert all(entry.difference is None for entry in estimate.entries)
    assert found.verdict == "log p(x): b is ahead"
    assert "AVB estimate (no bound)" in found.markdown()
    assert "is no bound of log p(x) on these rows, and is not ranked" in found.markdown()


def test_measures_that_the_others_share_get_a_dash(tmp_path):
    both = {"elbo": noisy(0.0), "iwae-100": noisy(1.0)}
    runs = [
        plant(tmp_path / "a", {"elbo": noisy(0.5), "quadrature": noisy(2.0)}),
        plant(tmp_path / "b", both),
        plant(tmp_path / "c", both),
    ]
    found = report.compare(runs)
    assert [column.name for column in found.columns] == ["elbo", "iwae-100"]
    assert found.columns[1].entries[0] is None
    assert found.columns[1].entries[1].difference is None  # it is the first that has the measure
    assert found.columns[1].entries[2].difference == 0.0
    assert "log p(x) is left out: only a has it." in found.notes
    (line,) = [line for line in found.markdown().splitlines() if line.startswith("| a |")]
    assert line.endswith("| — |")
    assert "the difference to the first run that has the measure" in found.markdown()


def test_table_shows_the_planted_numbers(tmp_path):
    from rich.console import Console

    names = ("plain", "[red]brackets")
    runs = [
        plant(tmp_path / name, {"elbo": noisy(s, seed=i)})
        for i, (name, s) in enumerate(zip(names, (0, 2), strict=True))
    ]
    found = report.compare(runs)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(found.table())
    shown = capture.get()
    for entry in found.columns[0].entries:
        assert f"{entry.value:.1f} ± {entry.stderr:.1f}" in shown
    assert re.search(r"\+[\d.]+ ± 0\.0\d\d", shown)
    assert all(name in shown for name in (*names, "vae: VAE, 2 latents, ELBO", "lower bound", "digits, test rows"))


def test_settings_that_differ_are_told(tmp_path):
    rows = {"elbo": noisy(0.0)}
    runs = [
        plant(tmp_path / name, rows, config={"training": {"lr": lr, "epochs": 3}}) for name, lr in (("a", 1), ("b", 2))
    ]
    assert report.compare(runs).settings == {"lr": ("1", "2")}
    assert "| lr | 1 | 2 |" in report.compare(runs).markdown()


def test_other_training_rows_are_told(tmp_path):
    rows = {"elbo": noisy(0.0)}
    runs = [plant(tmp_path / name, rows, config={"data": {"sha256": name}}) for name in "ab"]
    assert "The runs were trained on different rows." in report.compare(runs).notes


# --- Refusals ---------------------------------------------------------------------------------------------------------

DIFFERENT = [
    (
        {"name": "mnist", "sha256": "cd" * 32},
        r"got set digits and mnist\. Evaluate both on one set: lowerbound evaluate",
    ),
    ({"split": "train", "sha256": "cd" * 32}, r"got split test and train\. .*--split test"),
    ({"binarize": "static"}, r"got binarisation dynamic and static\. Train both with one --binarize"),
    (
        {"binarize_seed": 3, "sha256": "cd" * 32},
        r"got seed of the binarisation 0 and 3\. Train both with one --data-seed",
    ),
    ({"n_evaluated": 50}, r"got number of rows 211 and 50\. Evaluate both with one --limit"),
    ({"sha256": "cd" * 32}, r"got hash of the rows abababab… and cdcdcdcd…\. Evaluate both on the same rows"),
    ({"log_p": "density"}, r"got kind of log p\(x\) probability and density\. Compare densities \(gaussian\) with"),
]


@pytest.mark.parametrize("data, message", DIFFERENT, ids=[next(iter(data)) for data, _ in DIFFERENT])
def test_other_rows_are_refused(tmp_path, data, message):
    n = data.get("n_evaluated", N)
    runs = [plant(tmp_path / "a", {"elbo": noisy(0.0)}), plant(tmp_path / "b", {"elbo": noisy(0.0, n=n)}, **data)]
    both = rf"{re.escape(str(runs[0]))} and {re.escape(str(runs[1]))}: expected runs that can be compared, "
    with pytest.raises(RunError, match=both + message) as caught:
        report.compare(runs)
    assert "\n" not in str(caught.value)


def test_a_third_run_on_other_rows_is_refused_too(tmp_path):
    rows = {"elbo": noisy(0.0)}
    runs = [plant(tmp_path / "a", rows), plant(tmp_path / "b", rows), plant(tmp_path / "c", rows, sha256="cd" * 32)]
    with pytest.raises(RunError, match=r"a and .*c: expected runs that can be compared"):
        report.compare(runs)


def test_seed_of_a_binarisation_without_draws_does_not_matter(tmp_path):
    runs = [plant(tmp_path / str(s), {"elbo": noisy(0.0)}, binarize="threshold", binarize_seed=s) for s in (0, 1)]
    assert report.compare(runs).names == ("0", "1")


def test_the_same_rows_under_another_name_are_the_same(tmp_path):
    runs = [plant(tmp_path / name, {"elbo": noisy(0.0)}, name=name) for name in "ab"]
    assert len(report.compare(runs).names) == 2


def test_rows_without_a_hash_are_refused(tmp_path):
    runs = [plant(tmp_path / name, {"elbo": noisy(0.0)}, sha256=None) for name in "ab"]
    with pytest.raises(RunError, match=r"rows with a hash that tells them apart, got none\. Let describe\(\)"):
        report.compare(runs)


def test_older_scores_do_not_say_what_their_log_p_is(tmp_path):
    runs = [plant(tmp_path / "a", {"elbo": noisy(0.0)}), plant(tmp_path / "b", {"elbo": noisy(0.0)}, log_p=None)]
    assert len(report.compare(runs).names) == 2


def test_runs_that_were_not_evaluated_are_named_with_their_commands(tmp_path):
    runs = [plant(tmp_path / name, {"elbo": noisy(0.0), "iwae-100": noisy(1.0)}) for name in ("a", "b c", "d")]
    for run in runs[1:]:
        (run / "scores.json").unlink()
    message = (
        r"b c, .*d: expected evaluated runs, got no scores\.json\. Evaluate first \(lowerbound evaluate '.*b c' "
        r"--measure elbo --measure iwae-100; lowerbound evaluate .*d --measure"
    )
    with pytest.raises(RunError, match=message):
        report.compare(runs)


def test_runs_that_were_trained_on_since_are_refused(tmp_path):
    weights = b"weights"
    rows, fresh = {"elbo": noisy(0.0)}, {"weights": weights, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    runs = [plant(tmp_path / "a", rows, **fresh), plant(tmp_path / "b", rows, **fresh)]
    assert len(report.compare(runs).names) == 2
    (runs[1] / "model.safetensors").write_bytes(b"later weights")
    with pytest.raises(
        RunError,
        match=r"b: expected scores of the weights that it holds, got those of earlier .*Evaluate it again \(low",
    ):
        report.compare(runs)


def test_no_measure_in_common(tmp_path):
    runs = [plant(tmp_path / "a", {"elbo": noisy(0.0)}), plant(tmp_path / "b", {"iwae-100": noisy(0.0)})]
    with pytest.raises(
        RunError, match=r"measures: expected at least one that all runs have, got .*a has elbo; .*b has iwae"
    ):
        report.compare(runs)


def test_runs_must_be_two_and_different(tmp_path):
    run = plant(tmp_path / "a", {"elbo": noisy(0.0)})
    with pytest.raises(ArgumentError, match=r"runs: expected two or more, got only .*a\. Name the runs"):
        report.compare([run])
    with pytest.raises(ArgumentError, match=r"runs: expected two or more, got none"):
        report.compare([])
    with pytest.raises(ArgumentError, match=r"runs: expected different run folders, got .*a twice"):
        report.compare([run, tmp_path / "." / "a"])
    with pytest.raises(RunError, match=r"nowhere: expected a run folder, got no such folder"):
        report.compare([run, tmp_path / "nowhere"])


# --- What is written --------------------------------------------------------------------------------------------------

LONG = ["the-first-run", *(f"runs-with-a-very-long-name-{'x' * 20}-{i}/vae-latents-{'9' * 12}" for i in range(6))]


def planted(tmp_path, count, measures=("elbo", "iwae-100", "quadrature", "avb")):
    return [
        plant(tmp_path / LONG[i], {name: noisy(0.1 * i + j, seed=10 * i + j) for j, name in enumerate(measures)})
        for i in range(count)
    ]


def test_files_of_a_comparison(tmp_path):
    runs = planted(tmp_path / "runs", 2, ["elbo"])
    found = report.compare(runs, out=tmp_path / "out")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(files) == {"comparison.md", "comparison.html", "comparison.png"}
    assert files["comparison.png"] == style.png(found.figure())
    assert b"(comparison.png)" in files["comparison.md"]
    page = files["comparison.html"].decode()
    assert found.verdict in page
    assert not re.search(r"https?://|<script", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    for suffix in (".md", ".png"):
        report.compare(runs, out=tmp_path / f"one{suffix}")
        assert (tmp_path / f"one{suffix}").stat().st_size > 500
    assert "png" not in (tmp_path / "one.md").read_text()
    with pytest.raises(ArgumentError, match=r"out: expected \.md, \.html, \.png, got '\.csv'\. Name a folder"):
        report.compare(runs, out=tmp_path / "out.csv")


def test_names_are_escaped_in_the_page(tmp_path):
    nasty = "<script>x"
    report.compare([plant(tmp_path / name, {"elbo": noisy(0.0)}) for name in (nasty, "b")], out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;x" in page


@pytest.mark.parametrize("count", [2, 3, 7])
def test_no_two_texts_of_the_figure_touch(tmp_path, count):
    from matplotlib.text import Text

    figure = report.compare(planted(tmp_path, count)).figure()
    renderer = figure.canvas.get_renderer()
    shown = [
        text
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and text.axes is not None
    ]
    legend = figure.legends[0].get_window_extent(renderer)
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown]
    for i, (one, box) in enumerate(boxes):
        assert not box.overlaps(legend), one
        for other, second in boxes[:i]:
            assert not box.overlaps(second), (one, other)
    assert len(figure.axes) == 8


def test_figure_shows_values_and_errors(tmp_path):
    found = report.compare(planted(tmp_path, 3))
    figure = found.figure()
    bound, estimate = found.columns[0], found.columns[-1]
    value, difference = figure.axes[:2]
    assert (value.get_title(loc="left"), value.get_xlabel()) == ("ELBO, lower bound", "nats per row")
    assert shown(value) == [(pytest.approx(e.value), pytest.approx(e.stderr)) for e in bound.entries]
    assert shown(difference) == [(0.0, None)] + [
        (pytest.approx(e.difference), pytest.approx(e.difference_stderr)) for e in bound.entries[1:]
    ]
    assert shown(figure.axes[-2]) == [(pytest.approx(e.value), pytest.approx(e.stderr)) for e in estimate.entries]
    assert not figure.axes[-1].axison
    assert all(line.get_markerfacecolor() == "white" for line in figure.axes[-2].containers[0].lines[:1])


def shown(axes):
    """Return the points and the half-widths of their bars."""
    found = []
    for container in axes.containers:
        point, _, bars = container.lines
        half = np.ptp(bars[0].get_segments()[0][:, 0]) / 2 if bars else None
        found.append((point.get_xdata()[0], half))
    return found
