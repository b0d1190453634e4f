"""Calls into compiled libraries that read files of others: their panics, and what they print."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

RUST_PANIC = "PanicException"  # what libraries written in Rust raise; not an Exception


def is_failure(error: BaseException) -> bool:
    """Whether a library failed; false for what stops the program, such as KeyboardInterrupt."""
    return isinstance(error, Exception) or type(error).__name__ == RUST_PANIC


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Hide text that compiled code writes to file descriptor 2, such as a panic."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no such descriptor
        yield
        return
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
