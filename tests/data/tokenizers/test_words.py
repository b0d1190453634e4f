"""Tokenizer words."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given

from simsmoe_cli.data.tokenizers import words
from simsmoe_cli.data.tokenizers.base import whole_blocks
from simsmoe_cli.data.tokenizers.words import WordsTokenizer
from simsmoe_cli.errors import UserError
from tests.data.tokenizers.texts import LINES, PROSE, chunks_of


@given(LINES)
def test_words_come_back_with_one_eos_a_line(lines: list[str]) -> None:
    text = "".join(line + "\n" for line in lines)
    tokenizer = WordsTokenizer.fit([text.encode()])
    ids = tokenizer.encode(text)
    assert len(ids) == sum(len(line.split()) + 1 for line in lines)
    assert tokenizer.decode(ids) == text


def test_words_are_numbered_by_falling_frequency() -> None:
    text = b"b a a\nc b a <unk> d\n"
    tokenizer = WordsTokenizer.fit([text])
    assert tokenizer.decode(range(tokenizer.vocab_size)).split(" ") == ["<unk>\na", "b", "c", "d"]
    assert tokenizer.encode("a <unk> never d\n").tolist() == [2, 0, 0, 5, 1]


def test_a_vocabulary_size_keeps_the_most_frequent_words() -> None:
    occurring = [word for word in PROSE.split() if word]
    counts = Counter(occurring)
    best = sorted(counts, key=lambda word: (-counts[word], word.encode()))[:48]
    tokenizer = WordsTokenizer.fit([PROSE.encode()], vocab_size=50)
    assert tokenizer.vocab_size == 50
    kept = np.isin(occurring, best)
    assert (tokenizer.encode(" ".join(occurring)) != 0).tolist() == kept.tolist()
    assert not kept.all()


def test_a_text_without_white_space_has_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "LONGEST_WORD", 1000)
    with pytest.raises(UserError, match="no white space"):
        list(whole_blocks(chunks_of(b"x" * 5000, 100), WordsTokenizer.safe_cut))
