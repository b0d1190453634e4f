"""Tokenizer sentencepiece."""

from __future__ import annotations

import pytest
from hypothesis import given

from simsmoe_cli.data.tokenizers.sentencepiece import SentencePieceTokenizer
from simsmoe_cli.errors import EXIT_DATA, UserError
from tests.data.tokenizers.texts import PIECE_TEXT, PROSE, require_same_ids


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def pieces(request: pytest.FixtureRequest) -> SentencePieceTokenizer:
    return SentencePieceTokenizer.fit([PROSE.encode()], 500, request.param)


@given(PIECE_TEXT)
def test_pieces_come_back(pieces: SentencePieceTokenizer, text: str) -> None:
    assert pieces.decode(pieces.encode(text)) == text


def test_pieces_of_prose_are_pieces_of_words(pieces: SentencePieceTokenizer) -> None:
    ids = pieces.encode(PROSE)
    assert pieces.vocab_size == 500
    assert pieces.decode(ids) == PROSE
    assert len(ids) < len(PROSE) * 0.7


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize("size", [37, 1000])
def test_pieces_of_blocks_are_pieces_of_the_whole(
    pieces: SentencePieceTokenizer, lines: bool, size: int
) -> None:
    text = PROSE[:20_000] if lines else PROSE[:20_000].replace("\n", " ")
    require_same_ids(pieces, text.encode(), size)


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_training_pieces_twice_gives_the_same_model(model: str) -> None:
    first, second = (SentencePieceTokenizer.fit([PROSE.encode()], 400, model) for _ in range(2))
    assert first.dump() == second.dump()


def test_pieces_learn_from_text_full_of_tabs() -> None:
    with_tabs = PROSE.replace(" ", "\t", 1).replace("\n", "\tend\n")
    assert SentencePieceTokenizer.fit([with_tabs.encode()], 400, "unigram").vocab_size == 400


@pytest.mark.parametrize(
    ("vocab_size", "advice"),
    [(100_000, "--vocab-size {n} or less"), (260, "--vocab-size {n} or more")],
)
def test_a_vocabulary_that_does_not_fit_names_one_that_does(vocab_size: int, advice: str) -> None:
    with pytest.raises(UserError) as caught:
        SentencePieceTokenizer.fit([PROSE.encode()], vocab_size, "unigram")
    assert caught.value.code == EXIT_DATA
    number = next(word for word in caught.value.hint.split() if word.isdigit())
    assert advice.format(n=number) in caught.value.hint
    assert SentencePieceTokenizer.fit([PROSE.encode()], int(number), "unigram").vocab_size == int(
        number
    )


def test_ids_outside_the_vocabulary_are_an_error(pieces: SentencePieceTokenizer) -> None:
    for ids in ([-1], [pieces.vocab_size]):
        with pytest.raises(ValueError, match="ids must lie in"):
            pieces.decode(ids)
