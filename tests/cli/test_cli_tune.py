"""The search for settings, as it is typed."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("optuna", reason="the extra `tune` is not installed")


def test_trials_are_run_folders(lowerbound, tmp_path):
    command = ["tune", "vae", "--hidden", "8,8", "--epochs", 1, "--trials", 2, "--search", "lr=1e-3:1e-2:log"]
    code, out, err = lowerbound(*command, "--out", tmp_path / "s", "--json", "--device", "cpu")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [trial["number"] for trial in found["trials"]] == [0, 1]
    assert (found["measure"], found["unit"]) == ("elbo", "nats")
    history = [json.loads(line) for line in (tmp_path / "s/trials/0001/metrics.jsonl").read_text().splitlines()]
    assert found["trials"][1]["bound"] == history[0]["validation"]["elbo"]
    code, out, err = lowerbound(*command, "--out", tmp_path / "s", "--device", "cpu")
    assert code == 0
    assert "elbo, nats a row" in out
    assert "best: lr " in out
