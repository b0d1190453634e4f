"""SIGTERM and Ctrl-C as a flag that the training loop reads between steps."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from simsmoe_cli.errors import EXIT_SIGINT, EXIT_SIGTERM
from simsmoe_cli.parallel.world import ALONE, Votes, World


class Stopped(Exception):
    """The run was asked to stop by a signal, and saved.

    Attributes:
        signal: its name.
        code: the exit status.
        step: steps done.
    """

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped at step {step}")
        self.signal = signal.Signals(number).name
        self.code = EXIT_SIGTERM if number == signal.SIGTERM else EXIT_SIGINT
        self.step = step


class StopSignals:
    """Context manager that records SIGTERM and SIGINT instead of exiting.

    A Ctrl-C after any first signal leaves at once, by KeyboardInterrupt. A second SIGTERM, as some
    launchers send, does not interrupt the saving.

    Args:
        world: the ranks that train together; a signal to one of them stops all after the same step.
    """

    def __init__(self, world: World = ALONE) -> None:
        self._votes = Votes(world)
        self._number = 0
        self._saved_step: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        """Whether a signal asked to stop."""
        return self._number != 0

    def agreed(self, *, last: bool) -> bool:
        """Whether all ranks stop after this step, because a signal asked one of them to.

        To be called by all ranks once a step. It does not wait for the others: what they were asked
        during one step is known after the next one, and after the last step at once.
        """
        if self._votes.alone:
            return self.asked
        number = self._votes.now(self._number) if last else self._votes.next(self._number)
        self._number = self._number or number
        return number != 0

    def leave_if_asked(self, step: int) -> None:
        """Raise Stopped if a signal asked to stop; all is saved."""
        if self._number:
            raise Stopped(self._number, step)

    def leave_when_asked(self, step: int | None) -> None:
        """From now on raise Stopped as soon as a signal asks to stop, because nothing is left to
        save; None: stop doing so. All ranks call it."""
        self._saved_step = step
        if step is not None:
            self._number = self._votes.now(self._number)
            self.leave_if_asked(step)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._number = self._number or number
        if self._saved_step is not None:
            raise Stopped(self._number, self._saved_step)
