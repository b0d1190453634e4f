"""Reads the end of a run's log.txt, which holds what the training printed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from simsmoe_cli.monitor.draw.sanitize import clean

TAIL_BYTES = 64 << 10
LINES = 1000
LONGEST = 2000  # characters


class PrintedTail:
    """The end of one log.txt; use from one thread at a time.

    Args:
        path: the file; it need not exist.

    Attributes:
        lines: the last ones, oldest first, safe to print.
    """

    def __init__(self, path: Path):
        self._path = path
        self._seen: tuple[int, int] | None = None
        self.lines: tuple[str, ...] = ()

    def poll(self) -> bool:
        """Read what is new; returns whether the lines changed. A file that is gone keeps its
        lines."""
        try:
            info = os.stat(self._path)
            seen = info.st_size, info.st_mtime_ns
            if seen == self._seen or not stat.S_ISREG(info.st_mode):
                return False
            with open(self._path, "rb") as file:
                begin = max(0, info.st_size - TAIL_BYTES)
                file.seek(begin)
                content = file.read(TAIL_BYTES)
        except OSError:
            return False
        self._seen = seen
        lines = content.decode(errors="replace").split("\n")
        if begin:
            lines = lines[1:]  # torn
        if not lines[-1]:
            lines.pop()
        before, self.lines = self.lines, tuple(clean(line, LONGEST) for line in lines[-LINES:])
        return before != self.lines
