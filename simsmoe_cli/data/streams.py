"""A split cut into contiguous streams, read block by block.

Training cuts the tokens into `batch` streams of equal length. Step s reads block s of every stream,
so memory carried over from the previous block belongs to the same text. Models that carry no memory
read the same blocks in an order shuffled anew for every pass. Either way, which tokens a step reads
follows from the step alone. After the last block a new pass begins.

Evaluation predicts every token of a split exactly once.

Shapes: B streams, M block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsmoe_cli.data.sharded_tokens import ShardedTokens
from simsmoe_cli.data.split_tokens import SplitTokens
from simsmoe_cli.errors import DataError

Tokens = NDArray[np.unsignedinteger] | SplitTokens | ShardedTokens
IGNORED = -100


class TrainStreams:
    """Contiguous training streams.

    Args:
        tokens: one split, one-dimensional.
        batch: B.
        block: M.
        shuffle_seed: None reads every stream in order; a number shuffles all blocks of a pass.
        rows: which rows of a batch are read, if not all of them; they hold the same tokens.

    Raises:
        UserError: the split is shorter than one block for every stream.
    """

    def __init__(
        self,
        tokens: Tokens,
        batch: int,
        block: int,
        shuffle_seed: int | None = None,
        rows: Sequence[int] | None = None,
    ):
        self.batch = batch
        self.block = block
        self.shuffle_seed = shuffle_seed
        self.rows = None if rows is None else np.array(rows, dtype=np.int64)
        self.length = len(tokens) // batch
        if self.length < block + 1:
            raise DataError(
                f"the train split has {len(tokens):,} tokens, fewer than one block for every "
                f"stream ({batch} x {block + 1} = {batch * (block + 1):,})",
                hint="Lower train.batch or train.block, or prepare more text.",
            )
        self.tokens = tokens
        self.blocks = (self.length - 1) // block
        self._shuffled: tuple[int, NDArray[np.int64]] | None = None

    def read(self, step: int) -> tuple[Tensor, Tensor, bool]:
        """Inputs and targets of a step, [rows, M] int64 each, and whether streams start over."""
        index = step % self.blocks
        if self.shuffle_seed is None:
            start_B = np.arange(self.batch) * self.length + index * self.block
        else:
            blocks = self._order(step // self.blocks)[index * self.batch : (index + 1) * self.batch]
            start_B = blocks % self.batch * self.length + blocks // self.batch * self.block
        if self.rows is not None:
            start_B = start_B[self.rows]
        window = self.tokens[start_B[:, None] + np.arange(self.block + 1)]
        inputs = torch.from_numpy(window[:, :-1].astype(np.int64))
        targets = torch.from_numpy(window[:, 1:].astype(np.int64))
        return inputs, targets, index == 0

    def _order(self, number: int) -> NDArray[np.int64]:
        """All blocks of a pass, shuffled: block * batch + stream."""
        if self._shuffled is None or self._shuffled[0] != number:
            generator = np.random.default_rng([self.shuffle_seed or 0, number])
            self._shuffled = (number, generator.permutation(self.blocks * self.batch))
        return self._shuffled[1]


def evaluation_steps(
    total: int, streams: int, block: int, overlap: int = 0, max_blocks: int = 0, warm_up: int = 0
) -> tuple[int, int]:
    """How many times `evaluation_streams` yields, and the tokens it gives each time.

    Args:
        total: tokens of the split; the others as of `evaluation_streams`.
    """
    block, _, ahead, bounds = _plan(total, streams, block, overlap, warm_up)
    return _steps(ahead, bounds, max_blocks), block * (len(bounds) - 1)


def _plan(
    total: int, streams: int, block: int, overlap: int, warm_up: int
) -> tuple[int, int, int, NDArray[np.int64]]:
    """Tokens of a block, tokens it scores, blocks that each stream reads ahead, and the first block
    of each stream's part [B + 1]."""
    block = min(block, max(total - 1, 1))
    stride = block - min(overlap, block - 1)
    blocks = -(-(total - 1) // stride)
    ahead = -(-warm_up // stride)
    streams = max(1, min(streams, blocks, blocks // max(ahead, 1)))
    bounds = np.linspace(0, blocks, streams + 1).astype(np.int64)
    return block, stride, ahead * (streams > 1), bounds


def _steps(ahead: int, bounds: NDArray[np.int64], max_blocks: int) -> int:
    """Blocks that the longest stream reads."""
    steps = ahead + int(np.diff(bounds).max())
    return min(steps, max_blocks) if max_blocks else steps


def evaluation_blocks(
    tokens: Tokens, streams: int, block: int, overlap: int = 0, max_blocks: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets of `evaluation_streams` that start without a warm-up."""
    for inputs, targets, _ in evaluation_streams(tokens, streams, block, overlap, max_blocks):
        yield inputs, targets


def evaluation_streams(
    tokens: Tokens,
    streams: int,
    block: int,
    overlap: int = 0,
    max_blocks: int = 0,
    warm_up: int = 0,
) -> Iterator[tuple[Tensor, Tensor, NDArray[np.bool_]]]:
    """Inputs and targets, [B, M] int64 each, that cover tokens 1 .. n-1 exactly once as targets.

    The split is cut into blocks, the same whatever B is, and the blocks into contiguous streams
    that are read side by side. Targets not to be scored (padding, warm-up, and the `overlap` first
    positions of a block, which give context only) are IGNORED.

    Args:
        tokens: one split, n tokens.
        streams: B at most; fewer for a split too short for so many, or for their warm-up.
        block: M.
        overlap: positions at the start of each block that only give context.
        max_blocks: stop after so many blocks; 0 reads all.
        warm_up: tokens that each stream reads before its part, without scoring them, so that its
            carried memory is the same as if it had read the split from the start.

    Yields:
        Inputs, targets, and which streams [B] begin with this block: they carry nothing into it.
    """
    total = len(tokens)
    block, stride, ahead, bounds = _plan(total, streams, block, overlap, warm_up)
    begins = np.maximum(bounds[:-1] - ahead, 0)
    for step in range(_steps(ahead, bounds, max_blocks)):
        # Streams near the start of the split have less to read ahead, and wait.
        number = bounds[:-1] - ahead + step  # of the block that each stream reads
        first = 1 + np.maximum(number, 0) * stride  # the first target each stream scores now
        start = np.maximum(first - 1 - (block - stride), 0)
        # Past the end of the split the last token is repeated; those targets are not scored.
        position = start[:, None] + np.arange(block + 1)
        window = tokens[np.minimum(position, total - 1)].astype(np.int64)
        own = (number >= bounds[:-1]) & (number < bounds[1:])
        scored = (position[:, 1:] >= first[:, None]) & (position[:, 1:] < first[:, None] + stride)
        scored &= own[:, None] & (position[:, 1:] < total)
        targets = np.where(scored, window[:, 1:], IGNORED)
        yield torch.from_numpy(window[:, :-1]), torch.from_numpy(targets), number == begins
