"""The arrows of the design: who may import whom. `ALLOWED` is their one source, and no other arrow may exist."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "lowerbound"

# A part is a folder or a module beside them; it may import itself and the parts listed, at any place in its files.
ALLOWED = {
    "core": set(),
    "data": {"core"},
    "distributions": {"core"},
    "net": {"core", "distributions"},
    "nn": {"core", "distributions"},
    "models": {"core", "net", "nn", "distributions"},
    "objectives": {"core", "net", "distributions"},
    "mcmc": {"core"},
    "training": {"core", "objectives"},
    "evaluation": {"core", "objectives", "mcmc", "net", "distributions"},
    "report": {"core", "evaluation"},
    "recipes": {
        *("core", "data", "distributions", "net", "nn", "models"),
        *("objectives", "mcmc", "training", "evaluation", "report"),
    },
    "runs": {"core", "data", "nn", "models", "objectives", "training", "evaluation"},
    "scoring": {"core", "runs", "evaluation"},
    "export": {"core", "distributions", "runs", "evaluation", "training"},
    "tuning": {"core", "models", "objectives", "training", "recipes"},
    "explorer": {"core", "data", "runs", "report"},
    "sklearn": {"core", "data", "nn", "objectives", "training", "evaluation", "recipes"},  # rows come from memory
    "cli": {"core", "nn", "training", "recipes", "runs", "scoring", "export", "tuning", "report", "data", "explorer"},
    "__main__": {"cli"},  # python -m lowerbound
}

# Who may write `from lowerbound import part`; for all others the root, which knows everything, is out of bounds.
THROUGH_ROOT = {"cli", "export", "recipes", "runs", "scoring", "tuning"}


def imports(tree: ast.Module, package: str, *, through_root: bool) -> Iterator[tuple[int, str]]:
    """Yield line and module of every import, wherever it stands; relative ones are resolved within `package`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from ((node.lineno, alias.name) for alias in node.names)
            case ast.ImportFrom():
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                parts = [f"{base}.{alias.name}" for alias in node.names]
                yield from ((node.lineno, name) for name in (parts if through_root and base == PACKAGE else [base]))
            case ast.Call(ast.Name("import_module" | "__import__"), [ast.Constant(str(name)), *_]) | ast.Call(
                ast.Attribute(_, "import_module"), [ast.Constant(str(name)), *_]
            ):
                yield node.lineno, importlib.util.resolve_name(name, package)


def forbidden(root: Path) -> list[str]:
    """Return a message for every import in the package at `root` that the table does not allow."""
    messages = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if place == Path("__init__.py"):
            continue  # the public API: it may import anything
        part = place.with_suffix("").parts[0]
        allowed = ALLOWED.get(part)
        if allowed is None:
            messages.append(f"{place}: {part} has no row in the table")
            continue
        package = ".".join((PACKAGE, *place.parts[:-1]))
        tree = ast.parse(path.read_text())
        for line, name in sorted(imports(tree, package, through_root=part in THROUGH_ROOT)):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0] or "the package root"
            if top == PACKAGE and target not in allowed | {part}:
                choice = ", ".join(sorted(allowed)) or "no other part"
                messages.append(f"{place}:{line}: {part} -> {target} ({name}); {part} may import {choice}")
    return messages


def test_every_import_is_in_the_table() -> None:
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    assert (root / "core" / "errors.py").is_file()
    assert not (found := forbidden(root)), "\n".join(found)


def test_table_has_no_cycle() -> None:
    order = list(TopologicalSorter(ALLOWED).static_order())
    assert order[0] == "core"
    assert set(order) == set(ALLOWED)


PLANTS = {
    "top level": ("data/idx.py", "import os\nfrom lowerbound.models.vae import VAE", "data/idx.py:2: data -> models"),
    "plain": ("core/checks.py", "import lowerbound.data.idx", "core/checks.py:1: core -> data"),
    "in a function": ("core/files.py", "def f():\n    from lowerbound.net import x", "core/files.py:2: core -> net"),
    "for types only": ("training/fit.py", "if TYPE_CHECKING:\n    import lowerbound.nn", "fit.py:2: training -> nn"),
    "the root": ("mcmc/hmc.py", "import lowerbound as lb", "mcmc/hmc.py:1: mcmc -> the package root"),
    "through the root": ("net/trace.py", "from lowerbound import data", "net/trace.py:1: net -> the package root"),
    "an allowed part through the root": ("mcmc/hmc.py", "from lowerbound import core", "mcmc -> the package root"),
    "a forbidden part through the root": ("cli/look.py", "from lowerbound import report, net", "1: cli -> net"),
    "no part through the root": ("cli/look.py", "from lowerbound import fit", "look.py:1: cli -> fit"),
    "the root, from the top": ("recipes.py", "import lowerbound", "recipes.py:1: recipes -> the package root"),
    "relative": ("objectives/elbo.py", "from ..models import vae", "objectives/elbo.py:1: objectives -> models"),
    "relative in an __init__": ("nn/__init__.py", "from ..net import trace", "nn/__init__.py:1: nn -> net"),
    "relative root": ("nn/heads.py", "from .. import net", "nn/heads.py:1: nn -> the package root"),
    "relative root beside the folders": ("sklearn.py", "from . import data", "sklearn -> the package root"),
    "relative beside the folders": ("sklearn.py", "from .mcmc import hmc", "sklearn.py:1: sklearn -> mcmc"),
    "by function": ("report/html.py", "importlib.import_module('lowerbound.cli')", "html.py:1: report -> cli"),
    "by function, relative": ("report/html.py", "import_module('..cli', __package__)", "html.py:1: report -> cli"),
    "unknown part": ("helpers/misc.py", "", "helpers/misc.py: helpers has no row in the table"),
}


@pytest.mark.parametrize("file, source, message", PLANTS.values(), ids=PLANTS)
def test_planted_import_is_found(tmp_path: Path, file: str, source: str, message: str) -> None:
    write(tmp_path, file, source)
    (found,) = forbidden(tmp_path)
    assert message in found


@pytest.mark.parametrize(
    "file, source",
    [
        ("__init__.py", "from lowerbound import data\nfrom lowerbound.cli import main"),
        ("net/trace.py", "import lowerboundary\nfrom lowerbound.core import checks\nfrom . import bayesian_net"),
        ("recipes.py", "from lowerbound import data as sources\nfrom .report import write"),
        ("cli/train.py", "from lowerbound import recipes\nfrom ..report import tables\nfrom .main import app"),
    ],
)
def test_allowed_import_is_left_alone(tmp_path: Path, file: str, source: str) -> None:
    write(tmp_path, file, source)
    assert forbidden(tmp_path) == []


def write(root: Path, file: str, source: str) -> None:
    path = root / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
