"""The page: one whole file that needs nothing else, says what the folder says, and lets no name break out."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import lowerbound.report as report
from lowerbound.core.errors import RunError
from lowerbound.evaluation import Gallery, Scores

HASH = "c0ffee" * 10 + "beef"
NASTY = "<script>alert('x')</script> & \"q\" $z$ [b]"


def make_run(folder, *, epochs=3, name="digits", command=("lowerbound", "train", "vae", "--out", "runs/a b")):
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "recipe": "vae",
        "objective": {"class": "ELBO", "particles": 1, "model": {"class": "VAE", "arguments": {"latent_dim": 2}}},
        "data": {"name": name, "source": "digits", "split": "train", "n": 1000, "sha256": HASH},
        "validation": None,
        "training": {"epochs": epochs, "lr": 0.001},
        "versions": {"lowerbound": "0.1.0", "torch": "2.13.0"},
    }
    if command:
        config["command"] = list(command)
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        {
            "epoch": e, "step": 10 * e, "seconds": 30.0, "lr": 0.001, "kl_weight": 1.0, "rows_per_second": 25_000.0,
            "train": {"elbo": -100.0 / e, "reconstruction": -90.0 / e, "kl": 10.0 / e},
        }
        for e in range(1, epochs + 1)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def make_scores(*, name="digits", label="zero") -> Scores:
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.uniform(size=shape).astype(np.float32)

    gallery = Gallery(
        samples=draw(64, 4, 4),
        inputs=draw(16, 4, 4),
        reconstructions=draw(16, 4, 4),
        latents=draw(50, 2),
        labels=rng.integers(0, 2, 50),
        label_names=(label, "one"),
        manifold=draw(20, 20, 4, 4),
        grid=draw(20),
        unit_kl=draw(2),
        draws=draw(50, 2),
    )
    measure = {
        "value": -25.5, "stderr": 0.25, "n": 50, "particles": 1, "kind": "lower bound", "unit": "nats",
        "reconstruction": -20.0, "kl": 5.5,
    }  # fmt: skip
    data = {"name": name, "source": "digits", "split": "test", "n": 50, "n_evaluated": 50, "evaluation_seed": 0,
            "binarize": "dynamic", "binarize_seed": 7, "sha256": HASH[::-1]}  # fmt: skip
    latents = {"active_units": 2, "latent_dim": 2, "threshold": 0.01, "unit_variance": [1, 1], "unit_kl": [1.0, 2.0],
               "collapsed_units": 0, "aggregate": {"rows": 50, **{name: {"value": value, "stderr": 0.1} for name, value
               in (("kl", 3.0), ("mutual_information", 2.9), ("marginal_kl", 0.1))}}}  # fmt: skip
    return Scores({"elbo": measure}, data, latents, gallery=gallery)


class Reader(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        given = dict(attrs)
        self.links += [given[key] for key in ("src", "href", "srcset", "action", "data") if key in given]
        if tag == "img":
            self.images.append(given)
        if tag not in ("img", "meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())  # no-break spaces become spaces too


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def test_page_is_self_contained_and_well_formed(run):
    path = report.write(run, make_scores())
    assert path == run / "report.html"
    page = path.read_text()
    reader = Reader(page)
    assert reader.open == []
    assert not re.search(r"https?://|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert "script" not in reader.tags
    assert all(link.startswith("data:") for link in reader.links)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_pictures_in_the_page_are_the_files_in_the_folder(run):
    reader = Reader(report.write(run, make_scores()).read_text())
    files = {path.read_bytes() for path in (run / "figures").glob("*.png")}
    shown = {base64.b64decode(image["src"].split(",", 1)[1]) for image in reader.images}
    assert shown == files
    assert {path.stem for path in (run / "figures").iterdir()} == {
        "training_curves", "ladder", "samples", "reconstructions", "latent_scatter", "manifold", "unit_kl",
        "aggregated_posterior",
    }  # fmt: skip
    assert all(image["alt"] for image in reader.images)
    for image in reader.images:
        width, height = Image.open(BytesIO(base64.b64decode(image["src"].split(",", 1)[1]))).size
        assert int(image["width"]) / int(image["height"]) == pytest.approx(width / height, rel=0.01)


def test_page_says_what_the_folder_says(run):
    text = Reader(report.write(run, make_scores()).read_text()).text
    for expected in (
        "2 of 2 latents used, and nothing stands out Test ELBO −25.50 ± 0.25 nats; 2 of 2 latent units active",
        "I(x; z) 2.90 ± 0.10 nats",
        "collapsed 0 of 2 units",
        "training: ELBO training rows, last epoch What the training raised",
        "seeds evaluation 0",
        "on average never above log p(x)",
        "On digits, test rows, dynamic binarisation (seed 7).",
        "VAE latent_dim 2",
        "time 1 min 30 s",
        "speed 25,000 rows/s",
        "lowerbound train vae --out 'runs/a b'",
        "lowerbound 0.1.0, torch 2.13.0",
        HASH,
        HASH[::-1],
    ):
        assert expected in text


def test_evaluate_command_repeats_the_evaluation(run):
    scores = make_scores()
    scores.data.update(source="other.npy", split="validation", n=80, evaluation_seed=3)
    text = Reader(report.write(run, scores).read_text()).text
    options = "--measure elbo --data other.npy --split validation --limit 50 --seed 3"
    assert f"lowerbound evaluate {shlex.quote(str(run))} {options}" in text


def test_evaluate_commands_repeat_the_annealing(run):
    scores = make_scores()
    for name, temperatures in (("ais", 60), ("bdmc", 500)):
        scores.measures[name] = {**scores.measures["elbo"], "chains": 2, "temperatures": temperatures}
    text = Reader(report.write(run, scores).read_text()).text
    assert "--measure elbo --measure ais --chains 2 --temperatures 60" in text
    assert "--measure bdmc --chains 2 --temperatures 500" in text


def test_scores_of_earlier_weights_are_said(run):
    scores = make_scores()
    (run / "model.safetensors").write_bytes(b"weights")
    scores.data["weights_sha256"] = hashlib.sha256(b"weights").hexdigest()
    assert "earlier weights" not in report.write(run, scores).read_text()
    (run / "model.safetensors").write_bytes(b"weights of later")
    assert "The scores are of earlier weights than the run&#x27;s present ones" in report.write(run).read_text()


def test_scores_that_are_passed_are_kept_and_found_again(run):
    first = report.write(run, make_scores()).read_bytes()
    assert Scores.read(run).measures["elbo"]["value"] == -25.5
    assert report.write(run).read_bytes() == first


def test_report_is_deterministic(run, tmp_path):
    other = make_run(tmp_path / "elsewhere" / "run")
    first = report.write(run, make_scores()).read_text()
    second = report.write(other, make_scores()).read_text()
    assert first.replace(str(run), str(other)) == second


def test_before_evaluation_the_page_shows_training_and_the_command(run):
    reader = Reader(report.write(run).read_text())
    assert len(reader.images) == 1
    assert "Train ELBO −33.33 nats at epoch 3; not evaluated yet" in reader.text
    assert f"lowerbound evaluate {run} --measure elbo --measure iwae-1000" in reader.text
    assert not (run / "scores.json").exists()


def test_run_from_python_has_no_command(tmp_path):
    run = make_run(tmp_path / "run", command=None)
    assert "started from Python" in Reader(report.write(run).read_text()).text


def test_every_name_is_escaped(tmp_path):
    run = make_run(tmp_path / "a <b> & c", name=NASTY, command=["train", NASTY])
    scores = make_scores(name=NASTY, label=NASTY)
    scores.measures[NASTY] = {"value": 1.0, "stderr": 0.1, "n": 50, "kind": NASTY}
    page = report.write(run, scores).read_text()
    reader = Reader(page)
    assert "<script" not in page.lower()
    assert "<b> &" not in page
    assert reader.text.count(" ".join(NASTY.split())) >= 3
    assert "Report of the run a <b> & c" in reader.text


def test_gallery_without_latents_or_manifold_gives_the_figures_it_can(run):
    rows = np.zeros((16, 5), dtype=np.float32)
    full = make_scores()
    report.write(run, Scores(full.measures, full.data, {}, gallery=Gallery(samples=rows, inputs=rows)))
    assert {path.stem for path in (run / "figures").iterdir()} == {"training_curves", "ladder", "samples"}


def test_missing_folder(tmp_path):
    with pytest.raises(RunError, match=r"nothing: expected a run folder, got no such folder\. Check the path"):
        report.write(tmp_path / "nothing")


def test_folder_of_something_else(tmp_path):
    with pytest.raises(RunError, match=r"got a folder without config\.json"):
        report.write(tmp_path)
    for foreign in ("[1, 2]", '{"name": "an npm package"}'):
        (tmp_path / "config.json").write_text(foreign)
        with pytest.raises(RunError, match=r"got a config\.json of another program"):
            report.write(tmp_path)


def test_damaged_config(run):
    (run / "config.json").write_text('{"model": ')
    with pytest.raises(RunError, match=r"config\.json: expected a JSON document"):
        report.write(run)


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_no_finished_epoch(run, content):
    (run / "metrics.jsonl").unlink()
    if content is not None:
        (run / "metrics.jsonl").write_text(content)
    with pytest.raises(RunError, match=r"metrics\.jsonl: expected a finished epoch, got none\. Train for at least one"):
        report.write(run)


@pytest.mark.parametrize(
    "line",
    [
        '{"epoch": 3, "train": {"el',
        "[]",
        '{"epoch": 3}',
        '{"epoch": "three", "train": {"elbo": 1.0}}',
        '{"epoch": 3, "train": {}}',
        '{"epoch": 3, "train": {"elbo": "high"}}',
        '{"epoch": 3, "train": {"elbo": 1.0}, "validation": 5}',
        "\x00\x01",
    ],
)
def test_damaged_line_is_named(run, line):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line]))
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 3: expected a JSON object .* delete it"):
        report.write(run)


def test_a_failed_report_leaves_the_old_one(run):
    path = report.write(run)
    before = path.read_bytes()
    (run / "metrics.jsonl").write_text("broken\n")
    with pytest.raises(RunError, match="line 1"):
        report.write(run)
    assert path.read_bytes() == before
    assert not list(run.glob(".*part"))
