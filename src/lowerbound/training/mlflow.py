"""Runs for MLflow: settings once, and the numbers of every epoch."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lowerbound.core.errors import ArgumentError, RunError, TrainingWarning, explain
from lowerbound.core.files import read_json, write_json
from lowerbound.training.callbacks import Callback

__all__ = ["MLflow"]

_EXPERIMENT = "lowerbound"
_LONGEST = 500  # characters of a value that MLflow takes from every store


class MLflow(Callback):
    """Settings and the numbers of every epoch as a run of MLflow, an extra.

    They go where ``MLFLOW_TRACKING_URI`` says, by default into a file of the present folder, to the experiment that
    ``MLFLOW_EXPERIMENT_NAME`` names, by default ``lowerbound``. A run that is resumed goes on in the same run of
    MLflow, whose id is kept in ``mlflow.json`` in the run folder.

    Args:
        folder: The run folder; its name is the run's.
        settings: What identifies the run, as a tree of plain values.

    Raises:
        ArgumentError: if MLflow is not installed.
        RunError: at the start of the training, if its store does not answer.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            cure = "Install it: pip install 'lowerbound[mlflow]'."
            raise ArgumentError(explain("mlflow", expected="the package mlflow", got="none", cure=cure)) from error
        self._folder, self._settings = Path(folder), dict(settings)
        self._client_of, self._metric, self._param, self._error = MlflowClient, Metric, Param, MlflowException

    def start(self, *, epochs: int, batches: int, epoch: int, batch: int) -> None:
        """Open the run: a new one, or the one that a resumed run began."""
        try:
            self._client = self._client_of()
            self._id = self._known() or self._new()
        except self._error as error:
            cure = "Look at MLFLOW_TRACKING_URI; or leave MLflow out."
            got = str(error).splitlines()[0]
            raise RunError(explain("mlflow", expected="a store that answers", got=got, cure=cure)) from error
        write_json(self._folder / "mlflow.json", {"run_id": self._id})

    def _known(self) -> str | None:
        """Return the id of the run that a resumed run began, None if there is none."""
        try:
            run = str(read_json(self._folder / "mlflow.json")["run_id"])
        except (RunError, LookupError, TypeError):
            return None
        self._client.update_run(run, status="RUNNING")
        return run

    def _new(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        where = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        run: str = self._client.create_run(where, run_name=self._folder.name).info.run_id
        values = [self._param(key, str(value)[:_LONGEST]) for key, value in _leaves(self._settings)]
        for at in range(0, len(values), 100):  # what MLflow takes at once
            self._client.log_batch(run, params=values[at : at + 100])
        return run

    def epoch(self, record: dict[str, Any]) -> None:
        """Log the record's numbers under its step."""
        groups = {group: record.get(group) or {} for group in ("train", "validation")}
        groups["training"] = {name: record[name] for name in ("lr", "kl_weight", "rows_per_second")}
        now, step = int(1000 * time.time()), record["step"]
        numbers = [
            self._metric(f"{group}/{name}", float(value), now, step)
            for group, values in groups.items()
            for name, value in values.items()
        ]
        try:
            self._client.log_batch(self._id, metrics=numbers)
        except self._error as error:  # the training is worth more than its log
            said = f"MLflow did not take epoch {record['epoch']}: {str(error).splitlines()[0]}"
            warnings.warn(said, TrainingWarning, stacklevel=2)

    def stop(self) -> None:
        """Close the run."""
        with contextlib.suppress(self._error):
            self._client.set_terminated(self._id)


def _leaves(tree: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a tree by their path, such as ``training.lr``; those that are None or empty are left out."""
    for key, value in tree.items():
        path = f"{at}.{key}" if at else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        elif value is not None and value != []:
            yield path, value
