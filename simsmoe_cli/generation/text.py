"""Text generation: the continuation of a prompt, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.data.tokenizers.incremental_decode import TextStream
from simsmoe_cli.errors import DataError, UserError, escaped
from simsmoe_cli.generation.sampling import Reader, Sampling, generate

MOST_NAMED = 10


@dataclass(frozen=True)
class Piece:
    """One token as text.

    Attributes:
        text: the whole characters it adds to the text.
        token: the token itself on one line, with unprintable characters escaped.
        experts: the expert with the largest weight in each MoE layer; None where it had none.
        prompt: whether it belongs to the prompt.
    """

    text: str
    token: str
    experts: list[int | None]
    prompt: bool


def encode_prompt(tokenizer: Tokenizer, prompt: str, where: str) -> tuple[list[int], list[str]]:
    """The ids of a prompt, and its words that are read as `<unk>`.

    Args:
        tokenizer: of the model.
        prompt: any text.
        where: the flag that gave it.

    Raises:
        UserError: it is empty, or has characters that are not in the vocabulary; names them.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise DataError("the prompt is not UTF-8", where=where) from None
    missing = tokenizer.missing(prompt)
    if missing and tokenizer.unit != "word":
        named = ", ".join(f"{char!r} (U+{ord(char):04X})" for char in missing[:MOST_NAMED])
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        raise DataError(
            f"the vocabulary of {tokenizer.vocab_size} {tokenizer.unit}s has no {named}{more}",
            where=where,
            hint="The model can only be given what occurred in its corpus.",
        )
    ids = tokenizer.encode(prompt).tolist()
    if not ids:
        raise UserError(
            "the prompt is empty",
            where=where,
            hint="The model needs some text to continue, at least a line end.",
        )
    return ids, missing


def complete(
    reader: Reader, tokenizer: Tokenizer, prompt: list[int], tokens: int, sampling: Sampling
) -> Iterator[Piece]:
    """The prompt and what follows it, each piece as soon as it is there.

    Args:
        reader: a model that has read nothing.
        tokenizer: of the model.
        prompt: its ids.
        tokens: how many to add at most; a document of a corpus of documents may end before.
        sampling: how they are drawn.
    """
    stream = TextStream(tokenizer)
    steps = generate(reader, prompt, tokens, sampling, tokenizer.end_id, tokenizer.vocab_size)
    for number, step in enumerate(steps):
        shown = on_one_line(tokenizer.token_bytes(step.token))
        yield Piece(stream.feed(step.token), shown, step.experts, number < len(prompt))
    if rest := stream.finish():
        yield Piece(rest, "", [], False)


def on_one_line(content: bytes) -> str:
    r"""Bytes as text, with \n, \t, \\ and \xNN for line ends, tabs, backslashes and unprintable
    characters."""
    text = content.replace(b"\\", b"\\\\").decode("utf-8", errors="backslashreplace")
    return escaped(text)
