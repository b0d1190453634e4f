"""trackio: in its local store, which `trackio show` opens; TRACKIO_DIR decides where that is."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.loggers.base import PROJECT, Logger
from simsmoe_cli.run.folder import RunDir


class Trackio(Logger):
    """See `Logger`."""

    package = "trackio"

    def __init__(self, run: RunDir, step: int, identity: str | None, settings: dict[str, Any]):
        import trackio

        self._trackio = trackio
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self._run = trackio.init(
            project=project,
            name=identity or run.name,
            resume="must" if identity else "never",
            config=settings,
            embed=False,
        )
        self.identity = str(self._run.name)
        self.place = f"trackio show --project {shlex.quote(project)}"

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, rgb_HW3: NDArray[np.uint8]) -> None:
        self._run.log({name: self._trackio.Image(rgb_HW3)}, step=step)

    def close(self, *, finished: bool) -> None:
        self._run.finish()
