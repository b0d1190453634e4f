"""Progress of a command that works in stages, such as preparing data.

On a terminal a bar shows the share done and the time left. Elsewhere a line is printed for each
tenth, and in any case every ten seconds, also while a stage reports nothing; what takes a few
seconds prints none.
"""

from __future__ import annotations

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
from simsmoe_cli.cli.silence import SILENT_S, SilenceBreaker, say_aside
from simsmoe_cli.errors import escaped

FIRST_S = 5.0  # no tenth is printed before


class StageProgress:
    """Shows stages; use as a context manager, and call it with a stage, the amount done and the
    amount in all (None: not known).

    Args:
        console: of stderr.
        in_bytes: whether amounts are bytes, and shown; otherwise only their share is.
    """

    def __init__(self, console: Console, *, in_bytes: bool = True):
        self._console, self._in_bytes = console, in_bytes
        self._bars: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                *(BarColumn(), TaskProgressColumn()),
                *([DownloadColumn()] if in_bytes else []),
                *(TimeElapsedColumn(), TimeRemainingColumn()),
            )
            self._bars = Progress(*columns, console=console, transient=True)
            self._task = self._bars.add_task("", visible=False)
        self._stage, self._done, self._total = "", 0, 0
        self._first = 0  # done when the stage began: the work of an earlier, interrupted command
        self._tenth = 0
        self._begun = self._stage_begun = time.monotonic()
        self._lock = threading.Lock()
        self._silence = SilenceBreaker(self._break_silence, SILENT_S)

    def __enter__(self) -> StageProgress:
        if self._bars is not None:
            self._bars.start()
        else:
            self._silence.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._silence.stop()
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        with self._lock:
            fresh = stage != self._stage
            if fresh:
                self._stage, self._first, self._tenth = stage, done, 0
                self._stage_begun = time.monotonic()
            self._done, self._total = done, total or 0
            if self._bars is not None:
                if fresh:
                    self._bars.reset(self._task, description=escaped(stage), visible=True)
                self._bars.update(self._task, completed=done, total=total)
                return
            tenth = 10 * done // total if total else 0
            if tenth > self._tenth:
                self._tenth = tenth
                if time.monotonic() - self._begun > FIRST_S:
                    self._say()

    def _break_silence(self) -> None:
        with self._lock:
            if self._stage:
                self._say()

    def _say(self) -> None:
        """Print where the stage is."""
        self._silence.heard()
        took = time.monotonic() - self._stage_begun
        facts = []
        if self._in_bytes and self._done:
            of = f" of {_size(self._total)}" if self._total else ""
            facts.append(f"{_size(self._done)}{of}")
        if self._total and self._done > self._first:
            left = took * (self._total - self._done) / (self._done - self._first)
            facts.append(f"{duration(left)} left")
        elif not self._total or not self._done:
            facts.append(f"{duration(took)} so far")
        share = f"{self._done / self._total:4.0%} " if self._total else ""
        say_aside(self._console, f"{share}{self._stage}: {', '.join(facts)}")


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.0f} kB"
