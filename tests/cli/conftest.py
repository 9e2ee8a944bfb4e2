"""The program, run within the tests' own process."""

from __future__ import annotations

import sys

import pytest

from lowerbound.cli import main


@pytest.fixture
def lowerbound(monkeypatch, capsys):
    """Run the program within this process; return its exit status, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lowerbound", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run
