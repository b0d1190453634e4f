"""Work done in a thread beside the work that feeds it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec

P = ParamSpec("P")


class Beside:
    """Calls made one after the other in a thread of their own, never more than one behind.

    For calls that let go of the interpreter's lock, as those of hashlib, numpy and the operating
    system do: reading, encoding and writing go on meanwhile. What a call raises, the next one or
    `wait` raises.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[object] | None = None

    def __enter__(self) -> Beside:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()

    def __call__(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Begin a call once the one before is done; its arguments must not change any more."""
        self.wait()
        self._pending = self._thread.submit(call, *args, **kwargs)

    def wait(self) -> None:
        """Return when all calls so far are done."""
        if self._pending is not None:
            self._pending.result()
