"""Tokenizer chars."""

from __future__ import annotations

from hypothesis import given

from simsmoe_cli.data.tokenizers.base import whole_blocks
from simsmoe_cli.data.tokenizers.chars import CharsTokenizer
from tests.data.tokenizers.texts import TEXT, chunks_of


@given(TEXT)
def test_characters_are_ranks_in_the_sorted_alphabet_and_come_back(text: str) -> None:
    tokenizer = CharsTokenizer.fit(
        whole_blocks(chunks_of(text.encode(), 2), CharsTokenizer.safe_cut)
    )
    alphabet = sorted(set(text))
    ids = tokenizer.encode(text)
    assert ids.tolist() == [alphabet.index(character) for character in text]
    assert tokenizer.decode(ids) == text
