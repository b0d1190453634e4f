"""Chooses the windows of held-out text to read, and those on which similarity is measured.

Windows are spread evenly over a split. For attention that carries memory they are instead a few
streams of consecutive blocks, and similarity is measured on the last blocks, whose memory is
fullest.

Shapes: B windows or streams, M block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.data.streams import IGNORED, Tokens, evaluation_blocks

STREAMS = 8  # with carried memory: more would cover more text, fewer would fill more memory
BATCH_TOKENS = 8192  # tokens that go through a model at once, at most
LOGITS = 2**27  # logits of a batch, at most


def tokens_per_batch(vocab_size: int) -> int:
    """How many tokens go through a model at once such that their logits fit into memory."""
    return min(BATCH_TOKENS, LOGITS // max(1, vocab_size))


def next_token_nats(logits_BMV: Tensor, targets_BM: Tensor) -> float:
    """Summed cross-entropy of the targets that are not ignored, computed in fp32."""
    nats = F.cross_entropy(
        logits_BMV.flatten(0, 1).float(),
        targets_BM.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
    return nats.item()


def evaluation_windows(
    tokens: Tokens, block: int, count: int, rows: int, carries_memory: bool, together: int
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Inputs and targets [B, M] of about `count` tokens, and whether they are measured.

    Args:
        tokens: one split.
        block: M.
        count: tokens to read.
        rows: tokens to measure similarity on.
        carries_memory: batches are consecutive blocks of the same streams, and the last ones are
            measured; otherwise windows are independent, and the measured ones are spread evenly.
        together: tokens of a batch, about; at least one block.
    """
    if carries_memory:
        streams = max(1, min(STREAMS, rows // block, together // block))
        steps = max(1, count // (streams * block))
        batches = list(evaluation_blocks(tokens, streams, block, max_blocks=steps))
        measured = max(1, round(rows / (streams * block)))
        for number, (inputs, targets) in enumerate(batches):
            yield inputs, targets, number >= len(batches) - measured
        return
    ((inputs, targets),) = evaluation_blocks(tokens, max(1, count // block), block, max_blocks=1)
    wanted = max(1, min(len(inputs), rows // inputs.shape[1]))
    chosen = torch.zeros(len(inputs), dtype=torch.bool)
    chosen[torch.linspace(0, len(inputs) - 1, wanted).round().long()] = True
    step = max(1, together // block)
    for measured in (True, False):
        some = chosen == measured
        for start in range(0, int(some.sum()), step):
            part = slice(start, start + step)
            yield inputs[some][part], targets[some][part], measured
