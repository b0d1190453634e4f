"""TensorBoard: event files in the run folder's tensorboard/."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.loggers.base import Logger
from simsmoe_cli.run.folder import RunDir


class TensorBoard(Logger):
    """See `Logger`."""

    package = "tensorboard"

    def __init__(self, run: RunDir, step: int, identity: str | None, settings: dict[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        self.identity = "tensorboard"
        folder = run.path / self.identity
        self.place = f"tensorboard --logdir {folder}"
        # TensorBoard drops what an earlier session logged of later steps.
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        if not step:
            text = json.dumps(settings, indent=1)
            self._writer.add_text("recipe", "".join(f"    {line}\n" for line in text.split("\n")))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, rgb_HW3: NDArray[np.uint8]) -> None:
        self._writer.add_image(name, rgb_HW3, step, dataformats="HWC")

    def close(self, *, finished: bool) -> None:
        self._writer.close()
