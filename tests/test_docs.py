"""Every page of the documentation runs from its first block to its last."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from lowerbound.cli import main

DOCS = Path(__file__).parents[1] / "docs"
ELSEWHERE = {  # pages with tests of their own
    *("your-own-table.md", "images.md", "export.md", "experiments.md"),
    *("explorer.md", "several-machines.md"),
}
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.name not in ELSEWHERE)
WITH_CODE = [page for page in PAGES if re.search(r"^```(python|sh)$", page.read_text(), re.MULTILINE)]


@pytest.mark.filterwarnings("ignore::lowerbound.core.errors.TrainingWarning")
@pytest.mark.filterwarnings("ignore::lowerbound.core.errors.SamplingWarning")
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_runs_in_order(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for kind, code in re.findall(r"^```(python|sh)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        if kind == "python":
            exec(compile(code, str(page), "exec"), names)
            continue
        for line in code.replace("\\\n", " ").strip().splitlines():
            monkeypatch.setattr(sys, "argv", shlex.split(line))
            with pytest.raises(SystemExit) as end:
                main()
            assert not end.value.code, f"{line}\n{capsys.readouterr().err}"


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http|#)([^)#\s]+)", page.read_text()):
            made = Path(target).name in ("results.md", "changelog.md") or "api/" in target
            assert made or (page.parent / target).exists(), f"{page.name}: {target}"
