"""Tokenizer `words`: one id per word, as in word-level work on WikiText.

A word is the text between ASCII white space; every line end is `<eos>`. The vocabulary is that
of all splits, by falling frequency.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator

from simsmoe_cli.data.tokenizers.base import END, Ids, Tokenizer, TokenizerFile, read_file, utf8
from simsmoe_cli.errors import DataError

UNK, EOS = "<unk>", "<eos>"
LONGEST_WORD = 1 << 24


def _words_apart(words: list[str]) -> list[str]:
    if words[:2] != [UNK, EOS]:
        raise ValueError(f"it does not begin with {UNK} and {EOS}")
    if len(set(words)) < len(words):
        raise ValueError("a word is in it twice")
    if len(" ".join(words).encode().split()) != len(words):
        raise ValueError("a word is empty or has white space in it")
    return words


class _WordsFile(TokenizerFile):
    kind: Literal["words"]
    words: Annotated[list[str], AfterValidator(_words_apart)]
    end_of_document: bool = False


class WordsTokenizer(Tokenizer):
    """One id per word and one, `<eos>`, per line end; words not in the vocabulary are `<unk>`.

    Ids 0 and 1 are `<unk>` and `<eos>`. A text that holds these two as words gets the same ids,
    as WikiText, whose rare words are already `<unk>`, needs.
    """

    kind = "words"
    unit = "word"
    closes_last_line = True

    def __init__(self, words: Sequence[str], *, ends: bool = False):
        self._words = list(words)
        self._id = {word.encode(): index for index, word in enumerate(self._words)}
        self.end_id = len(self._words) if ends else None
        self.vocab_size = len(self._words) + ends

    @classmethod
    def fit(
        cls, blocks: Iterable[bytes], vocab_size: int | None = None, *, ends: bool = False
    ) -> WordsTokenizer:
        """The tokenizer of the words that occur, or of the most frequent.

        Args:
            blocks: the text, never cut inside a word.
            vocab_size: ids in all, `<unk>` and `<eos>` with them; None keeps every word. Of
                equally frequent words those first in byte order are kept.
        """
        counts: Counter[bytes] = Counter()
        for block in blocks:
            counts.update(block.split())
        for special in (UNK, EOS, *[END] * ends):
            counts.pop(special.encode(), None)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        kept = ranked if vocab_size is None else ranked[: vocab_size - 2 - ends]
        return cls([UNK, EOS, *(utf8(word) for word in kept)], ends=ends)

    def encode(self, text: str | bytes) -> Ids:
        content = text.encode() if isinstance(text, str) else text
        words = content.replace(b"\n", b" <eos> ").split()
        identity, unknown = self._id.get, self._id[UNK.encode()]
        return np.fromiter((identity(word, unknown) for word in words), self.dtype, len(words))

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Words with one space between them, lines ended by a line feed."""
        words = (self._word(index) for index in self._checked(ids))
        text = " ".join("\n" if word == EOS else word for word in words)
        return text.replace(" \n", "\n").replace("\n ", "\n")

    def token_bytes(self, token: int) -> bytes:
        word = self._word(token)
        return b"\n" if word == EOS else word.encode()

    def _word(self, token: int) -> str:
        return END if token == self.end_id else self._words[token]

    def missing(self, text: str) -> list[str]:
        words = dict.fromkeys(text.encode().split())
        return [word.decode() for word in words if word not in self._id]

    @staticmethod
    def safe_cut(block: bytes) -> int:
        cut = 1 + max(block.rfind(space) for space in (b" ", b"\n", b"\t", b"\r", b"\v", b"\f"))
        if not cut and len(block) > LONGEST_WORD:
            raise DataError(
                f"no white space in {len(block):,} bytes, so there are no words to count",
                hint="Use --tokenizer bytes, chars or sentencepiece.",
            )
        return cut

    def dump(self) -> bytes:
        ends = {} if self.end_id is None else {"end_of_document": True}
        content = {"kind": self.kind, "words": self._words, **ends}
        return json.dumps(content, ensure_ascii=False).encode()

    @classmethod
    def load(cls, content: bytes) -> WordsTokenizer:
        file = read_file(_WordsFile, content)
        return cls(file.words, ends=file.end_of_document)
