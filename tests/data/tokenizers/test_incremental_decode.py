"""Text given out token by token is the text of all tokens, in whole characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.data.tokenizers.bytes import BytesTokenizer
from simsmoe_cli.data.tokenizers.chars import CharsTokenizer
from simsmoe_cli.data.tokenizers.incremental_decode import TextStream
from simsmoe_cli.data.tokenizers.sentencepiece import SentencePieceTokenizer
from simsmoe_cli.data.tokenizers.words import WordsTokenizer

SAMPLE = "The café at 5 → naïve 字符\n  two  spaces, and <unk>\n\nAn end 🙂 of it\n"
PIECES = SentencePieceTokenizer.fit([(SAMPLE * 40).encode()], 284, "unigram")
TOKENIZERS: dict[str, Tokenizer] = {
    "bytes": BytesTokenizer(),
    "chars": CharsTokenizer(SAMPLE),
    "words": WordsTokenizer.fit([SAMPLE.encode()]),
    "pieces": PIECES,
}


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = TextStream(tokenizer)
    return [*(stream.feed(token) for token in ids), stream.finish()]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_text_comes_back(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(SAMPLE).tolist()
    text = "".join(streamed(tokenizer, ids))
    assert text == tokenizer.decode(ids)
    if name != "words":
        assert text == SAMPLE


@pytest.mark.parametrize("name", ["bytes", "chars", "words"])
@given(data=st.data())
def test_any_ids_are_streamed_as_they_are_decoded(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


@given(st.lists(st.integers(1, PIECES.vocab_size - 1), max_size=40))
def test_any_pieces_are_streamed_whole(ids: list[int]) -> None:
    """Of bytes that are no UTF-8 SentencePiece makes other numbers of U+FFFD."""
    text = "".join(streamed(PIECES, ids))
    assert text.replace("\ufffd", "") == PIECES.decode(ids).replace("\ufffd", "")


def test_characters_come_whole() -> None:
    tokenizer = BytesTokenizer()
    assert streamed(tokenizer, list("é🙂a".encode())) == ["", "é", "", "", "", "🙂", "a", ""]
    assert streamed(tokenizer, [0xE2, 0x82]) == ["", "", "\ufffd"]
    assert streamed(tokenizer, [0xE2, ord("x")]) == ["", "\ufffdx", ""]
    assert streamed(PIECES, [1 + byte for byte in "é".encode()]) == ["", "é", ""]


def test_words_stand_apart_and_lines_do_not() -> None:
    tokenizer = WordsTokenizer(["<unk>", "<eos>", "a", "b"])
    assert streamed(tokenizer, [2, 3, 1, 1, 0, 2]) == ["a", " b", "\n", "\n", "<unk>", " a", ""]


@pytest.mark.parametrize(
    ("tokenizer", "missing"),
    [
        (BytesTokenizer(b"abc \n"), ["é", "x"]),
        (CharsTokenizer("abc \n"), ["é", "x"]),
        (CharsTokenizer("abcé \n"), ["x"]),
        (WordsTokenizer(["<unk>", "<eos>", "ab"]), ["cé", "x"]),
        (PIECES, []),
    ],
)
def test_what_a_vocabulary_lacks_is_named_once(tokenizer: Tokenizer, missing: list[str]) -> None:
    assert tokenizer.missing("ab cé x x\n") == missing
