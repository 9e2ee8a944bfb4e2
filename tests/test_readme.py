"""Everything that the README tells a reader to run, run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def blocks(language: str) -> list[str]:
    found = [code for kind, code in BLOCKS if kind == language]
    assert found, f"the README has no {language} block"
    return found


def test_python_blocks_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), namespace)
    assert (tmp_path / "runs/iwae/report.html").stat().st_size > 10_000
    scores = namespace["scores"].measures  # type: ignore[attr-defined]
    assert -30 < scores["elbo"]["value"] < scores["iwae-1000"]["value"] < -15
    assert namespace["images"].shape == (100, 64)  # type: ignore[attr-defined]
    printed = capsys.readouterr().out
    assert "value of node 'x': expected shape (3, 64), got (5, 64)" in printed


def test_shell_block_runs(tmp_path: Path) -> None:
    (script,) = blocks("sh")
    environment = {**os.environ, "COLUMNS": "100"}
    for line in script.strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "lowerbound"
        command = [sys.executable, "-m", "lowerbound", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "runs/vae/report.html").exists()
    assert len((tmp_path / "latents.csv").read_text().splitlines()) == 360  # 359 test rows and the header
    assert (tmp_path / "samples.png").exists()


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", "".join(blocks(""))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
