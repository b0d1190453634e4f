"""Follows runs in a thread of its own, so that a slow disk never holds up a key.

The thread reads in small portions and holds `Following.lock` only while it takes one that has been
read; whoever reads a history from another thread holds the lock meanwhile. Until a long run has
been read, its first and last events and a few in between stand in for it, so that there is a
picture at once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simsmoe_cli.monitor.read.head_tail import head_and_tail
from simsmoe_cli.monitor.read.printed import PrintedTail
from simsmoe_cli.monitor.read.tail import Batch, Tail
from simsmoe_cli.monitor.state.alerts import Thresholds, in_one_line
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.run.folder import RunDir

PORTION_BYTES = 1 << 20
PREVIEW_FROM = 8 << 20  # bytes of a run that is worth a preview
PREVIEW_KINDS = ("train", "router", "similarity")
PREVIEW_SAMPLES = 512  # of a file, where train events are read for the preview
TELL_EVERY_S = 0.5  # while there is much to read
YIELD_S = 0.001  # between portions, for whoever waits for the lock
NO_LOCK = contextlib.nullcontext()  # for who has the only thread

Severity = Literal["information", "warning", "error"]


@dataclass(frozen=True)
class News:
    """Something to show at once, in one line, because it happened while the monitor was running."""

    run: str
    severity: Severity
    text: str


class Follower:
    """One run that is followed.

    Args:
        path: the run folder; it need not exist yet.
        thresholds: when to alert.
        clock: seconds since the epoch.
        name: to call it; None: that of the folder.

    Attributes:
        path: as given.
        history: its history; while a long run is still being read, only the events of its head, its
            tail and a few positions in between.
        version: grows whenever the history changes.
        caught_up: whether all existing events have been read.
    """

    def __init__(
        self,
        path: Path,
        thresholds: Thresholds,
        clock: Callable[[], float],
        name: str | None = None,
    ):
        self.path = path
        self.history = RunHistory(path, thresholds, name)
        self.version = 0
        self.caught_up = False
        self._clock = clock
        self._tail = Tail(RunDir(path).events)
        self._printed = PrintedTail(RunDir(path).printed)
        self._read = self.history

    def preview(self, lock: AbstractContextManager[object] = NO_LOCK) -> None:
        """Show the first and last events of a long run, and a few in between, until all have been
        read.

        Args:
            lock: held while `history` is set, not while files are read.
        """
        events = RunDir(self.path).events
        with contextlib.suppress(OSError):  # polls say what is wrong
            if events.stat().st_size >= PREVIEW_FROM:
                shown = RunHistory(self.path, self.history.thresholds, self.history.name)
                shown.apply(head_and_tail(events, PREVIEW_KINDS, PREVIEW_SAMPLES))
                with lock:
                    self.history = shown
                    self.version += 1

    def poll(self, lock: AbstractContextManager[object] = NO_LOCK) -> tuple[bool, list[News]]:
        """Read a portion of the new events; returns whether there is more, and the news, if there
        are any, as one.

        Args:
            lock: held while `history` changes, not while files are read.
        """
        batch = self._tail.poll(PORTION_BYTES)
        printed = self._printed.poll()
        with lock:
            return batch.more, self._take(batch, printed)

    def _take(self, batch: Batch, printed: bool) -> list[News]:
        """Take what was read into the history; returns the news."""
        live = self.caught_up and not batch.restarted
        history = self._read
        gone = batch.missing and not history.missing and history.total_events > 0
        alerts = history.take(batch, live=live, now=self._clock())
        if batch.events or batch.restarted or batch.notices or alerts or gone:
            self.version += 1
        if printed:
            self.version += 1
        caught_up = not batch.more
        if caught_up or batch.restarted:
            self.history = history
        self.history.printed = self._printed.lines
        if caught_up != self.caught_up:
            self.version += 1
            self.caught_up = caught_up
        told = list(batch.notices)
        if gone:
            told.append("the run's events are gone; waiting")
        if batch.restarted:
            told.append("the run was cut back; read again")
        severity: Severity = "warning" if told else "information"
        if live and alerts:
            told.append(in_one_line(alerts, history.thresholds))
            if not all(alert.recovered for alert in alerts):
                severity = "error"
        return [News(history.name, severity, "; ".join(told))] if told else []


class Following:
    """The runs of a dashboard and the thread that reads them.

    Args:
        runs: followed in this order.
        interval_s: between two looks at their files.
        tell: called from the thread when anything has changed, with the news.
    """

    def __init__(
        self,
        runs: Sequence[Follower],
        interval_s: float,
        tell: Callable[[list[News]], None],
    ):
        self.lock = threading.RLock()
        self.runs = tuple(runs)
        self._interval_s = interval_s
        self._tell = tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow runs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its present read."""
        self._stop.set()

    def _follow(self) -> None:
        for follower in self.runs:
            follower.preview(self.lock)
        self._tell([])
        while not self._stop.is_set():
            more = self._look()
            if not more:
                self._stop.wait(self._interval_s)

    def _look(self) -> bool:
        """Read new events for a while; returns whether there is more."""
        began = time.monotonic()
        before = [follower.version for follower in self.runs]
        news: list[News] = []
        waiting = list(self.runs)
        while waiting and not self._stop.is_set() and time.monotonic() - began < TELL_EVERY_S:
            follower = waiting.pop(0)
            more, told = follower.poll(self.lock)
            news += told
            if more:
                waiting.append(follower)
                self._stop.wait(YIELD_S)
        if not self._stop.is_set() and (
            news or before != [follower.version for follower in self.runs]
        ):
            self._tell(news)
        return bool(waiting)
