"""Tokenizer `chars`: one id per Unicode code point, of those that occur in the whole corpus."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from simsmoe_cli.data.tokenizers.base import (
    END,
    Ids,
    Tokenizer,
    TokenizerFile,
    ascending,
    character_cut,
    read_file,
    utf8,
)
from simsmoe_cli.errors import DataError

CODE_POINTS = 0x110000


class _CharsFile(TokenizerFile):
    kind: Literal["chars"]
    characters: Annotated[str, Field(min_length=1), AfterValidator(ascending)]
    end_of_document: bool = False


class CharsTokenizer(Tokenizer):
    """One id per Unicode code point: its rank in the alphabet."""

    kind = "chars"
    unit = "character"

    def __init__(self, alphabet: str, *, ends: bool = False):
        self._points = np.unique(_code_points(alphabet))
        self.end_id = self._points.size if ends else None
        self.vocab_size = self._points.size + ends
        self._id = np.full(CODE_POINTS, -1, dtype=np.int32)
        self._id[self._points] = np.arange(self._points.size)

    @classmethod
    def fit(cls, blocks: Iterable[bytes], *, ends: bool = False) -> CharsTokenizer:
        """The tokenizer of the characters that occur; blocks hold whole characters."""
        seen = np.zeros(CODE_POINTS, dtype=bool)
        for block in blocks:
            seen[_code_points(utf8(block))] = True
        return cls(_text(np.flatnonzero(seen)), ends=ends)

    def encode(self, text: str | bytes) -> Ids:
        string = utf8(text)
        ids = self._id[_code_points(string)]
        if (ids < 0).any():
            character = string[int(np.argmin(ids))]
            raise DataError(
                f"character {character!r} (U+{ord(character):04X}) is not in the alphabet of "
                f"{self._points.size} characters the corpus was prepared with",
                hint="A corpus prepared with --tokenizer bytes --vocab bytes256 knows all text.",
            )
        return ids.astype(self.dtype)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        return END.join(_text(self._points[part]) for part in self._documents(self._checked(ids)))

    def token_bytes(self, token: int) -> bytes:
        return (END if token == self.end_id else _text(self._points[[token]])).encode()

    def missing(self, text: str) -> list[str]:
        return [char for char in dict.fromkeys(text) if self._id[ord(char)] < 0]

    @staticmethod
    def safe_cut(block: bytes) -> int:
        return character_cut(block)

    def dump(self) -> bytes:
        ends = {} if self.end_id is None else {"end_of_document": True}
        return json.dumps({"kind": self.kind, "characters": _text(self._points), **ends}).encode()

    @classmethod
    def load(cls, content: bytes) -> CharsTokenizer:
        file = read_file(_CharsFile, content)
        return cls(file.characters, ends=file.end_of_document)


def _code_points(text: str) -> NDArray[np.uint32]:
    try:
        return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    except UnicodeEncodeError as error:
        raise DataError(
            f"U+{ord(text[error.start]):04X} at offset {error.start} is not a character "
            "(a lone surrogate)"
        ) from None


def _text(points: NDArray[Any]) -> str:
    return points.astype("<u4").tobytes().decode("utf-32-le")
