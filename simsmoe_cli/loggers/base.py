"""The interface of a tracker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.run.folder import RunDir

PROJECT = "simsmoe"


class Logger(ABC):
    """One run of a tracker. Its constructor opens it, and imports the tracker's library.

    Args:
        run: the run folder.
        step: steps that a resumed training has done; later ones are logged again.
        identity: of the tracker's run that an earlier session of this training wrote; None: a new
            one.
        settings: the recipe as JSON.

    Attributes:
        package: the module that must be installed.
        identity: finds the tracker's run again.
        place: where to look at it, in words.
    """

    package: ClassVar[str]
    identity: str
    place: str

    @abstractmethod
    def __init__(self, run: RunDir, step: int, identity: str | None, settings: dict[str, Any]): ...

    @abstractmethod
    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers by name."""

    @abstractmethod
    def picture(self, step: int, name: str, rgb_HW3: NDArray[np.uint8]) -> None:
        """Log a picture."""

    @abstractmethod
    def close(self, *, finished: bool) -> None:
        """Write what is left.

        Args:
            finished: whether the training has ended by itself.
        """
