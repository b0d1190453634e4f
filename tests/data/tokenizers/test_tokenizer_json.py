"""What Hugging Face's tokenizers make of an exported tokenizer: the same ids, the same text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.data.tokenizers.bytes import BytesTokenizer
from simsmoe_cli.data.tokenizers.chars import CharsTokenizer
from simsmoe_cli.data.tokenizers.sentencepiece import SentencePieceTokenizer
from simsmoe_cli.data.tokenizers.tokenizer_json import fast_tokenizer
from simsmoe_cli.data.tokenizers.words import WordsTokenizer
from tests.data.tokenizers.test_incremental_decode import SAMPLE

ALPHABET = "ab é→\n\t字"
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\u2581"))


def exported(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(fast_tokenizer(tokenizer)))


BYTES = BytesTokenizer()
UNIGRAM = SentencePieceTokenizer.fit([(SAMPLE * 40).encode()], 284, "unigram")
FAST = {"bytes": exported(BYTES), "unigram": exported(UNIGRAM)}


def test_bytes_of_a_part_of_all() -> None:
    tokenizer = BytesTokenizer(ALPHABET.encode())
    fast = exported(tokenizer)
    assert fast.get_vocab_size() == tokenizer.vocab_size
    assert fast.encode(ALPHABET).ids == tokenizer.encode(ALPHABET).tolist()
    assert fast.decode(fast.encode(ALPHABET).ids) == ALPHABET


@given(TEXT)
def test_all_bytes(text: str) -> None:
    assert FAST["bytes"].encode(text).ids == BYTES.encode(text).tolist()
    assert FAST["bytes"].decode(BYTES.encode(text).tolist()) == text


def test_chars() -> None:
    tokenizer = CharsTokenizer(ALPHABET)
    fast = exported(tokenizer)
    text = ALPHABET + "a  b" + ALPHABET[::-1]
    assert fast.encode(text).ids == tokenizer.encode(text).tolist()
    assert fast.decode(fast.encode(text).ids) == text


def test_words() -> None:
    tokenizer = WordsTokenizer.fit([SAMPLE.encode()])
    fast = exported(tokenizer)
    text = SAMPLE + "\tzebra\x0b two\r\n\nend"
    assert fast.encode(text).ids == tokenizer.encode(text).tolist()
    assert fast.decode(tokenizer.encode("The café at").tolist()) == "The café at"


@settings(deadline=None)
@given(TEXT)
def test_pieces(text: str) -> None:
    assert FAST["unigram"].encode(text).ids == UNIGRAM.encode(text).tolist()
    assert FAST["unigram"].decode(UNIGRAM.encode(text).tolist()) == text


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_pieces_of_real_text(model: str, shared: Path) -> None:
    text = (shared / "data/tinyshakespeare/input.txt").read_text()[:200_000]
    tokenizer = SentencePieceTokenizer.fit([text.encode()], 1000, model)
    assert tokenizer.is_unigram == (model == "unigram")
    fast = exported(tokenizer)
    sample = text[:50_000] + SAMPLE + "<unk> <0x41> <s>"
    ids = tokenizer.encode(sample).tolist()
    assert fast.encode(sample).ids == ids
    assert fast.decode(ids) == sample
