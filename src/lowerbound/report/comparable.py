"""Runs that may be compared: read, checked for what would make a comparison void, and described in a few words."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowerbound.core.errors import ArgumentError, RunError, explain
from lowerbound.evaluation import Scores
from lowerbound.report.records import flat, read_config, scores_are_fresh

__all__ = ["Evaluated", "differing_settings", "in_short", "read_comparable", "short_names"]


@dataclass(frozen=True)
class Evaluated:
    """A run folder with its settings and its scores."""

    folder: Path
    config: dict[str, Any]
    scores: Scores

    @property
    def measures(self) -> dict[str, dict[str, Any]]:
        """The measures that have a value."""
        return {name: m for name, m in self.scores.measures.items() if m.get("value") is not None}


def read_comparable(runs: Sequence[str | os.PathLike[str]]) -> list[Evaluated]:
    """Read run folders and refuse those that cannot be compared.

    Raises:
        ArgumentError: if there are fewer than two, or one comes twice.
        RunError: as `lowerbound.report.compare` says.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        got = f"only {folders[0]}" if folders else "none"
        raise ArgumentError(explain("runs", expected="two or more", got=got, cure="Name the runs to compare."))
    places = [folder.resolve() for folder in folders]
    for i, folder in enumerate(folders):
        if places[i] in places[:i]:
            cure = "Name each run once."
            raise ArgumentError(explain("runs", expected="different run folders", got=f"{folder} twice", cure=cure))
    configs = [read_config(folder) for folder in folders]
    _check_evaluated(folders)
    found = [Evaluated(folder, config, Scores.read(folder)) for folder, config in zip(folders, configs, strict=True)]
    for run in found:
        _check_fresh(run)
    for run in found[1:]:
        _check_same_rows(found[0], run)
        _check_same_annealing(found[0], run)
    _check_common_measure(found)
    return found


def _check_evaluated(folders: Sequence[Path]) -> None:
    """Raise an error that names the commands if runs have no scores."""
    missing = [folder for folder in folders if not (folder / "scores.json").exists()]
    if not missing:
        return
    known = next((Scores.read(folder).measures for folder in folders if folder not in missing), {})
    options = "".join(f" --measure {name}" for name in known)
    commands = "; ".join(f"lowerbound evaluate {shlex.quote(str(folder))}{options}" for folder in missing)
    who = ", ".join(map(str, missing))
    raise RunError(explain(who, expected="evaluated runs", got="no scores.json", cure=f"Evaluate first ({commands})."))


def _check_fresh(run: Evaluated) -> None:
    """Raise an error if a run was trained on after it was evaluated."""
    if not scores_are_fresh(run.folder, run.scores):
        options = "".join(f" --measure {name}" for name in run.measures)
        cure = f"Evaluate it again (lowerbound evaluate {shlex.quote(str(run.folder))}{options})."
        expected, got = "scores of the weights that it holds", "those of earlier weights"
        raise RunError(explain(str(run.folder), expected=expected, got=got, cure=cure))


# What must agree: its name for people, its key, and what to do where it does not. The hash is last: where nothing
# else differs it still may.
_SAME = (
    ("set", "name", "Evaluate both on one set: lowerbound evaluate RUN --data SET."),
    ("split", "split", "Evaluate both on one split: lowerbound evaluate RUN --split test."),
    ("binarisation", "binarize", "Train both with one --binarize."),
    ("seed of the binarisation", "binarize_seed", "Train both with one --data-seed."),
    ("seed of the split", "split_seed", "Train both with one --data-seed."),
    ("share of the split", "test_fraction", "Split both alike."),
    ("number of rows", "n_evaluated", "Evaluate both with one --limit, or without."),
    ("kind of log p(x)", "log_p", "Compare densities (gaussian) with densities, and probabilities with probabilities."),
    ("hash of the rows", "sha256", "Evaluate both on the same rows: lowerbound evaluate RUN --data FILE."),
)


def _check_same_rows(first: Evaluated, second: Evaluated) -> None:
    """Raise an error that says what differs between the rows on which two runs were evaluated."""
    differ: list[tuple[str, str]] = []
    same_hash = _evaluated_on(first, "sha256") == _evaluated_on(second, "sha256") is not None
    for label, key, cure in _SAME:
        a, b = (_evaluated_on(run, key) for run in (first, second))
        known_otherwise = (key == "log_p" and None in (a, b)) or (key == "sha256" and differ)
        if a != b and not known_otherwise and not (key == "name" and same_hash):
            differ.append((f"{label} {_shown(a)} and {_shown(b)}", cure))
    if differ:
        who = f"{first.folder} and {second.folder}"
        got, cures = "; ".join(text for text, _ in differ), list(dict.fromkeys(cure for _, cure in differ))
        raise RunError(explain(who, expected="runs that can be compared", got=got, cure=" ".join(cures[:2])))
    if _evaluated_on(first, "sha256") is None:
        who, cure = f"{first.folder} and {second.folder}", "Let describe() of your data return the hash as sha256."
        expected = "runs evaluated on rows with a hash that tells them apart"
        raise RunError(explain(who, expected=expected, got="none", cure=cure))


def _check_same_annealing(first: Evaluated, second: Evaluated) -> None:
    """Raise an error if a measure of both was made with other chains or temperatures: slower annealing is tighter."""
    for name in first.measures.keys() & second.measures.keys():
        pair = [[run.measures[name].get(key) for key in ("chains", "temperatures")] for run in (first, second)]
        if pair[0] != pair[1]:
            got = " and ".join(f"{chains} chains of {temperatures} temperatures" for chains, temperatures in pair)
            cure = "Evaluate both with one --chains and one --temperatures."
            who = f"measure {name!r} of {first.folder} and {second.folder}"
            raise RunError(explain(who, expected="the same annealing", got=got, cure=cure))


def _evaluated_on(run: Evaluated, key: str) -> Any:
    """Return one fact about the rows; a seed counts only where something was drawn from it."""
    data = run.scores.data
    if key == "binarize_seed" and data.get("binarize") not in ("dynamic", "static"):
        return None
    return data.get(key)


def _shown(value: Any) -> str:
    text = "unknown" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    return f"{text[:8]}…" if len(text) == 64 else text  # a hash


def _check_common_measure(found: Sequence[Evaluated]) -> None:
    """Raise an error that says what each run has if no measure is common to all."""
    if set.intersection(*(set(run.measures) for run in found)):
        return
    got = "; ".join(f"{run.folder} has {', '.join(run.measures) or 'none'}" for run in found)
    cure = "Evaluate all with one: lowerbound evaluate RUN --measure iwae-1000."
    raise RunError(explain("measures", expected="at least one that all runs have", got=got, cure=cure))


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that tell them apart.

    Example:
        >>> short_names([Path("/runs/a/vae"), Path("/runs/b/vae"), Path("/runs/b/iwae")])
        ['a/vae', 'b/vae', 'iwae']
    """
    parts = [folder.resolve().parts for folder in folders]

    def name(own: tuple[str, ...]) -> str:
        ends = (own[-depth:] for depth in range(1, len(own) + 1))
        return "/".join(next(end for end in ends if sum(part[-len(end) :] == end for part in parts) == 1))

    return [name(own) for own in parts]


def in_short(config: Mapping[str, Any]) -> str:
    """Return what a run trained in a few words.

    Example:
        >>> model = {"class": "VAE", "arguments": {"latent_dim": 40}}
        >>> in_short({"recipe": {"name": "iwae"}, "objective": {"class": "IWAE", "particles": 5, "model": model}})
        'iwae: VAE, 40 latents, IWAE with 5 particles'
    """
    recipe, objective = config.get("recipe"), config.get("objective")
    name = recipe.get("name") if isinstance(recipe, Mapping) else recipe
    goal = objective if isinstance(objective, Mapping) else {"class": objective}
    model = config.get("model") or goal.get("model") or {}
    model = model if isinstance(model, Mapping) else {"class": model}
    size = (model.get("arguments") or {}).get("latent_dim")
    particles = goal.get("particles")
    words = [
        model.get("class"),
        size and f"{size} latent{'s' if size > 1 else ''}",
        goal.get("class") and str(goal["class"]) + (f" with {particles} particles" if (particles or 1) > 1 else ""),
    ]
    text = ", ".join(str(word) for word in words if word)
    return f"{name}: {text}" if name and text else str(name or text)


def differing_settings(configs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Return the settings of objective, model and training that are not the same in all runs, one text a run.

    Example:
        >>> differing_settings([{"training": {"lr": 0.1, "seed": 0}}, {"training": {"lr": 0.2, "seed": 0}}])
        {'lr': ('0.1', '0.2')}
    """
    parts = ("objective", "model", "training")
    tables = [dict(flat({part: config[part] for part in parts if config.get(part)})) for config in configs]
    found = {}
    for key in dict.fromkeys(key for table in tables for key in table):
        values = tuple("" if table.get(key) is None else str(table[key]) for table in tables)
        if len(set(values)) > 1:
            found[_setting(key)] = values
    return found


def _setting(key: str) -> str:
    """Return a setting's name as people know it."""
    for prefix in ("objective.model.arguments.", "objective.model.", "model.arguments.", "training.", "objective."):
        if key.startswith(prefix):
            rest = key.removeprefix(prefix)
            return key.split(".")[-2] if rest == "class" else rest
    return key
