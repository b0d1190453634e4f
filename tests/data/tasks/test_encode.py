"""Texts of a task to ids: what is cut, what is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.tasks.encode import EncodedSplit, encode
from simsmoe_cli.data.tasks.prepare import prepare_task
from simsmoe_cli.data.tasks.store import Example
from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.data.tokenizers.bytes import BytesTokenizer
from simsmoe_cli.data.tokenizers.chars import CharsTokenizer
from simsmoe_cli.data.tokenizers.sentencepiece import SentencePieceTokenizer
from simsmoe_cli.data.tokenizers.words import WordsTokenizer
from simsmoe_cli.errors import EXIT_DATA, UserError


def examples(*texts: str) -> list[Example]:
    return [Example(text, index % 2) for index, text in enumerate(texts)]


def decoded(split: EncodedSplit, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(split.row(index)) for index in range(len(split))]


def test_the_ids_of_every_text_stand_one_after_the_other() -> None:
    split = encode(examples("abc", "ü", "de"), BytesTokenizer(), 10)
    assert split.ids.tolist() == [*b"abc", *"ü".encode(), *b"de"]
    assert split.offsets.tolist() == [0, 3, 5, 7]
    assert split.lengths.tolist() == [3, 2, 2]
    assert split.labels.tolist() == [0, 1, 0]
    assert (split.cut, split.unknown, len(split)) == (0, None, 3)


def test_a_long_text_keeps_its_start_or_its_end() -> None:
    texts = examples("0123456789", "01234", "012345")
    start = encode(texts, BytesTokenizer(), 5)
    assert decoded(start, BytesTokenizer()) == ["01234", "01234", "01234"]
    end = encode(texts, BytesTokenizer(), 5, keep="end")
    assert decoded(end, BytesTokenizer()) == ["56789", "01234", "12345"]
    assert start.cut == end.cut == 2


def test_an_unknown_character_becomes_a_space_as_a_whole_and_is_reported() -> None:
    # Of the two bytes of é, c3 a9, the alphabet has one.
    tokenizer = BytesTokenizer(b"abc \xc3")
    split = encode(examples("aéb", "a\tb\tc", "abc"), tokenizer, 10)
    assert decoded(split, tokenizer) == ["a b", "a b c", "abc"]
    unknown = split.unknown
    assert unknown is not None
    assert unknown.counts == {"\t": 2, "é": 1}
    assert (unknown.unit, unknown.became, unknown.examples) == ("character", "a space", 2)
    assert str(unknown) == (
        "3 of 11 characters in 2 texts are not in the tokenizer's vocabulary "
        "and became a space: '\\t' 'é'"
    )


def test_without_a_space_an_unknown_character_is_left_out() -> None:
    tokenizer = CharsTokenizer("abc")
    split = encode(examples("a b", "cab"), tokenizer, 10)
    assert decoded(split, tokenizer) == ["ab", "cab"]
    assert split.unknown is not None
    assert split.unknown.became == "nothing"
    with pytest.raises(UserError, match="text 2 has no token") as caught:
        encode(examples("a", "xyz"), tokenizer, 10)
    assert caught.value.code == EXIT_DATA


def test_unknown_words_are_reported_and_unk_itself_is_not() -> None:
    tokenizer = WordsTokenizer(["<unk>", "<eos>", "a", "film"])
    split = encode(examples("a good film", "good <unk>\nbad", "a"), tokenizer, 10)
    assert split.ids.tolist() == [2, 0, 3, 0, 0, 1, 0, 2]
    assert split.unknown is not None
    assert split.unknown.counts == {"good": 2, "bad": 1}
    assert (split.unknown.unit, split.unknown.became) == ("word", "<unk>")
    assert (split.unknown.examples, split.unknown.of) == (2, 7)
    assert encode(examples("a film", "a <unk>"), tokenizer, 10).unknown is None


def test_pieces_know_every_text() -> None:
    tokenizer = SentencePieceTokenizer.fit([b"a film of films and of a film\n" * 50], 280, "bpe")
    split = encode(examples("a film", "ü film\t\u4e2d"), tokenizer, 100)
    assert split.unknown is None
    assert decoded(split, tokenizer) == ["a film", "ü film\t\u4e2d"]


def test_a_real_task_under_the_bytes_of_a_real_corpus(
    shared: Path, corpus_dir: Path, tmp_path: Path
) -> None:
    task = prepare_task("banking77", tmp_path / "b", source=str(shared / "data/banking77"))
    tokenizer = TokenStore.open(corpus_dir / "sources").tokenizer
    test = task.split("test")
    split = encode(test, tokenizer, 64)
    assert split.cut == sum(len(example.text) > 64 for example in test) > 0
    assert split.unknown is not None
    known = set(tokenizer.decode(range(tokenizer.vocab_size)))
    missing = {
        c: sum(e.text.count(c) for e in test) for e in test for c in e.text if c not in known
    }
    assert split.unknown.counts == missing
    ranked = list(split.unknown.counts.values())
    assert ranked == sorted(ranked, reverse=True)
