"""Progress of a command that works in stages, such as preparing data.

On a terminal a bar shows the share done and the time left. Elsewhere a line is printed for each
tenth, and in any case every ten seconds, also while a stage reports nothing; what takes a few
seconds prints none.
"""

from __future__ import annotations

import contextlib
import threading
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from simsmoe_cli.cli.progress import duration

SILENT_S = 9.0  # a line is printed after so long without one
FIRST_S = 5.0  # no tenth is printed before


class StageProgress:
    """Shows stages that count bytes; use as a context manager, and call it with a stage, the amount
    done and the amount in all (None: not known).

    Args:
        console: of stderr.
    """

    def __init__(self, console: Console):
        self._console = console
        self._bars: Progress | None = None
        if console.is_terminal:
            columns = (
                *(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()),
                *(DownloadColumn(), TimeElapsedColumn(), TimeRemainingColumn()),
            )
            self._bars = Progress(*columns, console=console, transient=True)
            self._task = self._bars.add_task("", visible=False)
        self._stage, self._done, self._total = "", 0, 0
        self._first = 0  # done when the stage began: the work of an earlier, interrupted command
        self._tenth = 0
        self._begun = self._stage_begun = self._said = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._break_silence, daemon=True)

    def __enter__(self) -> StageProgress:
        if self._bars is not None:
            self._bars.start()
        else:
            self._watch.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if self._bars is not None:
            self._bars.stop()
        else:
            self._watch.join()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        with self._lock:
            fresh = stage != self._stage
            if fresh:
                self._stage, self._first, self._tenth = stage, done, 0
                self._stage_begun = time.monotonic()
            self._done, self._total = done, total or 0
            if self._bars is not None:
                if fresh:
                    self._bars.reset(self._task, description=stage, visible=True)
                self._bars.update(self._task, completed=done, total=total)
                return
            tenth = 10 * done // total if total else 0
            if tenth > self._tenth:
                self._tenth = tenth
                if time.monotonic() - self._begun > FIRST_S:
                    self._say()

    def _break_silence(self) -> None:
        while not self._ended.wait(0.5):
            with self._lock:
                if self._stage and time.monotonic() - self._said > SILENT_S:
                    self._say()

    def _say(self) -> None:
        """Print where the stage is."""
        self._said = time.monotonic()
        took = self._said - self._stage_begun
        words = f"{self._stage}: "
        if self._total:
            share = self._done / self._total
            words = f"{share:4.0%} {words}{_size(self._done)} of {_size(self._total)}"
            if self._done > self._first:
                left = took * (self._total - self._done) / (self._done - self._first)
                words += f", {duration(left)} left"
        elif self._done:
            words += f"{_size(self._done)}, {duration(took)} so far"
        else:
            words += f"{duration(took)} so far"
        # Not by the console, which leaves the program when nobody reads any more.
        with contextlib.suppress(OSError):
            print(words, file=self._console.file, flush=True)


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.0f} kB"
