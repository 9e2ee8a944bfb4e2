"""The search for good settings of a recipe, by the bound on held-out rows."""

from __future__ import annotations

import inspect
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lowerbound import objectives
from lowerbound.core.checks import positive_int
from lowerbound.core.errors import ArgumentError, NonFiniteError, RunError, explain
from lowerbound.core.files import locked, read_json, unlock, write_json
from lowerbound.core.random import seeded, stream_seed
from lowerbound.models import MODELS
from lowerbound.recipes import Recipe, build, train, training_data
from lowerbound.training import Callback, Settings

__all__ = ["SPACE", "Range", "Trial", "Tuning", "parse", "tune"]


@dataclass(frozen=True)
class Range:
    """What a setting may be.

    Attributes:
        low: The least value; None for a list of values.
        high: The largest.
        log: Whether values are even in their logarithm.
        values: The values, where they are listed.
    """

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    values: tuple[Any, ...] = ()

    def suggest(self, proposal: Any, name: str) -> Any:
        """Ask Optuna for a value: a whole number if both ends are."""
        if self.values:
            return proposal.suggest_categorical(name, list(self.values))
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        return (proposal.suggest_int if whole else proposal.suggest_float)(name, self.low, self.high, log=self.log)


_OTHER_BOUNDS = frozenset({"alpha", "beta", "elbo_share", "groups", "partial"})  # of an objective: what it reports

SPACE: dict[str, Range] = {
    "lr": Range(3e-4, 1e-2, log=True),
    "latent_dim": Range(2, 64, log=True),
    "batch_size": Range(values=(32, 64, 128, 256)),
}


@dataclass(frozen=True)
class Trial:
    """A set of settings and what came of it.

    Attributes:
        number: From 0 on.
        state: ``"complete"``, ``"pruned"`` (behind the others, and stopped early) or ``"failed"`` (not finite).
        bound: The best bound on held-out rows, nats a row; None if there is none.
        settings: The settings that were tried.
        folder: The run folder of the trial.
    """

    number: int
    state: str
    bound: float | None
    settings: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class Tuning:
    """A search: its trials in their order, and the measure by which they are judged."""

    measure: str
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the best bound.

        Raises:
            RunError: if none came to its end.
        """
        done = [trial for trial in self.trials if trial.state == "complete" and trial.bound is not None]
        if not done:
            cure = "Search among smaller learning rates, or try more."
            raise RunError(explain("tune", expected="a trial that comes to its end", got="none", cure=cure))
        return max(done, key=lambda trial: trial.bound or 0.0)

    def describe(self) -> dict[str, Any]:
        """Return the search as plain values."""
        trials = [{**vars(trial), "folder": str(trial.folder)} for trial in self.trials]
        return {"measure": self.measure, "unit": "nats", "trials": trials}


def tune(
    recipe: Recipe,
    *,
    out: str | os.PathLike[str],
    trials: int = 20,
    space: Mapping[str, Range] | None = None,
    device: str = "auto",
    watch: Callable[[Trial], None] | None = None,
) -> Tuning:
    """Try settings of a recipe, each a run of its own, and return what the bound on held-out rows says of them.

    The tree-structured Parzen estimator proposes, and a trial that lies below the median of the others after as many
    epochs is stopped. What is proposed is a function of the recipe's seed and of the trials before, so a search that
    was killed and is called again goes on as if nothing had happened; a trial in the middle is begun anew.

    Args:
        recipe: What to train on what; its `training` says for how many epochs.
        out: A folder: ``trials/0007`` are run folders, ``best.json`` names the best, ``study.log`` is Optuna's journal.
        trials: How many trials there are to be in all.
        space: What may vary, by name: ``latent_dim``, or an argument of the model, the objective or the training; a
            number for ``hidden`` is the width of both layers. None for `SPACE`.
        device: Where to train.
        watch: What is called with every trial that has ended.

    Returns:
        The trials.

    Raises:
        ArgumentError: if Optuna is missing, a name is no setting of the recipe or changes the bound that judges the
            trials, or the recipe's objective is no bound.
        RunError: if `out` holds the search of another recipe or space, or another process is at it.

    Source: Bergstra et al., Algorithms for hyper-parameter optimization (2011); Akiba et al., Optuna (2019).

    Example:
        >>> import tempfile
        >>> from lowerbound.recipes import RECIPES
        >>> quick = RECIPES["vae"].changed(model_options={"hidden": [8]}, training={"epochs": 1})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = tune(quick, out=folder, trials=2, space={"lr": Range(1e-3, 1e-2, log=True)})
        >>> len(found.trials), sorted(found.best.settings)
        (2, ['lr'])
    """
    optuna = _optuna()
    folder, chosen = Path(out), dict(SPACE if space is None else space)
    positive_int("trials", trials)
    measure = _check(recipe, chosen)
    lock = locked(folder)
    try:
        _identify(folder, recipe, chosen)
        study = _study(optuna, folder)
        for killed in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(killed.number, state=optuna.trial.TrialState.FAIL)
        while len(found := _trials(study, folder)) < trials:
            _try(optuna, study, recipe, chosen, _place(folder, len(found)), device)
            if watch is not None:
                watch(_trials(study, folder)[-1])
        tuning = Tuning(measure, tuple(found))
        best = tuning.best
        run = str(best.folder.relative_to(folder))
        chosen_best = {"measure": measure, "bound": best.bound, "settings": best.settings, "run": run}
        write_json(folder / "best.json", chosen_best)
    finally:
        unlock(lock)
    return tuning


def _try(optuna: Any, study: Any, recipe: Recipe, space: Mapping[str, Range], place: Path, device: str) -> None:
    """Train what the study proposes next in a folder, and tell the study what came of it."""
    number = int(place.name)
    study.sampler = optuna.samplers.TPESampler(seed=stream_seed(recipe.seed, "tune", number) % 2**32)
    proposal = study.ask()
    settings = {name: one.suggest(proposal, name) for name, one in space.items()}
    shutil.rmtree(place, ignore_errors=True)  # of a trial that was killed
    judge, state = _Judge(proposal, optuna.TrialPruned), "COMPLETE"
    try:
        train(_with(recipe, settings), out=place, device=device, progress=False, callbacks=[judge])
    except optuna.TrialPruned:
        state = "PRUNED"
    except NonFiniteError:
        state = "FAIL"
    proposal.set_user_attr("ended", True)
    value = judge.best if state == "COMPLETE" else None
    study.tell(proposal, value, state=optuna.trial.TrialState[state])


class _Judge(Callback):
    """Tells Optuna the bound on held-out rows after every epoch, and ends a trial that Optuna gives up."""

    def __init__(self, proposal: Any, pruned: type[Exception]) -> None:
        self._proposal, self._pruned = proposal, pruned
        self.best = -math.inf

    def epoch(self, record: dict[str, Any]) -> None:
        bound = next(iter(record["validation"].values()))
        self.best = max(self.best, bound)
        self._proposal.report(bound, record["epoch"])
        if self._proposal.should_prune():
            raise self._pruned


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        cure = "Install it: pip install 'lowerbound[tune]'."
        raise ArgumentError(explain("tune", expected="the package optuna", got="none", cure=cure)) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _study(optuna: Any, folder: Path) -> Any:
    journal = optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
    storage = optuna.storages.JournalStorage(journal)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.create_study(
            study_name="tune", storage=storage, pruner=pruner, direction="maximize", load_if_exists=True
        )


def _trials(study: Any, folder: Path) -> list[Trial]:
    """Return the trials that have ended by themselves, in their order."""
    ended = [one for one in study.get_trials(deepcopy=False) if one.user_attrs.get("ended")]
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return [
        Trial(number, names[one.state.name], _best(one), dict(one.params), _place(folder, number))
        for number, one in enumerate(ended)
    ]


def _best(found: Any) -> float | None:
    return max(found.intermediate_values.values(), default=None)


def _place(folder: Path, number: int) -> Path:
    return folder / "trials" / f"{number:04d}"


def _home(recipe: Recipe, name: str) -> str:
    """Return the part of a recipe that has a setting.

    Raises:
        ArgumentError: if none has.
    """
    model, objective = MODELS[recipe.model], getattr(objectives, recipe.objective)
    homes = {
        "training": set(Settings.__dataclass_fields__) - {"seed", "epochs"},
        "model_options": set(inspect.signature(model).parameters) - {"event_shape", "likelihood"},
        "objective_options": set(inspect.signature(objective).parameters) - {"model"},
    }
    if name == "latent_dim":
        return name
    for home, names in homes.items():
        if name in names:
            return home
    known = ", ".join(sorted({"latent_dim", *(one for names in homes.values() for one in names)}))
    cure = f"Known settings: {known}."
    raise ArgumentError(explain("space", expected=f"settings of {recipe.name}", got=repr(name), cure=cure))


def _with(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe with other settings."""
    for name, value in settings.items():
        home = _home(recipe, name)
        given = [value, value] if name == "hidden" and isinstance(value, int) and recipe.model != "ConvVAE" else value
        recipe = recipe.changed(**({name: given} if home == name else {home: {name: given}}))
    return recipe


def _check(recipe: Recipe, space: Mapping[str, Range]) -> str:
    """Return the measure that judges the trials: the first term of the objective on held-out rows."""
    for name in space:
        if _home(recipe, name) == "objective_options" and name in _OTHER_BOUNDS:
            cure = "Fix it in the recipe: trials can only be compared by one bound."
            raise ArgumentError(explain("space", expected="settings that leave the bound", got=repr(name), cure=cure))
    rows, held_out = training_data(recipe)
    objective = build(recipe, rows)
    if not objective.certified:
        cure = "Take a recipe whose objective is one, and compare others by lowerbound evaluate."
        raise ArgumentError(explain("recipe", expected="an objective that is a bound", got=recipe.objective, cure=cure))
    if held_out is None:
        cure = "Leave validation out, or hold a tenth out: --validation 0.1."
        raise ArgumentError(explain("validation", expected="held-out rows to judge by", got="none", cure=cure))
    with torch.no_grad(), seeded(recipe.seed, "measure"):
        return next(iter(objective(next(iter(held_out.evaluation_batches(2))), "model").terms))


def _identify(folder: Path, recipe: Recipe, space: Mapping[str, Range]) -> None:
    """Write what is searched into the folder, or check that it is what the folder holds."""
    path = folder / "search.json"
    mine = json.loads(json.dumps({"recipe": recipe.describe(), "space": {k: asdict(v) for k, v in space.items()}}))
    if not path.exists():
        write_json(path, mine)
        return
    theirs = read_json(path)
    if theirs != mine:
        cure = "Choose another folder for another search."
        raise RunError(explain(str(folder), expected="this search or a new folder", got="another search", cure=cure))


def parse(text: str) -> tuple[str, Range]:
    """Return the name and the range that ``NAME=LOW:HIGH``, ``NAME=LOW:HIGH:log`` or ``NAME=A,B,C`` stand for.

    Raises:
        ArgumentError: if it is none of them.

    Example:
        >>> parse("lr=1e-4:1e-2:log")
        ('lr', Range(low=0.0001, high=0.01, log=True, values=()))
        >>> parse("batch_size=64,128")[1].values
        (64, 128)
    """
    name, _, right = text.partition("=")
    parts = right.split(":")
    try:
        if len(parts) == 1 and name and right:
            return name, Range(values=tuple(_word(word) for word in right.split(",")))
        low, high = (_number(part) for part in parts[:2])
        if name and low < high and (low > 0 or len(parts) == 2) and parts[2:] in ([], ["log"]):
            return name, Range(low, high, log=len(parts) == 3)
    except ValueError:
        pass
    cure = "For example lr=1e-4:1e-2:log, latent_dim=2:64 or batch_size=64,128."
    raise ArgumentError(explain("search", expected="NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B", got=text, cure=cure))


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _word(text: str) -> Any:
    try:
        return _number(text)
    except ValueError:
        return text
