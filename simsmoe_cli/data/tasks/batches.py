"""Makes padded batches from the token ids of a task.

A batch holds texts of similar length: a pass over the data is shuffled, cut into pools of POOL
batches, each pool sorted by length and cut into batches, and the batches are shuffled. Which texts
are in a batch follows from seed and position alone.

Shapes: E examples, B batch, M longest text of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsmoe_cli.data.tasks.encode import EncodedSplit

POOL = 64


@dataclass(frozen=True)
class Batch:
    """Some texts, padded at the end to the length of the longest.

    Attributes:
        ids: [B, M] int64; 0 where there is padding.
        mask: [B, M] bool; False where there is padding.
        labels: [B] int64.
        index: which examples of the split these are [B] int64.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    index: Tensor


class TaskBatches:
    """A split in shuffled batches of texts of similar length, pass after pass.

    Args:
        split: E examples.
        batch: B; the last batch of a pass, wherever the shuffle puts it, may hold fewer.
        seed: of the order.
    """

    def __init__(self, split: EncodedSplit, batch: int, seed: int):
        self.split = split
        self.batch = batch
        self.seed = seed
        self._order: tuple[int, list[NDArray[np.int64]]] | None = None

    def __len__(self) -> int:
        """Batches of a pass."""
        return -(-len(self.split) // self.batch)

    def read(self, step: int) -> Batch:
        """The batch of a step, counted from 0 through all passes; any step may be read at once."""
        return collate(self.split, self._pass(step // len(self))[step % len(self)])

    def tokens_read(self, steps: int) -> int:
        """Tokens of the first steps, padding left out."""
        passes, batches = divmod(steps, len(self))
        tokens = passes * len(self.split.ids)
        if batches:
            lengths = self.split.lengths
            tokens += sum(int(lengths[index].sum()) for index in self._pass(passes)[:batches])
        return tokens

    def _pass(self, number: int) -> list[NDArray[np.int64]]:
        known = self._order  # taken once: another thread may be a pass ahead
        if known is None or known[0] != number:
            generator = np.random.default_rng([self.seed, number])
            shuffled = generator.permutation(len(self.split))
            lengths = self.split.lengths
            for pool in _cut(shuffled, POOL * self.batch):
                pool[:] = pool[np.argsort(lengths[pool], kind="stable")]
            batches = _cut(shuffled, self.batch)
            known = number, [batches[i] for i in generator.permutation(len(batches))]
            self._order = known
        return known[1]


def evaluation_batches(split: EncodedSplit, batch: int) -> Iterator[Batch]:
    """Every example of a split once, the shortest first; `index` says which is which."""
    for index in _cut(np.argsort(split.lengths, kind="stable"), batch):
        yield collate(split, index)


def collate(split: EncodedSplit, index: NDArray[np.int64]) -> Batch:
    """The batch of these examples [B]."""
    lengths = split.lengths[index]
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = np.concatenate([split.row(i) for i in index])
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.from_numpy(split.labels[index]),
        torch.from_numpy(index.copy()),
    )


def _cut(index: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Views of `size` elements, the last with what is left."""
    return [index[start : start + size] for start in range(0, len(index), size)]
