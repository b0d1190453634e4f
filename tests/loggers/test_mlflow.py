"""MLflow, in a database of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.loggers.conftest import Logged
from tests.train.tiny import events

pytest.importorskip("mlflow")


@pytest.mark.filterwarnings("default")  # of the libraries that MLflow is made of
def test_the_database_holds_the_events_of_both_sessions_in_one_run(
    logged: Logged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = logged("mlflow")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("simsmoe")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("mine", "FINISHED")
    assert json.loads(run.loggers.read_text()) == {"mlflow": found.info.run_id}
    history = client.get_metric_history(found.info.run_id, "train/loss_nats")
    losses = {metric.step: metric.value for metric in history}
    expected = {event["step"]: event["loss_nats"] for event in events(run, "train")}
    assert losses == pytest.approx(expected)
    names = [file.path for file in client.list_artifacts(found.info.run_id)]
    assert "recipe.json" in names
