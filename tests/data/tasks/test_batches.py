"""Every example once a pass, in batches of texts of similar length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simsmoe_cli.data.tasks import batches as task_batches
from simsmoe_cli.data.tasks.batches import TaskBatches, evaluation_batches
from simsmoe_cli.data.tasks.encode import EncodedSplit


def encoded(lengths: list[int]) -> EncodedSplit:
    """Texts of these lengths; every id is 1 + the text it is of."""
    return EncodedSplit(
        np.repeat(np.arange(len(lengths), dtype=np.int32) + 1, lengths),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.arange(len(lengths), dtype=np.int64) % 3,
        0,
        None,
    )


def require_batch(batch: Any, split: EncodedSplit) -> None:
    lengths = torch.from_numpy(split.lengths)[batch.index]
    assert batch.ids.dtype == batch.labels.dtype == batch.index.dtype == torch.int64
    assert batch.mask.dtype == torch.bool
    assert batch.ids.shape == batch.mask.shape == (len(batch.index), int(lengths.max()))
    assert torch.equal(batch.mask, torch.arange(int(lengths.max())) < lengths[:, None])
    assert torch.equal(batch.ids, (batch.index[:, None] + 1) * batch.mask)
    assert torch.equal(batch.labels, batch.index % 3)


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 3))
def test_a_pass_holds_every_example_once(lengths: list[int], size: int, seed: int) -> None:
    split = encoded(lengths)
    batches = TaskBatches(split, size, seed)
    seen = []
    for number in (0, 1):
        read = [batches.read(number * len(batches) + step) for step in range(len(batches))]
        for batch in read:
            require_batch(batch, split)
        seen.append(torch.cat([batch.index for batch in read]))
        assert sorted(seen[-1].tolist()) == list(range(len(lengths)))
        assert sum(len(batch.index) == size for batch in read) >= len(lengths) // size


@given(LENGTHS, st.integers(1, 9))
def test_evaluation_holds_every_example_once(lengths: list[int], size: int) -> None:
    split = encoded(lengths)
    read = list(evaluation_batches(split, size))
    for batch in read:
        require_batch(batch, split)
    order = torch.cat([batch.index for batch in read])
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths)


def test_any_step_is_read_as_if_all_before_it_had_been() -> None:
    split = encoded([1 + index % 17 for index in range(100)])
    through = TaskBatches(split, 8, seed=5)
    read = [through.read(step) for step in range(3 * len(through))]
    for step in (30, 2, 14, 38):
        again = TaskBatches(split, 8, seed=5).read(step)
        assert torch.equal(again.index, read[step].index)
        assert torch.equal(again.ids, read[step].ids)


def test_passes_and_seeds_differ() -> None:
    split = encoded([5] * 100)
    orders = [
        torch.cat([batches.read(number * len(batches) + step).index for step in range(13)]).tolist()
        for batches in (TaskBatches(split, 8, seed=1), TaskBatches(split, 8, seed=2))
        for number in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_texts_of_a_batch_are_of_similar_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_batches, "POOL", 10)
    generator = np.random.default_rng(0)
    split = encoded(generator.integers(1, 500, 400).tolist())
    batches = TaskBatches(split, 8, seed=0)
    read = [batches.read(step) for step in range(len(batches))]
    padded = sum(batch.ids.numel() for batch in read)
    assert padded < 1.15 * len(split.ids)
    shuffled = generator.permutation(400).reshape(-1, 8)
    assert sum(8 * int(split.lengths[row].max()) for row in shuffled) > 1.5 * len(split.ids)
    # Short ones do not all come first.
    widths = [batch.ids.shape[1] for batch in read]
    assert widths != sorted(widths)
