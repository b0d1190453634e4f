"""The ids of a split are checked before they are used, each chunk once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.split_tokens import CHUNK_BYTES
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, UserError
from tests.data.stores import facts, make_old, seal, shorten


@pytest.fixture
def large(tmp_path: Path) -> TokenStore:
    """A store whose train split has three chunks, the last one short."""
    source = tmp_path / "large.txt"
    source.write_bytes(bytes(range(65, 91)) * (40_000_000 // 26))
    return prepare(str(source), tmp_path / "data" / "large")


def flip(file: Path, byte: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 1 << bit
    file.write_bytes(content)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_flipped_bit_is_found_wherever_it_is(
    store: TokenStore, split: str, place: int, old: bool
) -> None:
    if old:
        make_old(store.path)
    flip(store.path / f"{split}.bin", place)
    opened = TokenStore.open(store.path)
    for use in (
        opened.verify,
        lambda: opened.checked_split(split),
        lambda: opened.split(split)[0],
        lambda: opened.split(split)[-5:],
        lambda: opened.split(split)[np.array([[3, 1], [4, 1]])],
        lambda: np.asarray(opened.split(split)),
    ):
        with pytest.raises(
            UserError, match=rf"{split}\.bin was changed since it was written"
        ) as caught:
            use()
        assert (caught.value.code, caught.value.where) == (EXIT_DATA, str(store.path))
        assert "--force" in caught.value.hint
    other = "valid" if split == "test" else "test"
    assert len(opened.checked_split(other)) == opened.manifest.splits[other].tokens


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "train.bin").write_bytes(bytes((path / "train.bin").stat().st_size)),
        lambda path: (path / "valid.bin").replace(path / "test.bin"),
        lambda path: swap(path / "valid.bin", path / "test.bin"),
        lambda path: (path / "test.bin").write_bytes((path / "test.bin").read_bytes() + b"\0"),
        lambda path: shorten(path / "train.bin"),
    ],
    ids=["zeros", "one for the other", "swapped", "extended", "truncated"],
)
def test_a_split_exchanged_for_another_is_found(
    store: TokenStore, damage: Callable[[Path], object]
) -> None:
    damage(store.path)
    with pytest.raises(UserError) as caught:
        TokenStore.open(store.path).verify()
    assert caught.value.code == EXIT_DATA


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def test_only_the_chunks_that_are_read_are_checked(large: TokenStore) -> None:
    tokens = large.manifest.splits["train"].tokens
    assert len(large.manifest.splits["train"].chunks) == 3
    flip(large.path / "train.bin", CHUNK_BYTES + 1)
    read = TokenStore.open(large.path).split("train")
    read[:CHUNK_BYTES], read[2 * CHUNK_BYTES :], read[np.array([0, tokens - 1])]
    for key in (CHUNK_BYTES + 5, slice(CHUNK_BYTES, None), np.array([0, CHUNK_BYTES, -1])):
        with pytest.raises(UserError, match="between bytes 16,777,216 and 33,554,432"):
            read[key]
    with pytest.raises(UserError, match="between bytes 16,777,216 and 33,554,432"):
        TokenStore.open(large.path).checked_split("train")


def test_a_chunk_is_checked_once_in_a_process(
    large: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0

    def counting(file: int, buffers: list[memoryview], place: int) -> int:
        nonlocal read
        count = preadv(file, buffers, place)
        read += count
        return count

    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", counting)
    size = large.manifest.splits["train"].size
    # As if it had been prepared long ago: what changed just now is looked at again.
    monkeypatch.setattr("simsmoe_cli.data.split_tokens.SETTLED_NS", 0)
    first = TokenStore.open(large.path).split("train")
    first[:10], first[5:20]
    assert read == CHUNK_BYTES
    first.check_all()
    first[:]
    TokenStore.open(large.path).verify()
    others = sum(split.size for split in large.manifest.splits.values()) - size
    assert read == size + others


def test_a_file_that_shrinks_while_it_is_read_is_an_error_and_no_crash(store: TokenStore) -> None:
    tokens = store.checked_split("train")
    os.truncate(store.path / "train.bin", 10)
    for key in (0, slice(-5, None)):
        with pytest.raises(UserError, match=r"train\.bin has 10 bytes"):
            tokens[key]


def test_ids_outside_the_vocabulary_are_refused(store: TokenStore) -> None:
    file = store.path / "valid.bin"
    flip(file, 50, bit=7)
    content = facts(store.path)
    split = content["splits"]["valid"]
    split["chunks"] = [xxhash.xxh3_64_hexdigest(file.read_bytes())]
    seal(store.path, content)
    with pytest.raises(UserError, match=r"valid\.bin has id 1\d\d, and the vocabulary") as caught:
        TokenStore.open(store.path).split("valid")[0]
    assert caught.value.code == EXIT_DATA
