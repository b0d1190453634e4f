"""Work done in one other thread: calls in order (`Background`), values a step early (`ReadAhead`).

Both are for work that releases the interpreter's lock, such as reading and writing files, hashing,
and numpy or torch on large arrays: the caller computes meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Background:
    """Calls made one after the other in a thread, in the order they were submitted.

    An exception of a call is raised once, by the next `submit` or `wait`. After a failure no later
    call is made.

    Args:
        ahead: how many calls may be open; `submit` waits while there are as many.
        name: of the thread.
    """

    def __init__(self, ahead: int = 1, name: str = "background"):
        self._ahead = ahead
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._open: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def submit(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Make a call later; its arguments must not change until it has been made."""
        while len(self._open) >= self._ahead or (self._open and self._open[0].done()):
            self._open.popleft().result()
        self._open.append(self._thread.submit(self._make, lambda: call(*args, **kwargs)))

    def _make(self, call: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            call()
        except BaseException:
            self._failed = True
            raise

    def wait(self) -> None:
        """Return when all calls so far have been made."""
        while self._open:
            self._open.popleft().result()

    def close(self) -> None:
        """End the thread after all calls; errors of these calls are not raised."""
        self._thread.shutdown()


class ReadAhead(Generic[T]):
    """Gives the values of `read` for each step; the next step is read in a thread meanwhile.

    Every step gets what `read` returns for it, whatever the order of steps; only consecutive steps
    are faster. `read` must depend on nothing but the step. The thread ends with this object.

    Args:
        read: step to value; only ever called in one thread.
    """

    def __init__(self, read: Callable[[int], T]):
        self._read = read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        """The value for a step; raises the exception of reading it."""
        following, self._next = self._next, None
        if following is None or following[0] != step:
            following = step, self._thread.submit(self._read, step)
        value = following[1].result()
        self._next = step + 1, self._thread.submit(self._read, step + 1)
        return value
