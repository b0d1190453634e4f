"""The real files beside the checkout, against the facts published about them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from simsmoe_cli.data.corpora import write_store
from simsmoe_cli.data.corpora.facts import WIKITEXT2, WIKITEXT103
from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.errors import EXIT_DATA, UserError


def test_a_prefix_of_enwik8_is_split_by_bytes_over_its_alphabet(
    shared: Path, tmp_path: Path
) -> None:
    path = shared / "data/enwik8/enwik8_prefix"
    store = prepare("enwik8", tmp_path / "enwik8", source=str(path))
    content = np.fromfile(path, np.uint8)
    assert "4,154,064 of the 100,000,000 bytes" in store.manifest.warnings[0]
    cuts = [0, content.size * 90 // 100, content.size * 95 // 100, content.size]
    alphabet = np.unique(content)
    assert store.manifest.vocab_size == alphabet.size
    for split, start, stop in zip(("train", "valid", "test"), cuts[:-1], cuts[1:], strict=True):
        ids = store.split(split)
        assert ids.dtype == np.uint8
        assert np.array_equal(alphabet[ids], content[start:stop])


def test_text8_has_27_characters(shared: Path, tmp_path: Path) -> None:
    path = str(shared / "data/text8/text8_prefix")
    for kind in ("bytes", "chars"):
        store = prepare("text8", tmp_path / kind, source=path, tokenizer=kind)
        assert store.manifest.vocab_size == 27
        assert store.tokenizer.decode(range(27)) == " abcdefghijklmnopqrstuvwxyz"


def test_one_corpus_is_not_taken_for_another(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not begin as enwik8 does"):
        prepare("enwik8", tmp_path / "e", source=str(shared / "data/text8/text8_prefix"))


def test_wikitext_without_its_train_file_names_it(shared: Path, tmp_path: Path) -> None:
    for given in ("data/wikitext2", "data/wikitext2/valid.txt"):
        with pytest.raises(UserError, match=r"no wiki\.train\.tokens") as caught:
            prepare("wikitext-2", tmp_path / "w", source=str(shared / given))
        assert caught.value.code == EXIT_DATA


def test_wikitext_has_the_published_number_of_words(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wikitext"
    shutil.copytree(shared / "data/wikitext2", folder)
    folder.chmod(0o755)
    (folder / "train.txt").write_text(" \n = Stand-in = \n \n Not the real one . \n")
    store = prepare("wikitext-2", tmp_path / "w", source=str(folder))
    splits = store.manifest.splits
    assert len(store.manifest.warnings) == 1  # valid and test are what they should be
    assert "train.txt holds 4 of the 36,718 lines" in store.manifest.warnings[0]
    assert (splits["valid"].tokens, splits["test"].tokens) == (217_646, 245_569)
    assert (splits["valid"].lines, splits["test"].lines) == (3_760, 4_358)


def test_facts_of_wikitext_are_those_of_the_files(shared: Path) -> None:
    assert WIKITEXT2.members[1:] == WIKITEXT103.members[1:]
    for member in WIKITEXT2.members[1:]:
        content = (shared / f"data/wikitext2/{member.split}.txt").read_bytes()
        assert len(content) == member.size
        assert hashlib.sha256(content).hexdigest() == member.sha256
        assert content.count(b"\n") == member.lines


@pytest.mark.parametrize(
    ("tokenizer", "vocab_size"), [("bytes", 65), ("chars", 65), ("words", 25_672)]
)
def test_tiny_shakespeare_comes_back(
    shared: Path, tmp_path: Path, tokenizer: str, vocab_size: int
) -> None:
    path = shared / "data/tinyshakespeare/input.txt"
    store = prepare(str(path), tmp_path / "ts", tokenizer=tokenizer)
    assert store.manifest.vocab_size == vocab_size
    ids = np.concatenate([store.split(split) for split in ("train", "valid", "test")])
    assert store.tokenizer.decode(ids).split() == path.read_text().split()


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_tiny_shakespeare_in_pieces_comes_back(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setattr(write_store, "SAMPLE_BYTES", 200_000)
    path = shared / "data/tinyshakespeare/input.txt"
    store = prepare(
        str(path), tmp_path / "ts", tokenizer="sentencepiece", vocab_size=1000, sp_model=model
    )
    assert (store.manifest.unit, store.manifest.vocab_size) == ("piece", 1000)
    ids = np.concatenate([store.split(split) for split in ("train", "valid", "test")])
    assert ids.dtype == np.uint16
    assert store.tokenizer.decode(ids) == path.read_text()
    assert len(ids) < path.stat().st_size / 2
