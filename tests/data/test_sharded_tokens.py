"""A split in several files is indexed as one array, also beyond 2^32 tokens."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash

from simsmoe_cli.data.sharded_tokens import SPARE_FILES, ShardedTokens, allow_open_files
from simsmoe_cli.data.split_tokens import CHUNK_BYTES, ChunkSums, Expected, SplitTokens
from simsmoe_cli.data.streams import TrainStreams, evaluation_blocks
from simsmoe_cli.errors import UserError


def damaged(reason: str) -> UserError:
    return UserError(reason)


def shard(path: Path, ids: np.ndarray) -> SplitTokens:
    path.write_bytes(ids.tobytes())
    sums = ChunkSums()
    sums.feed(ids)
    return SplitTokens(
        path,
        Expected(ids.dtype, len(ids), 1000, "xxh3_64", CHUNK_BYTES, tuple(sums.finish())),
        damaged,
    )


@pytest.fixture
def parts() -> list[np.ndarray]:
    ids = np.random.default_rng(0).integers(0, 1000, 500).astype("<u2")
    return np.split(ids, [1, 200, 203])


@pytest.fixture
def tokens(tmp_path: Path, parts: list[np.ndarray]) -> ShardedTokens:
    return ShardedTokens([shard(tmp_path / str(n), part) for n, part in enumerate(parts)])


def test_indexing_is_that_of_the_joined_array(
    tokens: ShardedTokens, parts: list[np.ndarray]
) -> None:
    whole = np.concatenate(parts)
    assert len(tokens) == 500
    assert tokens.dtype == whole.dtype
    keys = [0, 1, -1, 202, slice(None), slice(0, 1), slice(150, 300), slice(-20, None)]
    keys += [slice(5, 5), slice(300, 20, -7), np.array([[0, 499], [-500, 200]]), np.arange(0)]
    for key in keys:
        np.testing.assert_array_equal(tokens[key], whole[key])
        assert tokens[key].dtype == whole.dtype
    np.testing.assert_array_equal(np.asarray(tokens), whole)
    for key in (500, -501, np.array([3, 500])):
        with pytest.raises(IndexError):
            tokens[key]


def test_training_and_evaluation_read_what_they_read_of_one_file(
    tokens: ShardedTokens, parts: list[np.ndarray]
) -> None:
    whole = np.concatenate(parts)
    for seed in (None, 3):
        ours, one = (TrainStreams(ids, 3, 10, shuffle_seed=seed) for ids in (tokens, whole))
        for step in range(30):
            for mine, expected in zip(ours.read(step)[:2], one.read(step)[:2], strict=True):
                assert torch.equal(mine, expected)
    pairs = zip(evaluation_blocks(tokens, 2, 10), evaluation_blocks(whole, 2, 10), strict=True)
    for mine, expected in pairs:
        assert torch.equal(mine[0], expected[0])
        assert torch.equal(mine[1], expected[1])


def test_a_changed_shard_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    first = shard(tmp_path / "a", np.arange(10, dtype="<u2"))
    (tmp_path / "b").write_bytes(bytes(20))
    sums = ("0" * 16,)
    expected = Expected(np.dtype("<u2"), 10, 1000, "xxh3_64", CHUNK_BYTES, sums)
    tokens = ShardedTokens([first, SplitTokens(tmp_path / "b", expected, damaged)])
    assert tokens[9] == 9
    with pytest.raises(UserError, match="b was changed"):
        tokens[10]
    with pytest.raises(UserError, match="b was changed"):
        tokens.check_all()


def test_positions_beyond_2_to_the_32(tmp_path: Path) -> None:
    """Five files of 2^30 bytes, which are zeros that take no room on the disk but for one place."""
    size = 1 << 30
    zeros = xxhash.xxh3_64_hexdigest(bytes(CHUNK_BYTES))
    marked = np.zeros(CHUNK_BYTES, dtype="u1")
    marked[1000:1040] = np.arange(40)
    shards = []
    for number in range(5):
        path = tmp_path / f"{number}.bin"
        with open(path, "wb") as file:
            file.truncate(size)
            sums = [zeros] * (size // CHUNK_BYTES)
            if number == 4:
                file.seek(size - CHUNK_BYTES)
                file.write(marked.tobytes())
                sums[-1] = xxhash.xxh3_64_hexdigest(marked.tobytes())
        facts = Expected(np.dtype("u1"), size, 40, "xxh3_64", CHUNK_BYTES, tuple(sums))
        shards.append(SplitTokens(path, facts, damaged))
    tokens = ShardedTokens(shards)
    assert len(tokens) == 5 << 30 > 1 << 32
    place = (5 << 30) - CHUNK_BYTES + 1000
    np.testing.assert_array_equal(tokens[place : place + 40], np.arange(40))
    index = np.array([place + 39, 3, 1 << 32])
    np.testing.assert_array_equal(tokens[index], [39, 0, 0])
    # One stream whose last block holds the marked place.
    streams = TrainStreams(tokens, batch=1, block=(5 << 30) - place - 1)
    inputs, targets, _ = streams.read(streams.blocks - 1)
    last = (streams.blocks - 1) * streams.block
    begin = place - last
    assert 0 <= begin < streams.block
    assert inputs[0, begin : begin + 40].tolist() == list(range(40))[: streams.block - begin]
    assert targets[0, begin - 1].item() == 0


def test_there_is_room_for_all_descriptors_of_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("open files cannot be counted here")
    before = len(list(descriptors.iterdir()))
    shards = [shard(tmp_path / str(n), np.arange(5, dtype=np.uint8)) for n in range(20)]
    each = (len(list(descriptors.iterdir())) - before) / len(shards)
    assert each >= 1
    limits: list[tuple[int, int]] = []
    hard = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    allow_open_files(1000)
    assert limits == [(limits[0][0], hard)]
    assert limits[0][0] >= 1000 * each + SPARE_FILES
