"""Everything that the how-to page of tables tells a reader to run, runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/how-to/your-own-table.md"


@pytest.mark.filterwarnings("ignore:column 'id' is skipped")
def test_the_page_runs_in_order(lowerbound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for kind, code in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if kind == "python":
            exec(compile(code, PAGE.name, "exec"), names)
            continue
        for line in code.strip().splitlines():
            program, *arguments = shlex.split(line)
            assert program == "lowerbound"
            status, _, error = lowerbound(*arguments)
            assert status == 0, f"{line}\n{error}"
    assert len(Path("filled.csv").read_text().splitlines()) == 201
    assert names["scores"].held_out == 20  # type: ignore[attr-defined]
