"""The ids of a split that lies in several files, read as one.

Positions are 64-bit, so a split may have more than 2^32 tokens. The checks of each file are those
of `SplitTokens`.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.data.split_tokens import Key, SplitTokens

SPARE_FILES = 512  # that the rest of the process may open


def allow_open_files(count: int) -> None:
    """Raise this process's limit of open files, as far as the system lets it, for a store of so
    many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * count + SPARE_FILES  # each is open to be read, and mapped
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class ShardedTokens:
    """A split to be indexed like a one-dimensional array; the arrays it gives are read-only.

    Args:
        shards: the files, in order; 1 to 65,536, all of one dtype.

    Raises:
        UserError: (from indexing and checking) a file does not match its description.
    """

    def __init__(self, shards: Sequence[SplitTokens]):
        assert 0 < len(shards) <= 1 << 16
        self._shards = list(shards)
        lengths = [len(shard) for shard in self._shards]
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._begins = self._ends - lengths

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._shards[0].dtype

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: Key) -> NDArray[Any]:
        """The ids at an index, in a slice, or at an array of indices, in its shape."""
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step, dtype=np.int64)]
            parts = [
                shard[max(start - begin, 0) : stop - begin]
                for shard, begin, end in zip(self._shards, self._begins, self._ends, strict=True)
                if start < end and stop > begin
            ]
            ids = np.concatenate(parts) if parts else np.empty(0, self.dtype)
        else:
            index: NDArray[np.int64] = np.asarray(key, dtype=np.int64)
            if index.size and not (-len(self) <= index.min() and index.max() < len(self)):
                raise IndexError(f"index out of range of {len(self):,} tokens")
            index = np.where(index < 0, index + len(self), index)
            ids = np.empty(index.size, self.dtype)
            flat = index.ravel()
            # Sorting small integers takes time proportional to their number.
            shard_of = np.searchsorted(self._ends, flat, side="right").astype(np.uint16)
            order = np.argsort(shard_of, kind="stable")
            numbers, firsts = np.unique(shard_of[order], return_index=True)
            for number, places in zip(numbers, np.split(order, firsts[1:]), strict=False):
                ids[places] = self._shards[number][flat[places] - self._begins[number]]
            ids = ids.reshape(index.shape)
        ids.flags.writeable = False
        return ids

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[:], dtype=dtype, copy=copy)

    def check_all(self) -> None:
        """Check every chunk that was not checked before."""
        for shard in self._shards:
            shard.check_all()
