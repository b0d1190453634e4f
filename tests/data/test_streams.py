"""Streams: contiguous in training, every token once in evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simsmoe_cli.data.streams import IGNORED, TrainStreams, evaluation_blocks, evaluation_streams
from simsmoe_cli.errors import EXIT_DATA, UserError


def test_training_streams_are_contiguous_and_start_over() -> None:
    tokens = np.arange(100, dtype=np.uint8)
    streams = TrainStreams(tokens, batch=3, block=8)  # 33 tokens a stream, 4 blocks
    assert streams.blocks == 4
    rows = [streams.read(step) for step in range(4)]
    for stream in range(3):
        inputs = np.concatenate([x[stream] for x, _, _ in rows])
        targets = np.concatenate([y[stream] for _, y, _ in rows])
        assert inputs.tolist() == list(range(33 * stream, 33 * stream + 32))
        assert targets.tolist() == list(range(33 * stream + 1, 33 * stream + 33))
    assert [restart for _, _, restart in rows] == [True, False, False, False]
    again, _, restart = streams.read(4)
    assert restart
    assert again.tolist() == rows[0][0].tolist()


def test_shuffled_blocks_are_all_read_once_a_pass_in_an_order_of_the_seed() -> None:
    tokens = np.arange(100, dtype=np.uint8)
    streams = TrainStreams(tokens, batch=3, block=8, shuffle_seed=5)
    passes = []
    for first in (0, 4):
        rows = [streams.read(step) for step in range(first, first + 4)]
        assert all((y == x + 1).all() for x, y, _ in rows)
        passes.append([x.tolist() for batch, _, _ in rows for x in batch])
    in_order = TrainStreams(tokens, batch=3, block=8)
    expected = [x.tolist() for step in range(4) for x in in_order.read(step)[0]]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(expected)
    assert passes[0] != passes[1]
    again = TrainStreams(tokens, batch=3, block=8, shuffle_seed=5)
    assert again.read(6)[0].tolist() == streams.read(6)[0].tolist()
    other = TrainStreams(tokens, batch=3, block=8, shuffle_seed=6)
    assert [other.read(s)[0].tolist() for s in range(4)] != [
        again.read(s)[0].tolist() for s in range(4)
    ]


def test_a_corpus_shorter_than_a_block_is_an_error() -> None:
    with pytest.raises(UserError, match=r"26 tokens.*2 x 14 = 28") as error:
        TrainStreams(np.zeros(26, dtype=np.uint8), batch=2, block=13)
    assert error.value.code == EXIT_DATA


@given(
    total=st.integers(2, 300),
    streams=st.integers(1, 9),
    block=st.integers(1, 40),
    overlap=st.integers(0, 39),
    warm_up=st.integers(0, 60),
)
def test_evaluation_scores_every_token_once(
    total: int, streams: int, block: int, overlap: int, warm_up: int
) -> None:
    tokens = np.arange(total, dtype=np.uint16)
    scored: list[int] = []
    for inputs, targets, _ in evaluation_streams(tokens, streams, block, overlap, 0, warm_up):
        kept = targets != IGNORED
        scored += targets[kept].tolist()
        # A target stands right after its input.
        assert (targets[kept] == inputs[kept] + 1).all()
        # Every scored position has its context within the block, as far as there is any.
        for row_inputs, row_kept in zip(inputs.tolist(), kept.tolist(), strict=True):
            if True in row_kept:
                first = row_kept.index(True)
                assert first >= min(overlap, block - 1, row_inputs[first], total - 2)
    assert sorted(scored) == list(range(1, total))


def test_evaluation_streams_go_on_where_they_were() -> None:
    tokens = np.arange(64, dtype=np.uint8)
    blocks = list(evaluation_blocks(tokens, streams=2, block=8))
    first = np.concatenate([inputs[0].numpy() for inputs, _ in blocks])
    assert first.tolist() == list(range(len(first)))


def test_max_blocks_reads_the_beginning_of_each_stream() -> None:
    tokens = np.arange(200, dtype=np.uint8)
    blocks = list(evaluation_blocks(tokens, streams=4, block=10, max_blocks=2))
    assert len(blocks) == 2
    assert sum(int((targets != IGNORED).sum()) for _, targets in blocks) == 80


@given(
    total=st.integers(2, 300),
    streams=st.integers(1, 9),
    block=st.integers(1, 40),
    warm_up=st.integers(0, 60),
)
def test_warm_up_reads_what_stands_before_each_stream(
    total: int, streams: int, block: int, warm_up: int
) -> None:
    """Since it began, a stream has read everything before what it scores, from `warm_up` tokens
    before its part or from the start of the split."""
    tokens = np.arange(total, dtype=np.uint16)
    read: list[list[int]] = []
    parts: dict[int, int] = {}
    for inputs, targets, begins in evaluation_streams(tokens, streams, block, warm_up=warm_up):
        read = read or [[] for _ in inputs]
        for row, (own, scored) in enumerate(
            zip(inputs.tolist(), (targets != IGNORED).any(1).tolist(), strict=True)
        ):
            read[row] = own if begins[row] else read[row] + own
            if scored:
                first = parts.setdefault(row, own[0])
                assert read[row][0] <= max(0, first - warm_up)
                gone_on = read[row][: read[row].index(own[-1]) + 1]
                assert gone_on == list(range(read[row][0], own[-1] + 1))
    assert len(parts) == len(read)
