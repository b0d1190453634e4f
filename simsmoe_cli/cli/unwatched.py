"""Keeps a training going when nothing reads its output any more."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO, cast


class _Forgiving:
    """A stream that drops everything after the first write that fails."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As a stream does."""
        with self._forgiven():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """As a stream does."""
        with self._forgiven():
            self._stream.flush()

    @contextlib.contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):
            # Python complains at exit if the buffer cannot be flushed, so it is flushed to nowhere.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Keep going when the output is closed, its disk is full or its terminal goes away."""
    kept = sys.stdout, sys.stderr
    hung_up = None
    if threading.current_thread() is threading.main_thread():
        hung_up = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.stdout, sys.stderr = (
        cast(TextIO, _Forgiving(stream)) if stream is not None else stream for stream in kept
    )
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = kept
        if hung_up is not None:
            signal.signal(signal.SIGHUP, hung_up)
