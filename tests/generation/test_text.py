"""A prompt and what follows it, as pieces of text."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.data.tokenizers.bytes import BytesTokenizer
from simsmoe_cli.data.tokenizers.chars import CharsTokenizer
from simsmoe_cli.data.tokenizers.words import WordsTokenizer
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.generation.sampling import Reader, Sampling, generate
from simsmoe_cli.generation.text import complete, encode_prompt, on_one_line
from simsmoe_cli.model.language_model import LanguageModel
from tests.train.tiny import recipe

WORDS = WordsTokenizer(["<unk>", "<eos>", "a", "cat", "sat"])


def reader(vocabulary: int) -> Reader:
    torch.manual_seed(0)
    return Reader(LanguageModel(recipe(), vocabulary).eval())


@pytest.mark.parametrize("tokenizer", [BytesTokenizer(), CharsTokenizer("aé \n"), WORDS])
def test_pieces_are_the_text_of_their_tokens(tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode("a a\na").tolist()
    lm = reader(tokenizer.vocab_size)
    pieces = list(complete(lm, tokenizer, prompt, 40, Sampling(seed=0)))
    own = [piece for piece in pieces if piece.token]
    assert [piece.prompt for piece in own] == [True] * len(prompt) + [False] * 40
    assert {len(piece.experts) for piece in own} == {2}
    assert "".join(piece.text for piece in pieces[: len(prompt)]) == "a a\na"
    steps = generate(reader(tokenizer.vocab_size), prompt, 40, Sampling(seed=0))
    assert "".join(piece.text for piece in pieces) == tokenizer.decode([s.token for s in steps])


def test_ids_without_a_text_are_not_drawn() -> None:
    """Models of Hugging Face often have more ids than their tokenizer."""
    tokenizer = CharsTokenizer("ab")
    pieces = complete(reader(1000), tokenizer, tokenizer.encode("a").tolist(), 20, Sampling(seed=0))
    assert set("".join(piece.text for piece in pieces)) <= set("ab")


def test_pieces_come_one_by_one() -> None:
    """The first are there although the last never will be."""
    pieces = complete(reader(256), BytesTokenizer(), [65], 10**9, Sampling(seed=0))
    assert len(list(islice(pieces, 5))) == 5


def test_what_cannot_be_shown_is_escaped() -> None:
    assert on_one_line(b"a") == "a"
    assert on_one_line("é🙂".encode()) == "é🙂"
    assert on_one_line(b"\n\t\r\x00\x1b") == r"\n\t\r\x00\x1b"
    assert on_one_line(b"\xc3") == r"\xc3"
    assert on_one_line(rb"\n") == r"\\n"
    assert on_one_line("\u2028\u00a0".encode()) == r"\u2028\xa0"


@pytest.mark.parametrize("tokenizer", [BytesTokenizer(b"ab"), CharsTokenizer("ab")])
def test_what_the_vocabulary_lacks_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError) as caught:
        encode_prompt(tokenizer, "baxé x", "--prompt")
    assert caught.value.code == EXIT_DATA
    unit = tokenizer.unit
    assert str(caught.value).startswith(
        f"--prompt: the vocabulary of 2 {unit}s has no 'x' (U+0078), 'é' (U+00E9), ' ' (U+0020). "
    )
    with pytest.raises(
        UserError, match=r"no 'c' \(U\+0063\), 'd' .*, 'l' \(U\+006C\) and 2 more\."
    ):
        encode_prompt(tokenizer, "abcdefghijklmn", "--prompt")


def test_unknown_words_are_read_as_unknown() -> None:
    assert encode_prompt(WORDS, "a dog sat", "--prompt") == ([2, 0, 4], ["dog"])


@pytest.mark.parametrize(
    ("prompt", "message"), [("", "is empty"), (" ", "is empty"), ("a\udce9", "is not UTF-8")]
)
def test_a_prompt_that_is_none(prompt: str, message: str) -> None:
    with pytest.raises(UserError, match=f"--prompt-file: the prompt {message}"):
        encode_prompt(WORDS, prompt, "--prompt-file")
