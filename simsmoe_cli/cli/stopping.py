"""SIGTERM, turned into an exception: a command that is stopped puts in order what it began.

Training has a way of its own, which saves first (`train/signals.py`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from simsmoe_cli.errors import Terminated


@contextlib.contextmanager
def terminable() -> Iterator[list[int]]:
    """Raise Terminated at the first SIGTERM; those that follow do not cut short what it sets off.

    Processes that are forked meanwhile die of it as processes do. Gives a list, to which SIGINT is
    added when a Ctrl-C comes, as typer makes an exit code of the KeyboardInterrupt.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    owner = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.default_int_handler(number, frame)

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
