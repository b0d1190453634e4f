"""The ids of a split, memory-mapped, and checked against checksums before they are used.

A split has a checksum, xxh3 (64 bits), for every 16 MiB of its file. A chunk is checked when it is
first read, so unused parts of a corpus take no time; a split that is scored is checked completely
beforehand (`check_all`). This process remembers which chunks of which file were checked, so each is
checked once however often the store is opened. Checking reads with ordinary system calls, one
mebibyte at a time, so that the bytes are still in the processor's cache when they are hashed and
their largest id is found. Of a truncated file, these calls return fewer bytes instead of crashing.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import xxhash
from numpy.typing import NDArray

from simsmoe_cli.errors import NotPermitted, UserError

CHUNK_BYTES = 1 << 24
PIECE_BYTES = 1 << 20
# A file may change twice within one tick of the file system's clock, with equal times after both.
SETTLED_NS = 2_000_000_000

Key = SupportsIndex | slice | NDArray[np.integer[Any]]

_checked: dict[tuple[object, ...], NDArray[np.bool_]] = {}


class ChunkSums:
    """The checksums of ids that are fed, one per chunk."""

    def __init__(self) -> None:
        self._finished: list[str] = []
        self._hash = xxhash.xxh3_64()
        self._room = CHUNK_BYTES

    def feed(self, ids: NDArray[Any]) -> None:
        """Add some ids, one-dimensional."""
        rest = ids.view(np.uint8)
        while rest.size:
            part, rest = rest[: self._room], rest[self._room :]
            self._hash.update(part.data)
            self._room -= part.size
            if not self._room:
                self._close()

    def finish(self) -> list[str]:
        """All checksums; the last one may be of a shorter chunk."""
        if self._room < CHUNK_BYTES:
            self._close()
        return self._finished

    def _close(self) -> None:
        self._finished.append(self._hash.hexdigest())
        self._hash.reset()
        self._room = CHUNK_BYTES


@dataclass(frozen=True)
class Expected:
    """The description of a split's file in the manifest.

    Attributes:
        dtype: of the ids.
        tokens: how many there are.
        vocab_size: every id is below this.
        algorithm: a name in `xxhash` or `hashlib`.
        chunk_bytes: bytes that one checksum covers.
        checksums: hexadecimal, one per chunk.
    """

    dtype: np.dtype[Any]
    tokens: int
    vocab_size: int
    algorithm: str
    chunk_bytes: int
    checksums: tuple[str, ...]


class SplitTokens:
    """A split to be indexed like a one-dimensional array; the arrays it gives are read-only.

    Args:
        path: of its file.
        expected: its description in the manifest.
        damaged: makes the error to raise, given a phrase about the file.

    Raises:
        UserError: (from opening, indexing and checking) the file does not match its description.
    """

    def __init__(self, path: Path, expected: Expected, damaged: Callable[[str], UserError]):
        self._name = path.name
        self._expected = expected
        self._damaged = damaged
        self._bytes = expected.tokens * expected.dtype.itemsize
        self._chunk_tokens = expected.chunk_bytes // expected.dtype.itemsize
        try:
            with open(path, "rb") as file:
                self._file = os.dup(file.fileno())
                weakref.finalize(self, os.close, self._file)
                self._require_size()
                mapped = np.memmap(file, expected.dtype, mode="r", shape=(expected.tokens,))
        except PermissionError:
            raise NotPermitted(path) from None
        except OSError as error:
            raise damaged(f"{self._name} cannot be read ({error.strerror})") from None
        self._ids: NDArray[Any] = np.asarray(mapped)
        self._checked = self._remembered()

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._expected.dtype

    def __len__(self) -> int:
        return self._expected.tokens

    def __getitem__(self, key: Key) -> NDArray[Any]:
        """The ids at an index, in a slice, or at an array of indices, in its shape."""
        if not self._checked.all():
            self._check(self._chunks(key))
        self._require_size()
        ids: NDArray[Any] = self._ids[key]
        return ids

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        self.check_all()
        return np.array(self._ids, dtype=dtype, copy=copy)

    def check_all(self) -> None:
        """Check every chunk that was not checked before."""
        self._check(np.arange(len(self._checked)))

    def _chunks(self, key: Key) -> NDArray[np.integer[Any]]:
        """The chunks that hold the ids at a key; some may come twice."""
        if isinstance(key, slice):
            positions = range(*key.indices(len(self)))
            if not positions:
                return np.arange(0)
            ends = sorted((positions[0], positions[-1]))
            return np.arange(ends[0] // self._chunk_tokens, ends[1] // self._chunk_tokens + 1)
        index: NDArray[np.int64] = np.asarray(key, dtype=np.int64).ravel()
        index = np.where(index < 0, index + len(self), index) // self._chunk_tokens
        return np.clip(index, 0, len(self._checked) - 1)

    def _check(self, chunks: NDArray[np.integer[Any]]) -> None:
        missing = chunks[~self._checked[chunks]]
        if missing.size:
            buffer = np.empty(PIECE_BYTES, dtype=np.uint8)
            for chunk in np.unique(missing).tolist():
                self._check_chunk(chunk, buffer)
                self._checked[chunk] = True

    def _check_chunk(self, chunk: int, buffer: NDArray[np.uint8]) -> None:
        expected = self._expected
        begin = chunk * expected.chunk_bytes
        end = min(begin + expected.chunk_bytes, self._bytes)
        digest = _hash(expected.algorithm)
        largest = 0
        for position in range(begin, end, PIECE_BYTES):
            piece = buffer[: min(PIECE_BYTES, end - position)]
            self._read(piece, position)
            digest.update(piece.data)
            largest = max(largest, int(piece.view(expected.dtype).max()))
        if digest.hexdigest() != expected.checksums[chunk]:
            raise self._damaged(
                f"{self._name} was changed since it was written, between bytes {begin:,} "
                f"and {end:,}: its {expected.algorithm} is {digest.hexdigest()}, not "
                f"{expected.checksums[chunk]}"
            )
        if largest >= expected.vocab_size:
            raise self._damaged(
                f"{self._name} has id {largest:,}, and the vocabulary {expected.vocab_size:,} ids"
            )

    def _read(self, piece: NDArray[np.uint8], position: int) -> None:
        """Fill a buffer from an offset in the file."""
        view = piece.data
        while view:
            try:
                count = os.preadv(self._file, [view], position)
            except OSError as error:
                raise self._damaged(f"{self._name} cannot be read ({error.strerror})") from None
            if not count:
                raise self._damaged(f"{self._name} ends at byte {position:,} of {self._bytes:,}")
            view, position = view[count:], position + count

    def _require_size(self) -> None:
        """Raise a UserError if the file does not have its size: reading a mapping beyond the end of
        its file kills the process."""
        size = os.fstat(self._file).st_size
        if size != self._bytes:
            raise self._damaged(f"{self._name} has {size:,} bytes, not {self._bytes:,}")

    def _remembered(self) -> NDArray[np.bool_]:
        """The chunks of this file that were already checked in this process."""
        file = os.fstat(self._file)
        nothing = np.zeros(len(self._expected.checksums), dtype=np.bool_)
        if time.time_ns() - max(file.st_mtime_ns, file.st_ctime_ns) < SETTLED_NS:
            return nothing
        identity = (file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns)
        return _checked.setdefault((identity, self._expected), nothing)


def _hash(algorithm: str) -> Any:
    """A fresh hash object."""
    if algorithm == "sha256":
        import hashlib

        return hashlib.sha256()
    return xxhash.xxh3_64()
