"""The program in several processes, and two programs at one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lowerbound.core.files import locked, unlock

QUICK = ("train", "vae", "--data", "four-points", "--epochs", 1, "--hidden", 8, "--latent-dim", 2, "--quiet", "--out")


def test_a_folder_in_use_is_refused(lowerbound, tmp_path):
    lock = locked(tmp_path / "run")
    try:
        for more in ([], ["--resume"]):
            status, _, error = lowerbound(*QUICK, tmp_path / "run", *more)
            assert status == 2
            assert "run: expected a folder that no other process writes, got one in use. Wait until" in error
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    finally:
        unlock(lock)
    assert lowerbound(*QUICK, tmp_path / "run")[0] == 0


def test_microbatches_are_an_option(lowerbound, tmp_path):
    assert lowerbound(*QUICK, tmp_path / "run", "--microbatches", 3)[0] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["microbatches"] == 3
    assert lowerbound(*QUICK, tmp_path / "run", "--resume")[0] == 0
    status, _, error = lowerbound(*QUICK, tmp_path / "other", "--microbatches", 129)
    assert status == 2
    assert "microbatches: expected at most the 128 rows of a step, got 129" in error


ONCE = {
    "a usage error": (("train", "vae", "--epochs", "x", "--out", "run"), "Invalid value for '--epochs'"),
    "an unknown recipe": (("train", "vea", "--out", "run"), "recipe: expected one of the known names, got 'vea'"),
    "one process's command": (("report", "run"), "lowerbound report: expected one process, got 2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments, message", ONCE.values(), ids=ONCE)
def test_a_mistake_is_said_once_by_two_processes_and_their_successors(arguments, message, tmp_path):
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    run = [*start, "-m", "lowerbound", *arguments]
    ended = subprocess.run(run, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode != 0
    said = 2 if "Invalid" in message else 1  # what the parser refuses, it refuses at each attempt
    assert (ended.stdout + ended.stderr).count(message) == said
    assert "cli/main.py" not in ended.stderr  # no traceback of this program's
