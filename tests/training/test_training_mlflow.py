"""What MLflow is told of a run: its settings, and the numbers of every epoch, also of a run that is resumed."""

from __future__ import annotations

import json
import sys

import pytest

from lowerbound.core.errors import ArgumentError, RunError, TrainingWarning
from lowerbound.recipes import RECIPES, train
from lowerbound.training import MLflow

mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:mlflow", "ignore::DeprecationWarning")

RECIPE = RECIPES["vae"].changed(
    latent_dim=2, model_options={"hidden": [8]}, training={"batch_size": 512, "schedule": "constant"}
)


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(None)


def fit(tmp_path, epochs, **options):
    train(
        RECIPE.changed(training={"epochs": epochs}),
        out=tmp_path / "run",
        mlflow=True,
        progress=False,
        device="cpu",
        **options,
    )
    return [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]


def only(client, experiment="lowerbound"):
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run


def test_settings_and_numbers(client, tmp_path):
    records = fit(tmp_path, 2)
    run = only(client)
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    params = run.data.params
    assert params["latent_dim"] == "2"
    assert params["training.epochs"] == "2"
    assert params["model_options.hidden"] == "[8]"
    for name in ("train/elbo", "validation/elbo", "validation/kl", "training/lr"):
        group, term = name.split("/")
        expected = [(r["step"], r[term] if group == "training" else r[group][term]) for r in records]
        assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] == expected


def test_resumed_run_goes_on_in_the_same_run(client, tmp_path):
    fit(tmp_path, 1)
    records = fit(tmp_path, 3, resume=True)
    history = client.get_metric_history(only(client).info.run_id, "train/elbo")
    assert [metric.value for metric in history] == [record["train"]["elbo"] for record in records]


def test_experiment_of_ones_own(client, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits of mine")
    fit(tmp_path, 1)
    assert only(client, "digits of mine").info.status == "FINISHED"


def test_mlflow_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(
        ArgumentError, match=r"mlflow: expected the package mlflow, got none.*pip install 'lowerbound\[mlflow\]'"
    ):
        MLflow(tmp_path, {})


def test_store_that_does_not_answer(client, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise mlflow.exceptions.MlflowException("no store here\nat all")

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", refuse)
    with pytest.raises(RunError, match=r"mlflow: expected a store that answers, got no store here. Look at"):
        fit(tmp_path, 1)
    assert not (tmp_path / "run/mlflow.json").exists()


def test_training_goes_on_when_the_store_stops_to_answer(client, tmp_path, monkeypatch):
    def refuse(self, run, metrics=(), params=()):
        if metrics:
            raise mlflow.exceptions.MlflowException("gone")

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", refuse)
    with pytest.warns(TrainingWarning, match="MLflow did not take epoch 1: gone"):
        assert len(fit(tmp_path, 1)) == 1
