"""Holds back Ctrl-C and SIGTERM while processes are started, which would print tracebacks."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

HELD = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Handle a signal that arrives in the block after it.

    Processes started in the block begin with SIGINT blocked. Does nothing outside the main thread,
    where Python handles no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[tuple[int, FrameType | None]] = []
    before = {number: signal.getsignal(number) for number in HELD}
    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, lambda *signalled: arrived.append(signalled))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)
        for which, frame in arrived:
            handler = before[signal.Signals(which)]
            assert callable(handler)
            handler(which, frame)
