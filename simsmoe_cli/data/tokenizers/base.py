"""The interface of every tokenizer: text to token ids and back, and where a text may be cut.

A tokenizer is vectorised as far as possible. `safe_cut` gives a position where a text may be cut so
that its parts, encoded separately, give the same ids as the whole. So a corpus can be encoded in
blocks with bounded memory.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.files.untrusted import Unreadable, parse_json, validated

Ids = NDArray[Any]
END = "<|endoftext|>"  # how the end of a document is written out


def dtype_for(vocab_size: int) -> np.dtype[Any]:
    """The narrowest little-endian unsigned integer that holds every id."""
    return np.dtype("u1" if vocab_size <= 1 << 8 else "<u2" if vocab_size <= 1 << 16 else "<u4")


def character_cut(block: bytes) -> int:
    """Where the last UTF-8 character begins if it may be unfinished; else the length."""
    for back in range(1, min(3, len(block)) + 1):
        if block[-back] >= 0xC0:
            return len(block) - back
    return len(block)


def utf8(text: str | bytes) -> str:
    """The text as a string; a UserError names the first byte that is not UTF-8."""
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(error.start, error.object[error.start]) from None


def not_utf8(offset: int, byte: int, where: str = "") -> UserError:
    """The error for a byte that begins or continues no UTF-8 character."""
    return DataError(
        f"byte 0x{byte:02x} at offset {offset} is not UTF-8",
        where=where,
        hint="Use --tokenizer bytes, or convert the text to UTF-8.",
    )


def damaged(reason: object) -> UserError:
    """The error for a tokenizer's file that is not as it was written."""
    return DataError(f"damaged tokenizer: {reason}", hint="Prepare the corpus again with --force.")


class Tokenizer(ABC):
    """Text to ids in [0, vocab_size) and back.

    Attributes:
        kind: its name on the command line.
        unit: what one token is called.
        file_name: of the file that holds it in a token store.
        closes_last_line: whether a split that does not end with a line feed is encoded as if it
            did.
        vocab_size: how many ids there are.
        end_id: the id of the token between documents, which no text is encoded to; None where
            there is none.
    """

    kind: ClassVar[str]
    unit: ClassVar[str]
    file_name: ClassVar[str] = "tokenizer.json"
    closes_last_line: ClassVar[bool] = False
    vocab_size: int
    end_id: int | None = None

    @abstractmethod
    def encode(self, text: str | bytes) -> Ids:
        """The ids of a text [tokens], in the narrowest dtype; UserError for text without ids."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of some ids; ValueError for an id outside the vocabulary."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """The text of one id by itself; it may be a part of a character."""

    def missing(self, text: str) -> list[str]:
        """Characters of a text that are not in the vocabulary, each once; words for `words`."""
        return []

    @staticmethod
    @abstractmethod
    def safe_cut(block: bytes) -> int:
        """The largest n found such that block[:n] and what follows may be encoded apart."""

    def encode_blocks(self, chunks: Iterable[bytes]) -> Iterator[Ids]:
        """The ids of a text that comes in chunks, in parts; joined they are those of the text
        encoded at once."""
        for block in whole_blocks(chunks, self.safe_cut):
            yield self.encode(block)

    def encode_documents(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each of several texts, without end tokens."""
        if self.closes_last_line:
            texts = [text if text.endswith("\n") else text + "\n" for text in texts]
        return [self.encode(text) for text in texts]

    @abstractmethod
    def dump(self) -> bytes:
        """Everything `load` needs, as the content of the file `file_name`."""

    @classmethod
    @abstractmethod
    def load(cls, content: bytes) -> Tokenizer:
        """The tokenizer whose `dump` this is; DataError for any other content."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return dtype_for(self.vocab_size)

    def _checked(self, ids: Sequence[int] | Ids) -> Ids:
        array = np.asarray(ids, dtype=np.int64)
        if array.size and not (array.min() >= 0 and array.max() < self.vocab_size):
            raise ValueError(f"ids must lie in [0, {self.vocab_size})")
        return array

    def _documents(self, ids: Ids) -> list[Ids]:
        """The ids between the end tokens."""
        if self.end_id is None:
            return [ids]
        ends = np.flatnonzero(ids == self.end_id)
        return [part[part != self.end_id] for part in np.split(ids, ends)]


class TokenizerFile(BaseModel):
    """Base of the schemas of `tokenizer.json`."""

    model_config = ConfigDict(extra="forbid", strict=True)


F = TypeVar("F", bound=TokenizerFile)


def read_file(schema: type[F], content: bytes) -> F:
    """The content of a `tokenizer.json`; DataError if it does not fit the schema."""
    try:
        return validated(schema, parse_json(content))
    except Unreadable as error:
        raise damaged(error) from None


def ascending(alphabet: Any) -> Any:
    """The alphabet; ValueError unless its elements are strictly ascending."""
    if any(second <= first for first, second in itertools.pairwise(alphabet)):
        raise ValueError("it is not in order, or something is in it twice")
    return alphabet


def whole_blocks(chunks: Iterable[bytes], safe_cut: Callable[[bytes], int]) -> Iterator[bytes]:
    """The same bytes in blocks that end where a tokenizer's `safe_cut` allows."""
    rest = b""
    for chunk in chunks:
        block = rest + chunk
        cut = safe_cut(block)
        rest = block[cut:]
        if cut:
            yield block[:cut]
    if rest:
        yield rest
