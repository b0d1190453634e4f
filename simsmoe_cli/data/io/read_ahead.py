"""The next step's batch is read in a thread while this step computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

B = TypeVar("B")


class ReadAhead(Generic[B]):
    """What `read` gives for a step, with the step after it on its way.

    What was read ahead is used for the step it was read for, so any order of steps gives what
    `read` gives; only steps in a row are quick. `read` must depend on nothing but the step. The
    thread ends with this object.

    Args:
        read: step to batch; only ever called in one thread.
    """

    def __init__(self, read: Callable[[int], B]):
        self._read = read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._ahead: tuple[int, Future[B]] | None = None

    def __call__(self, step: int) -> B:
        """The batch of a step; raises what reading it raised."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[0] != step:
            ahead = step, self._thread.submit(self._read, step)
        batch = ahead[1].result()
        self._ahead = step + 1, self._thread.submit(self._read, step + 1)
        return batch
