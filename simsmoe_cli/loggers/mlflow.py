"""MLflow: where MLFLOW_TRACKING_URI says, else in the file mlflow.db of the working directory.

A training waits for the server. One that does not answer is given up after half a minute, unless
MLflow's own variables say otherwise: by its defaults that takes a quarter of an hour, longer than
the ranks of a training wait for each other (`parallel.timeout_s`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.loggers.base import PROJECT, Logger
from simsmoe_cli.run.folder import RunDir

PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


class MLflow(Logger):
    """See `Logger`."""

    package = "mlflow"

    def __init__(self, run: RunDir, step: int, identity: str | None, settings: dict[str, Any]):
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._metric = Metric
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        if identity is None:
            known = self._client.get_experiment_by_name(name)
            experiment = known.experiment_id if known else self._client.create_experiment(name)
            made = self._client.create_run(experiment, run_name=run.name)
            identity = str(made.info.run_id)
            self._client.log_dict(identity, settings, "recipe.json")
        else:
            self._client.update_run(identity, status="RUNNING")
        self.identity = identity
        self.place = f"run {identity} of the experiment {name}; look at it by: mlflow ui"

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        now = round(1000 * time.time())
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.identity, metrics=metrics)

    def picture(self, step: int, name: str, rgb_HW3: NDArray[np.uint8]) -> None:
        self._client.log_image(self.identity, rgb_HW3, key=name.replace("/", "_"), step=step)

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self.identity, "FINISHED" if finished else "KILLED")
