"""SIGTERM as an exception, so that a stopped command cleans up.

Training handles signals itself and saves first (`train/signals.py`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from simsmoe_cli.cli.entry import leave_at_once
from simsmoe_cli.errors import Terminated

AGAIN_S = 0.2


@contextlib.contextmanager
def terminable() -> Iterator[list[int]]:
    """Raise Terminated at SIGTERM, repeatedly until the block ends, in case something catches it.

    While a module is imported, SIGTERM and Ctrl-C are delayed, because a half-imported module (such
    as numpy) causes other errors. Further SIGTERMs do not interrupt the handling of Terminated.
    Forked processes die of SIGTERM as usual. Yields the list of the signals that came; SIGINT is
    among them after a Ctrl-C, because typer turns the KeyboardInterrupt into an exit code.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    owner, left, sending = os.getpid(), threading.Event(), threading.Lock()

    def send(number: int) -> bool:
        """Send the signal again after a while; False if the block was left."""
        if left.wait(AGAIN_S):
            return False
        with sending:
            if not left.is_set():
                os.kill(owner, number)
        return True

    def interrupt(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        if _is_importing(frame):
            threading.Thread(target=send, args=(number,), daemon=True).start()
        else:
            signal.default_int_handler(number, frame)

    def remind() -> None:
        while send(signal.SIGTERM):
            pass

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if number not in noted:
            noted.append(number)
            threading.Thread(target=remind, daemon=True).start()
        if not _is_leaving() and not _is_importing(frame):
            raise Terminated

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, leave_at_once):
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield noted
    finally:
        with sending:
            left.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_leaving() -> bool:
    """Whether Terminated is being handled."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, Terminated):
            return True
        error = error.__context__
    return False


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
