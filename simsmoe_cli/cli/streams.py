"""The standard streams of a command: opened, safe to print to, and let go of at the end."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Any, TextIO

OUTPUT = "output"  # the name of stdout and stderr in messages


class _Output(io.FileIO):
    """A standard stream. Its write errors name a file called `OUTPUT`."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = OUTPUT
            raise


def prepare_streams() -> None:
    """Make printing safe, however the process was started.

    A closed stream is opened on /dev/null; otherwise the next file to be opened would get its file
    descriptor and the printed text. A character that a stream's encoding lacks is replaced.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _stream(1, sys.stdout)
    sys.stderr = _stream(2, sys.stderr)


def _stream(number: int, before: TextIO | None) -> io.TextIOWrapper:
    """A replacement for a stream of Python's; `before` is None where that was closed."""
    encoding = "utf-8" if before is None else before.encoding
    complete = codecs.lookup(encoding).name.startswith("utf")
    raw = _Output(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace" if complete else "replace",
        line_buffering=number == 2 or raw.isatty(),
    )


def let_go_of_output() -> None:
    """Flush stdout and stderr; discard one that fails, as Python would flush it again at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
