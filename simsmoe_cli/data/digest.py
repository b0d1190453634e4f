"""A sha256 that is computed beside the work that feeds it."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class Digest:
    """sha256 in a thread of its own, never more than one piece behind.

    hashlib lets go of the interpreter's lock, so reading, encoding and writing go on meanwhile.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> Digest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()

    def update(self, piece: Any) -> None:
        """Go on with a piece of bytes, which must not change any more."""
        self._wait()
        self._pending = self._thread.submit(self._hash.update, piece)

    def hexdigest(self) -> str:
        """The hash of all pieces so far."""
        self._wait()
        return self._hash.hexdigest()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
