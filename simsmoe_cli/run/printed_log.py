"""log.txt of a run folder: what the training process printed, for people who were not there.

Everything that Python code writes to stdout and stderr is copied line by line, without colours and
without progress bars, which redraw their line. A resumed run adds to the file, training reads
nothing from it, and goes on where it cannot be written.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simsmoe_cli.errors import UserError
from simsmoe_cli.files import atomic

LARGEST = 1 << 20  # bytes; then the older half goes
LONGEST = 2000  # characters of a line
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")


class PrintedLog:
    """Copies what is printed to a file, from `start` to `close`.

    Args:
        path: the log.txt, in a folder that exists.
    """

    def __init__(self, path: Path):
        self._path = path
        self._lock = threading.Lock()
        self._open = False
        self._begun: dict[int, str] = {}  # the last line of each stream, not ended yet
        self._restore: list[Callable[[], None]] = []

    def start(self, title: str) -> None:
        """Begin to copy, below a line with the time and a title."""
        self._open = True
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._append([f"--- {stamp} {title}"])
        for stream in dict.fromkeys(map(_underneath, (sys.stdout, sys.stderr))):
            with contextlib.suppress(AttributeError, TypeError):  # None, or of another make
                self._tap(stream)

    def add(self, text: str) -> None:
        """Add lines of our own."""
        with self._lock:
            self._append(text.splitlines())

    def add_error(self, error: BaseException) -> None:
        """Add why the process ends."""
        self.add(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Stop copying."""
        for restore in self._restore:
            restore()
        with self._lock:
            self._append([_plain(line) for line in self._begun.values() if _plain(line)])
            self._begun, self._restore, self._open = {}, [], False

    def _tap(self, stream: Any) -> None:
        """Copy what is written to a stream. The stream stays the same object, so whoever holds it
        already is copied too."""
        own, write = vars(stream).get("write"), stream.write

        def write_and_copy(text: str) -> Any:
            written = write(text)
            self._copy(id(stream), text)
            return written

        def restore() -> None:
            if vars(stream).get("write") is write_and_copy:
                del stream.write
                if own is not None:
                    stream.write = own

        stream.write = write_and_copy
        self._restore.append(restore)

    def _copy(self, stream: int, text: str) -> None:
        with self._lock:
            *lines, begun = (self._begun.get(stream, "") + text).split("\n")
            # What a progress bar has drawn over is of no use.
            self._begun[stream] = begun.rpartition("\r")[2][-10 * LONGEST :]
            if lines:
                self._append([_plain(line) for line in lines])

    def _append(self, lines: list[str]) -> None:
        if not self._open or not lines:
            return
        try:
            with open(self._path, "ab") as file:
                file.write("".join(f"{line}\n" for line in lines).encode(errors="replace"))
                size = file.tell()
            if size > LARGEST:
                kept = self._path.read_bytes()[-LARGEST // 2 :]
                atomic.write(self._path, kept[kept.find(b"\n") + 1 :].decode(errors="replace"))
        except OSError:
            self._open = False


def _underneath(stream: Any) -> Any:
    """The stream below that of a progress bar of rich."""
    return getattr(stream, "rich_proxied_file", stream)


def _plain(line: str) -> str:
    """What a line shows in the end, without control codes."""
    shown = _CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2])
    return shown if len(shown) <= LONGEST else shown[:LONGEST] + "…"
