"""Where a text is cut into splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.errors import EXIT_DATA, UserError
from tests.data.corpora.small import TEXT, WHOLE, decoded


def test_byte_splits_move_on_to_a_character_for_tokenizers_of_characters(
    small_enwik8: bytes, tmp_path: Path
) -> None:
    prefix = tmp_path / "prefix"
    content = WHOLE[:40] + "é".encode() * 2000
    prefix.write_bytes(content)
    store = prepare("enwik8", tmp_path / "data" / "e", source=str(prefix), tokenizer="chars")
    assert "".join(decoded(store).values()).encode() == content
    exact = len(content) * 90 // 100
    assert 0 <= store.manifest.splits["train"].bytes - exact <= 3


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "words", "sentencepiece"])
def test_own_text_is_cut_at_line_ends_and_comes_back(
    own: Path, tmp_path: Path, tokenizer: str
) -> None:
    size = 400 if tokenizer == "sentencepiece" else None
    store = prepare(str(own), tmp_path / "data" / "own", tokenizer=tokenizer, vocab_size=size)
    texts = decoded(store)
    assert "".join(texts.values()) == TEXT
    assert texts["train"].endswith("\n")
    assert texts["valid"].endswith("\n")
    for split, text in texts.items():
        info = store.manifest.splits[split]
        assert info.bytes == len(text.encode())
        assert info.characters == len(text)
        assert info.lines == text.count("\n")
        assert info.words == len(text.split()) + info.lines
        assert info.tokens == len(store.tokenizer.encode(text))
    share = store.manifest.splits["train"].bytes / len(TEXT.encode())
    assert share == pytest.approx(0.9, abs=0.01)


def test_text_without_line_ends_is_cut_between_characters(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("é" * 999)
    store = prepare(str(own), tmp_path / "data" / "own", tokenizer="chars")
    assert sum(info.tokens for info in store.manifest.splits.values()) == 999


def test_many_files_are_split_whole_and_end_with_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(150):
        (folder / f"{number:03}.txt").write_text(f"file {number:03}")
    store = prepare(str(folder), tmp_path / "data" / "many")
    texts = decoded(store)
    lines = [line for text in texts.values() for line in text.splitlines()]
    assert sorted(lines) == [f"file {number:03}" for number in range(150)]
    for text in texts.values():
        assert text.splitlines() == sorted(text.splitlines())


def test_few_files_are_joined_in_order_and_cut(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for letter in "cab":
        (folder / f"{letter}.txt").write_text(f"{letter}\n" * 100)
    store = prepare(str(folder), tmp_path / "data" / "few")
    assert "".join(decoded(store).values()) == "a\n" * 100 + "b\n" * 100 + "c\n" * 100


def test_a_file_that_changes_meanwhile_is_refused(own: Path, tmp_path: Path) -> None:
    def meddle(stage: str, done: int, total: int | None) -> None:
        if stage == "encode":
            own.write_text(TEXT.replace("a", "b"))

    with pytest.raises(UserError, match="changed while it was read") as raised:
        prepare(str(own), tmp_path / "own", on_progress=meddle)
    assert raised.value.code == EXIT_DATA
    assert not (tmp_path / "own").exists()
    prepare(str(own), tmp_path / "own")
