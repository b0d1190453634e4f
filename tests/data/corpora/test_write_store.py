"""A text becomes the files of a store, with bounded memory."""

from __future__ import annotations

import errno
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data import ids_file
from simsmoe_cli.data.corpora import write_store
from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.errors import EXIT_DATA, UserError
from tests.data.corpora.small import SPLITS, TEXT, WIKI, decoded


def test_wikitext_keeps_its_splits_with_one_eos_a_line(
    small_wikitext: Path, tmp_path: Path
) -> None:
    store = prepare("wikitext-2", tmp_path / "data" / "w", source=str(small_wikitext))
    assert (store.manifest.tokenizer, store.manifest.unit) == ("words", "word")
    assert store.manifest.whole
    words = {
        split: [w for line in text.splitlines() for w in [*line.split(), "<eos>"]]
        for split, text in WIKI.items()
    }
    vocabulary = {word for split in words.values() for word in split}
    assert store.manifest.vocab_size == len(vocabulary)
    for split, expected in words.items():
        info = store.manifest.splits[split]
        assert info.tokens == info.words == len(expected)
        decoded = store.tokenizer.decode(store.split(split)).replace("\n", " <eos> ").split()
        assert decoded == expected


def test_sub_word_stores_count_the_words_of_the_word_level_file(
    small_wikitext: Path, tmp_path: Path
) -> None:
    words = prepare("wikitext-2", tmp_path / "data" / "w", source=str(small_wikitext))
    others = prepare(
        "wikitext-2", tmp_path / "data" / "b", source=str(small_wikitext), tokenizer="bytes"
    )
    for split in SPLITS:
        assert others.manifest.splits[split].words == words.manifest.splits[split].tokens


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    own = tmp_path / "big.txt"
    own.write_text(TEXT * (24_000_000 // len(TEXT.encode())))
    tracemalloc.start()
    prepare(str(own), tmp_path / "data" / "big")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


def test_the_training_sample_of_pieces_is_bounded(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"tokenizer": "sentencepiece", "vocab_size": 320}
    everything = prepare(str(own), tmp_path / "data" / "all", **options)
    monkeypatch.setattr(write_store, "SAMPLE_BYTES", 20_000)
    part = prepare(str(own), tmp_path / "data" / "part", **options)
    assert part.manifest.vocabulary != everything.manifest.vocabulary
    assert "".join(decoded(part).values()) == TEXT


def test_a_disk_that_fails_while_text_is_encoded_is_an_error(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def fail(descriptor: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            asked.set()
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(ids_file, "SYNC_BYTES", 1)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="input/output error") as raised:
        prepare(str(own), tmp_path / "store")
    assert asked.is_set()
    assert raised.value.code == EXIT_DATA
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store.lock", "own.txt"]
