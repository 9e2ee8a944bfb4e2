"""A table of mixed types, from its schema to scores, as it is typed."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from lowerbound.scoring import p_values


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


SMALL = ["--hidden", "8", "--latent-dim", "2", "--epochs", "2", "--quiet"]


@pytest.fixture
def people(tmp_path):
    random = np.random.default_rng(0)
    with (tmp_path / "people.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "age", "city", "visits", "stage"])
        for i in range(80):
            city = random.choice(["Oslo", "Rome", "Bonn", ""])
            writer.writerow([f"p{i}", round(random.normal(40, 9), 2), city, random.integers(0, 6), "lmh"[i % 3]])
    (tmp_path / "s.toml").write_text('id = "skip"\nstage = {type = "ordinal", levels = ["l", "m", "h"]}\n')
    return tmp_path / "people.csv", tmp_path / "s.toml"


def test_a_mixed_table_goes_all_the_way(lowerbound, people, tmp_path):
    table, schema = people
    run = tmp_path / "run"
    train = ["train", "vae", "--data", table, "--schema", schema, "--missing", "--out", run, *SMALL]
    status, out, error = lowerbound(*train)
    assert status == 0, error
    assert "stage   ordinal      l, m, h" in out
    before = read(table)
    assert lowerbound("impute", run, table, "--out", tmp_path / "filled.csv", "--particles", 20)[0] == 0
    filled = read(tmp_path / "filled.csv")
    assert list(filled[0]) == ["age", "city", "visits", "stage"]
    for old, new in zip(before, filled, strict=True):
        assert float(old["age"]) == float(new["age"])
        assert (old["visits"], old["stage"]) == (new["visits"], new["stage"])
        assert new["city"] == old["city"] or (old["city"] == "" and new["city"] in {"Oslo", "Rome", "Bonn"})
    for option in (["--draws", -1, "--out", tmp_path / "x.npz"], ["--draws", 3, "--out", tmp_path / "d.npz"]):
        status, _, error = lowerbound("impute", run, table, "--particles", 20, *option)
        assert (status == 2) == ("draws: expected an integer of 0 or more, got -1" in error) == (option[1] < 0)
    with np.load(tmp_path / "d.npz") as archive:
        assert archive["draws"].shape == (3, *archive["data"].shape)
    assert not (tmp_path / "x.npz").exists()
    assert lowerbound("sample", run, "-n", 5, "--out", tmp_path / "new.csv")[0] == 0
    assert all(row["visits"].isdigit() and row["stage"] in "lmh" for row in read(tmp_path / "new.csv"))
    assert lowerbound("reconstruct", run, table, "--out", tmp_path / "r.parquet")[0] == 0
    status, _, err = lowerbound("sample", run, "--out", tmp_path / "new.png")
    assert (status, err.count("'.png'")) == (2, 1)  # rows of a table are no pictures
    assert lowerbound("encode", run, table, "--out", tmp_path / "e.csv")[0] == 0
    status, out, _ = lowerbound("score", run, table, "--out", tmp_path / "scores.csv", "--particles", 5)
    assert status == 0
    assert "ranks among the 8 rows of the test split" in out
    scores = read(tmp_path / "scores.csv")
    assert [int(row["row"]) for row in scores] == list(range(80))
    assert all(0 < float(row["p_value"]) <= 1 and float(row["log_likelihood"]) < 0 for row in scores)


def test_a_schema_is_shown_and_written(lowerbound, people, tmp_path):
    table, schema = people
    status, out, _ = lowerbound("data", table, "--schema", schema, "--write-schema", tmp_path / "w.toml")
    assert status == 0
    assert "visits  counts" in out
    assert '"stage" = {type = "ordinal", levels = ["l", "m", "h"]}' in (tmp_path / "w.toml").read_text()


@pytest.mark.parametrize(
    "arguments, match",
    [
        (["hvae"], "mixed columns: expected a VAE"),
        (["vae", "--prior", "vamp"], "mixed columns: expected a VAE"),
        (["vae", "--likelihood", "gaussian"], "likelihood: expected one that fits the data"),
    ],
)
def test_what_takes_no_mixed_columns_says_so(lowerbound, people, tmp_path, arguments, match):
    table, schema = people
    more = ["--data", table, "--schema", schema, "--missing", "--quiet", "--out", tmp_path / "run"]
    status, _, error = lowerbound("train", *arguments, *more)
    assert status == 2
    assert match in error
    assert not (tmp_path / "run").exists()


def test_images_are_scored_too(lowerbound, tmp_path):
    run = tmp_path / "run"
    assert lowerbound("train", "vae", "--data", "digits", "--out", run, *SMALL)[0] == 0
    assert lowerbound("score", run, "digits", "--out", tmp_path / "s.csv", "--particles", 2)[0] == 0
    scores = [float(row["p_value"]) for row in read(tmp_path / "s.csv")]
    np.testing.assert_allclose(sorted(scores), (1 + np.arange(1, 360)) / 360)  # ranks of the test rows among themselves


def test_p_values_of_the_same_distribution_are_no_smaller_than_they_say():
    random = np.random.default_rng(0)
    rates = [(p_values(random.normal(size=50), random.normal(size=19)) <= 0.1).mean() for _ in range(400)]
    assert np.mean(rates) < 0.1 + 5 * np.std(rates) / 20
    assert np.mean(rates) > 0.1 - 5 * np.std(rates) / 20  # exact, since 0.1 is a multiple of 1/20


def test_a_table_of_numbers_keeps_the_names_of_its_columns(lowerbound, tmp_path):
    lines = ['size,"weight, in kg",label', *(f"{i / 7},{i % 5},{'ab'[i % 2]}" for i in range(40))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    train = ["train", "vae", "--data", tmp_path / "t.csv", "--hidden", 8, "--epochs", 1, "--quiet"]
    assert lowerbound(*train, "--out", tmp_path / "run")[0] == 0
    for command in (["sample", tmp_path / "run", "-n", 3], ["reconstruct", tmp_path / "run", tmp_path / "t.csv"]):
        code, _, err = lowerbound(*command, "--out", tmp_path / "out.csv")
        assert (code, err) == (0, "")
        assert (tmp_path / "out.csv").read_text().splitlines()[0] == 'size,"weight, in kg"'
