"""Breaks the silence of a command that works long without printing anything."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from rich.console import Console

from simsmoe_cli.errors import escaped

SILENT_S = 9.0
LOOK_S = 0.5


def say_aside(console: Console, words: str) -> None:
    """Print a line of progress, whatever names are in it; of several processes, only the first
    does.

    Not by the console, which leaves the program when nobody reads any more.
    """
    if not console.quiet:
        with contextlib.suppress(OSError, ValueError):
            print(escaped(words), file=console.file, flush=True)


class SilenceBreaker:
    """Calls a function, in a thread, whenever nothing was said for a while.

    Args:
        speak: prints where the command is.
        silent_s: the longest silence; None takes `SILENT_S`.
    """

    def __init__(self, speak: Callable[[], None], silent_s: float | None = None):
        self._speak = speak
        self._silent_s = SILENT_S if silent_s is None else silent_s
        self._said = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def heard(self) -> None:
        """Something was printed."""
        self._said = time.monotonic()

    def stop(self) -> None:
        """End; nothing is said any more."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_S):
            if time.monotonic() - self._said > self._silent_s:
                self.heard()
                self._speak()
