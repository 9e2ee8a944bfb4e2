"""What the how-to page of the explorer tells a reader to run, runs."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from lowerbound.cli import main

uvicorn = pytest.importorskip("uvicorn", reason="the extra `explorer` is not installed")
PAGE = Path(__file__).parents[2] / "docs/how-to/explorer.md"


def test_the_page_runs_in_order(tmp_path, monkeypatch, capsys):
    served = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: served.append(sockets))
    monkeypatch.setattr("webbrowser.open", lambda address: True)
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    install, *lines = block.strip().splitlines()
    assert install == "pip install 'lowerbound[explorer]'"
    for line in lines:
        arguments = re.sub(r"--epochs \d+", "--epochs 1", line).replace("explore ", "explore --port 0 ")
        monkeypatch.setattr(sys, "argv", shlex.split(arguments))
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, capsys.readouterr().err
    assert len(served) == 1
    assert "explore: http://127.0.0.1:" in capsys.readouterr().out


def test_its_picture_is_there_and_small():
    (picture,) = re.findall(r"\]\((.*?\.png)\)", PAGE.read_text())
    assert (PAGE.parent / picture).stat().st_size < 200_000
