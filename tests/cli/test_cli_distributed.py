"""The program in several processes, and two programs at one folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lowerbound.core.files import locked, unlock

PAGE = Path(__file__).parents[2] / "docs/how-to/several-machines.md"
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
    "one process's command": (("report", "run"), "lowerbound report: expected one process, got several"),
}


def torchrun(arguments, folder):
    """Run torchrun in a folder."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "torch.distributed.run", *arguments]
    return subprocess.run(run, env=environment, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("arguments, message", ONCE.values(), ids=ONCE)
def test_a_mistake_is_said_once_by_two_processes_and_their_successors(arguments, message, tmp_path):
    start = ["--nproc-per-node", "2", "--max-restarts", "1", "-m", "lowerbound"]
    ended = torchrun([*start, *arguments], tmp_path)
    assert ended.returncode != 0
    said = 2 if "Invalid" in message else 1  # what the parser refuses, it refuses at each attempt
    assert (ended.stdout + ended.stderr).count(message) == said
    assert "cli/main.py" not in ended.stderr  # no traceback of this program's


def commands():
    """Yield the commands and the Python of the how-to page in their order; what needs a cluster is left out."""
    for kind, code in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if kind == "sh":
            yield from (("sh", shlex.split(line)) for line in code.strip().splitlines())
        elif kind == "python":
            yield kind, code


def test_the_page_runs_in_one_process(lowerbound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, code in commands():
        if kind == "python":
            exec(compile(code, PAGE.name, "exec"), {})
            continue
        status, _, error = lowerbound(*code[code.index("lowerbound") + 1 :])
        assert status == 0, f"{code}\n{error}"
    assert Path("runs/script/report.html").exists()


@pytest.mark.slow
def test_the_page_runs_in_two_processes_and_equal_is_equal(lowerbound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, code in commands():
        if kind == "python":
            Path("script.py").write_text(code)
            code = ["torchrun", "--nproc-per-node", "2", "script.py"]
        if code[0] == "torchrun":
            ended = torchrun(code[1:], tmp_path)
            assert ended.returncode == 0, ended.stderr
        else:
            assert lowerbound(*code[1:])[0] == 0
    one, two = (
        [json.loads(line) for line in Path(f"runs/{name}/metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    for mine, theirs in zip(one, two, strict=True):
        assert mine["train"] == pytest.approx(theirs["train"], abs=1e-4)
        assert mine["validation"] == pytest.approx(theirs["validation"], abs=1e-4)
    assert json.loads(Path("runs/two/scores.json").read_text())["measures"]["iwae-100"]["n"] == 359
    assert Path("runs/script/report.html").exists()
