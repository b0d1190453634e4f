"""Tokenizers: nothing is lost, blocks give the ids of the whole, slow oracles agree."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simsmoe_cli.data.tokenizers import base as tokenizers
from simsmoe_cli.data.tokenizers.base import (
    BytesTokenizer,
    CharsTokenizer,
    Tokenizer,
    WordsTokenizer,
    dtype_for,
    tokenizer_class,
    whole_blocks,
)
from simsmoe_cli.data.tokenizers.sentencepiece import PiecesTokenizer
from simsmoe_cli.errors import EXIT_DATA, UserError

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
# SentencePiece writes a space as U+2581, the one character it cannot tell from it.
PIECE_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="▁"))
WORD = st.text(st.characters(exclude_categories=("Cs", "Z", "C")), min_size=1, max_size=8)
# A word that looks like the end of a line is one.
LINES = st.lists(
    st.lists(WORD.filter(lambda word: word != "<eos>"), max_size=6).map(" ".join), max_size=6
)


def _prose() -> str:
    """A thousand lines of made-up words, the same every time."""
    draw = random.Random(0)
    words = [
        "".join(draw.choices("abcdefghiklmnoprstuvé", k=draw.randint(1, 9))) for _ in range(400)
    ]
    return "".join(
        "  " * draw.randint(0, 2) + " ".join(draw.choices(words, k=draw.randint(0, 12))) + "\n"
        for _ in range(1000)
    )


PROSE = _prose()


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def pieces(request: pytest.FixtureRequest) -> PiecesTokenizer:
    return PiecesTokenizer.fit([PROSE.encode()], 500, request.param)


def chunks_of(content: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


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


@given(TEXT)
def test_characters_are_ranks_in_the_sorted_alphabet_and_come_back(text: str) -> None:
    tokenizer = CharsTokenizer.fit(
        whole_blocks(chunks_of(text.encode(), 2), CharsTokenizer.safe_cut)
    )
    alphabet = sorted(set(text))
    ids = tokenizer.encode(text)
    assert ids.tolist() == [alphabet.index(character) for character in text]
    assert tokenizer.decode(ids) == text


@given(LINES)
def test_words_come_back_with_one_eos_a_line(lines: list[str]) -> None:
    text = "".join(line + "\n" for line in lines)
    tokenizer = WordsTokenizer.fit([text.encode()])
    ids = tokenizer.encode(text)
    assert len(ids) == sum(len(line.split()) + 1 for line in lines)
    assert tokenizer.decode(ids) == text


@given(PIECE_TEXT)
def test_pieces_come_back(pieces: PiecesTokenizer, text: str) -> None:
    assert pieces.decode(pieces.encode(text)) == text


def test_pieces_of_prose_are_pieces_of_words(pieces: PiecesTokenizer) -> None:
    ids = pieces.encode(PROSE)
    assert pieces.vocab_size == 500
    assert pieces.decode(ids) == PROSE
    assert len(ids) < len(PROSE) * 0.7


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("kind", ["bytes", "chars", "words"])
def test_blocks_give_the_ids_of_the_whole(kind: str, size: int) -> None:
    content = PROSE[:5000].encode()
    fitted: dict[str, Tokenizer] = {
        "bytes": BytesTokenizer.fit([content]),
        "chars": CharsTokenizer.fit([content]),
        "words": WordsTokenizer.fit([content]),
    }
    _require_same_ids(fitted[kind], content, size)


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize("size", [37, 1000])
def test_pieces_of_blocks_are_pieces_of_the_whole(
    pieces: PiecesTokenizer, lines: bool, size: int
) -> None:
    text = PROSE[:20_000] if lines else PROSE[:20_000].replace("\n", " ")
    _require_same_ids(pieces, text.encode(), size)


def _require_same_ids(tokenizer: Tokenizer, content: bytes, size: int) -> None:
    blocks = list(whole_blocks(chunks_of(content, size), tokenizer.safe_cut))
    assert b"".join(blocks) == content
    if size < len(content) // 20:
        assert len(blocks) > 1
    ids = np.concatenate([tokenizer.encode(block) for block in blocks])
    assert ids.tolist() == tokenizer.encode(content).tolist()


def test_words_are_numbered_by_falling_frequency() -> None:
    text = b"b a a\nc b a <unk> d\n"
    tokenizer = WordsTokenizer.fit([text])
    assert tokenizer.decode(range(tokenizer.vocab_size)).split(" ") == ["<unk>\na", "b", "c", "d"]
    assert tokenizer.encode("a <unk> never d\n").tolist() == [2, 0, 0, 5, 1]


def test_a_vocabulary_size_keeps_the_most_frequent_words() -> None:
    words = [word for word in PROSE.split() if word]
    counts = Counter(words)
    best = sorted(counts, key=lambda word: (-counts[word], word.encode()))[:48]
    tokenizer = WordsTokenizer.fit([PROSE.encode()], vocab_size=50)
    assert tokenizer.vocab_size == 50
    kept = np.isin(words, best)
    assert (tokenizer.encode(" ".join(words)) != 0).tolist() == kept.tolist()
    assert not kept.all()


def test_ids_are_as_narrow_as_the_vocabulary_allows() -> None:
    sizes = {1: 1, 256: 1, 257: 2, 65_536: 2, 65_537: 4}
    assert {size: dtype_for(size).itemsize for size in sizes} == sizes
    assert BytesTokenizer().encode(b"abc").dtype == np.uint8
    assert CharsTokenizer("".join(map(chr, range(300)))).encode("abc").dtype == np.uint16


@pytest.mark.parametrize("kind", ["bytes", "chars", "words", "sentencepiece"])
def test_a_tokenizer_survives_its_file(kind: str) -> None:
    content = PROSE.encode()
    tokenizer = (
        PiecesTokenizer.fit([content], 400, "unigram")
        if kind == "sentencepiece"
        else tokenizer_class(kind).fit([content])  # type: ignore[attr-defined]
    )
    again = tokenizer_class(kind).load(tokenizer.dump())
    assert again.vocab_size == tokenizer.vocab_size
    assert again.encode(content).tolist() == tokenizer.encode(content).tolist()


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_training_pieces_twice_gives_the_same_model(model: str) -> None:
    first, second = (PiecesTokenizer.fit([PROSE.encode()], 400, model) for _ in range(2))
    assert first.dump() == second.dump()


def test_pieces_learn_from_text_full_of_tabs() -> None:
    with_tabs = PROSE.replace(" ", "\t", 1).replace("\n", "\tend\n")
    assert PiecesTokenizer.fit([with_tabs.encode()], 400, "unigram").vocab_size == 400


@pytest.mark.parametrize(
    ("vocab_size", "advice"),
    [(100_000, "--vocab-size {n} or less"), (260, "--vocab-size {n} or more")],
)
def test_a_vocabulary_that_does_not_fit_names_one_that_does(vocab_size: int, advice: str) -> None:
    with pytest.raises(UserError) as caught:
        PiecesTokenizer.fit([PROSE.encode()], vocab_size, "unigram")
    assert caught.value.code == EXIT_DATA
    number = next(word for word in caught.value.hint.split() if word.isdigit())
    assert advice.format(n=number) in caught.value.hint
    assert PiecesTokenizer.fit([PROSE.encode()], int(number), "unigram").vocab_size == int(number)


@pytest.mark.parametrize(
    ("tokenizer", "text", "named"),
    [
        (BytesTokenizer(b"abc"), "abz", "byte 0x7a 'z'"),
        (CharsTokenizer("abc"), "ab\u2028", "U+2028"),
        (CharsTokenizer("abc"), b"ab\xff", "byte 0xff at offset 2"),
        (CharsTokenizer("abc"), "a\ud800", "U+D800"),
    ],
)
def test_what_is_not_in_the_alphabet_is_named(
    tokenizer: Tokenizer, text: str | bytes, named: str
) -> None:
    with pytest.raises(UserError) as caught:
        tokenizer.encode(text)
    assert caught.value.code == EXIT_DATA
    assert named in str(caught.value)


def test_ids_outside_the_vocabulary_are_an_error(pieces: PiecesTokenizer) -> None:
    for tokenizer in (BytesTokenizer(b"abc"), CharsTokenizer("abc"), pieces):
        for ids in ([-1], [tokenizer.vocab_size]):
            with pytest.raises(ValueError, match="ids must lie in"):
                tokenizer.decode(ids)


def test_a_text_without_white_space_has_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "LONGEST_WORD", 1000)
    with pytest.raises(UserError, match="no white space"):
        list(whole_blocks(chunks_of(b"x" * 5000, 100), WordsTokenizer.safe_cut))


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("bytes", b"", "not JSON"),
        ("bytes", b"[]", "input should be an object"),
        ("bytes", b'{"kind": "bytes"}', "bytes: field required"),
        ("bytes", b'{"kind": "chars", "bytes": [1]}', "kind"),
        ("bytes", b'{"kind": "bytes", "bytes": []}', "bytes"),
        ("bytes", b'{"kind": "bytes", "bytes": [1, 256]}', "bytes.1"),
        ("bytes", b'{"kind": "bytes", "bytes": [-1]}', "bytes.0"),
        ("bytes", b'{"kind": "bytes", "bytes": [1, 1]}', "twice"),
        ("bytes", b'{"kind": "bytes", "bytes": [2, 1]}', "not in order"),
        ("bytes", b'{"kind": "bytes", "bytes": ["1"]}', "bytes.0"),
        ("bytes", b'{"kind": "bytes", "bytes": {"1": 1}}', "bytes"),
        ("bytes", b'{"kind": "bytes", "bytes": [1], "bytes": [2]}', "'bytes' twice"),
        ("bytes", b'{"kind": "bytes", "bytes": ' + b"[" * 100_000, "nested too deep"),
        ("chars", b'{"kind": "chars", "characters": ""}', "characters"),
        ("chars", b'{"kind": "chars", "characters": "aa"}', "twice"),
        ("chars", b'{"kind": "chars", "characters": 5}', "characters"),
        ("chars", b'{"kind": "chars", "characters": "\\ud800"}', "half a character"),
        ("chars", b'{"kind": "chars", "characters": "\xff"}', "not UTF-8"),
        ("words", b'{"kind": "words", "words": ["a"]}', "does not begin with <unk>"),
        ("words", b'{"kind": "words", "words": ["<unk>", "<eos>", "a", "a"]}', "twice"),
        ("words", b'{"kind": "words", "words": ["<unk>", "<eos>", "a b"]}', "white space"),
        ("words", b'{"kind": "words", "words": ["<unk>", "<eos>", ""]}', "empty"),
        ("words", b'{"kind": "words", "words": ["<unk>", "<eos>", 3]}', "words.2"),
        ("sentencepiece", b"", "damaged"),
        ("sentencepiece", b"\0" * 500, "damaged"),
        ("sentencepiece", b'{"kind": "words"}', "damaged"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(kind: str, content: bytes, said: str) -> None:
    with pytest.raises(UserError) as caught:
        tokenizer_class(kind).load(content)
    assert said in caught.value.what
    assert caught.value.code == EXIT_DATA
    assert str(caught.value).isprintable()


def test_an_unknown_tokenizer_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown tokenizer 'byte'\. Did you mean 'bytes'\?"):
        tokenizer_class("byte")
