"""Tokenizer bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simsmoe_cli.data.tokenizers.bytes import BytesTokenizer
from tests.data.tokenizers.texts import TEXT, chunks_of


@given(st.binary(min_size=1))
def test_bytes_are_ranks_in_the_sorted_alphabet(content: bytes) -> None:
    tokenizer = BytesTokenizer.fit(chunks_of(content, 3))
    alphabet = sorted(set(content))
    assert tokenizer.vocab_size == len(alphabet)
    assert tokenizer.encode(content).tolist() == [alphabet.index(byte) for byte in content]


@given(TEXT)
def test_bytes256_knows_every_text(text: str) -> None:
    tokenizer = BytesTokenizer()
    assert tokenizer.encode(text).tobytes() == text.encode()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(TEXT)
def test_the_bytes_of_a_text_come_back(text: str) -> None:
    tokenizer = BytesTokenizer.fit([text.encode()])
    assert tokenizer.decode(tokenizer.encode(text)) == text
