"""A file of token ids while it is written: its size, hash and checksums, and its way to the disk.

Hashing and syncing are done in threads beside the encoding.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from simsmoe_cli.data.split_tokens import ChunkSums
from simsmoe_cli.files.background import Background

# The disk is kept busy while the rest is encoded, so that little is left to wait for.
SYNC_BYTES = 1 << 24


class IdsFile:
    """A new file of ids; use as a context manager.

    Attributes:
        hashing: the thread that hashes; it may be given other work on the same text.
        tokens: ids written so far.
        size: bytes written so far.
    """

    def __init__(self, path: Path):
        self.tokens = self.size = 0
        self._path = path
        self._unsynced = 0
        self._digest = hashlib.sha256()
        self._sums = ChunkSums()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> IdsFile:
        self._file = self._stack.enter_context(open(self._path, "wb"))
        self.hashing = self._stack.enter_context(Background())
        self._syncing = self._stack.enter_context(Background())
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def add(self, ids: NDArray[Any]) -> None:
        """Write some ids, one-dimensional and little-endian; they must not change afterwards."""
        self.hashing.submit(self._hash, ids)
        self._file.write(ids.data)
        self.tokens += ids.size
        self.size += ids.nbytes
        self._unsynced += ids.nbytes
        if self._unsynced >= SYNC_BYTES:
            self._syncing.submit(os.fsync, self._file.fileno())
            self._unsynced = 0

    def finish(self) -> tuple[str, list[str]]:
        """Return when the file is on the disk: its SHA-256, and its checksums by chunk."""
        self.hashing.wait()
        self._syncing.wait()
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._digest.hexdigest(), self._sums.finish()

    def _hash(self, ids: NDArray[Any]) -> None:
        self._digest.update(ids.data)
        self._sums.feed(ids)
