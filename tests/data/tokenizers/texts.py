"""Texts that tokenizers are tried on, and what holds for blocks of any text."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st

from simsmoe_cli.data.tokenizers.base import Tokenizer, whole_blocks

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


def chunks_of(content: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def require_same_ids(tokenizer: Tokenizer, content: bytes, size: int) -> None:
    blocks = list(whole_blocks(chunks_of(content, size), tokenizer.safe_cut))
    assert b"".join(blocks) == content
    if size < len(content) // 20:
        assert len(blocks) > 1
    ids = np.concatenate([tokenizer.encode(block) for block in blocks])
    assert ids.tolist() == tokenizer.encode(content).tolist()
