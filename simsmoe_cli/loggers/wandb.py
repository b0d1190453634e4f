"""Weights & Biases: offline, with files in the run folder's wandb/, unless this user is logged in.

WANDB_MODE, WANDB_PROJECT and WANDB_DIR decide otherwise. `wandb sync` uploads an offline run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.loggers.base import PROJECT, Logger
from simsmoe_cli.run.folder import RunDir


class Wandb(Logger):
    """See `Logger`."""

    package = "wandb"

    def __init__(self, run: RunDir, step: int, identity: str | None, settings: dict[str, Any]):
        import wandb

        self._wandb = wandb
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=identity,
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(run.path)),
            mode=mode,
            config=settings,
            # What is printed stays as it is: wandb would wrap the streams.
            settings=wandb.Settings(console="off", silent=True),
        )
        self.identity = str(self._run.id)
        folder = os.path.dirname(self._run.dir)
        offline = f"offline; upload it by: wandb sync {folder}"
        self.place = offline if mode == "offline" else str(self._run.url)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def picture(self, step: int, name: str, rgb_HW3: NDArray[np.uint8]) -> None:
        self._run.log({"step": step, name: self._wandb.Image(rgb_HW3)})

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
