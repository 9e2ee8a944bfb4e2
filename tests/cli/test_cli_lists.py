"""The list of commands, what is imported for it, completion, the doctor, and tables as JSON."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib import import_module

import pytest
import torch

import lowerbound as lb
from lowerbound import recipes, runs
from lowerbound.cli.commands import COMMANDS
from lowerbound.cli.main import app
from lowerbound.cli.options import show


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=environment or None
    )
    return done.stdout


# --- What is imported -------------------------------------------------------------------------------------------------

SEEN = "import sys; print([name for name in ('torch', 'numpy', 'sklearn', 'matplotlib') if name in sys.modules])"


@pytest.mark.parametrize(
    "code, expected",
    [
        ("import lowerbound", []),
        ("from lowerbound.cli import main", []),
        ("import lowerbound as lb; lb.fit", ["torch", "numpy"]),
    ],
)
def test_torch_is_imported_when_it_is_needed(code, expected):
    assert python(f"import sys; sys.path[:0] = {sys.path!r}; {code}; {SEEN}").strip() == repr(expected)


def test_help_needs_no_torch():
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; sys.argv = ['lowerbound', '--help']\n"
        "from lowerbound.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"{SEEN}"
    )
    out = python(code, COLUMNS="200")
    assert out.splitlines()[-1] == "[]"
    for name, module in COMMANDS.items():
        first = getattr(import_module(f"lowerbound.cli.{module}"), name).__doc__.splitlines()[0]
        assert f" {name} " in out
        assert first.replace("`", "").split(",")[0][:40] in out


def test_public_names_are_there():
    assert sorted(lb.__all__) == lb.__all__
    assert dir(lb) == lb.__all__
    for name in lb.__all__:
        assert getattr(lb, name) is not None
    with pytest.raises(AttributeError, match="module 'lowerbound' has no attribute 'vae'"):
        lb.vae  # noqa: B018


# --- The group --------------------------------------------------------------------------------------------------------


def test_a_mistyped_command_is_told(lowerbound):
    code, _, err = lowerbound("trian")
    assert code == 2
    assert "Did you mean 'train'?" in err


@pytest.mark.parametrize(
    "words, expected", [("lowerbound ev", {"evaluate"}), ("lowerbound train --kl", {"--kl-warmup"})]
)
def test_completion(words, expected, monkeypatch, capsys):
    monkeypatch.setenv("_LOWERBOUND_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with pytest.raises(SystemExit):
        app(prog_name="lowerbound")
    assert set(capsys.readouterr().out.split()) == expected


# --- Tables as JSON ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two runs, evaluated."""
    folders = []
    for latent_dim in (1, 2):
        folder = tmp_path_factory.mktemp("runs") / str(latent_dim)
        recipe = recipes.RECIPES["vae"].changed(
            latent_dim=latent_dim, model_options={"hidden": [8]}, training={"epochs": 1}
        )
        recipes.train(recipe, out=folder, progress=False)
        runs.evaluate_run(folder, ["elbo"], limit=20)
        folders.append(folder)
    return folders


def parsed(lowerbound, *command):
    """Return what a command prints as JSON; it prints nothing else."""
    code, out, err = lowerbound(*command, "--json")
    assert (code, err) == (0, "")
    return json.loads(out, parse_constant=pytest.fail)


def test_evaluate_prints_what_it_writes(lowerbound, pair):
    found = parsed(lowerbound, "evaluate", pair[0], "--measure", "iwae-3", "--limit", 20)
    assert found == json.loads((pair[0] / "scores.json").read_text())
    assert found["measures"]["iwae-3"]["n"] == 20


def test_compare(lowerbound, pair, tmp_path):
    found = parsed(lowerbound, "compare", *pair, "--out", tmp_path / "c.md")
    (elbo,) = [column for column in found["columns"] if column["name"] == "elbo"]
    first, second = elbo["entries"]
    assert second["difference"] == pytest.approx(second["value"] - first["value"])
    assert found["names"] == ["1", "2"]
    assert (tmp_path / "c.md").exists()


def test_lists(lowerbound, tmp_path):
    assert [recipe["name"] for recipe in parsed(lowerbound, "recipes")] == list(recipes.RECIPES)
    assert "mnist" in [entry["data"] for entry in parsed(lowerbound, "data")]
    (tmp_path / "t.csv").write_text("size,kind\n" + "".join(f"{i / 7},{'ab'[i % 2]}\n" for i in range(40)))
    columns = parsed(lowerbound, "data", tmp_path / "t.csv")
    assert [(column["name"], column["kind"]) for column in columns] == [("size", "continuous"), ("kind", "binary")]
    assert columns[1]["levels"] == ["a", "b"]


def test_profile(lowerbound):
    found = parsed(lowerbound, "profile", "vae", "--data", "digits", "--hidden", "8", "--steps", 2, "--device", "cpu")
    assert sum(found["parts"].values()) == pytest.approx(found["step"])
    assert found["unit"] == "milliseconds"


def test_numbers_that_json_lacks_are_null(capsys):
    show(None, {"a": [math.nan, 1.0], "b": (math.inf, None, True, "x")}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.0], "b": [None, None, True, "x"]}


# --- The doctor -------------------------------------------------------------------------------------------------------


def test_doctor(lowerbound, monkeypatch, tmp_path):
    monkeypatch.setenv("LOWERBOUND_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = parsed(lowerbound, "doctor")
    assert found["versions"]["torch"] == torch.__version__
    assert found["data"]["mnist"] == "not here: downloaded when it is asked for"
    assert found["data"]["downloads"] == str(tmp_path / "cache/lowerbound/mnist")
    code, out, err = lowerbound("doctor")
    assert (code, err) == (0, "")
    assert all(word in out for word in ("torch", "threads", "bfloat16", "explorer", "downloads"))


def test_doctor_finds_mnist(lowerbound, mnist_folder):
    assert parsed(lowerbound, "doctor")["data"]["mnist"] == str(mnist_folder)


def test_doctor_on_a_bare_machine(lowerbound, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = parsed(lowerbound, "doctor")
    assert found["compiler"] == "none found: --compile on needs one for C++, such as g++"
    assert found["extras"]["onnx"] == "pip install 'lowerbound[onnx]'"
