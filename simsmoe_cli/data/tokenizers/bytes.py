"""Tokenizer `bytes`: one id per byte.

The alphabet is that of the whole corpus, its distinct bytes in order, or all 256 (`bytes256`).
For documents it is the 243 bytes that UTF-8
can have, so that a token is a byte with the end token as well, and no text need be read beforehand.
Published SimSMoE code splits enwik8 at white space over decimal byte values; that is this alphabet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from simsmoe_cli.data.tokenizers.base import (
    END,
    Ids,
    Tokenizer,
    TokenizerFile,
    ascending,
    read_file,
)
from simsmoe_cli.errors import DataError

UTF8_BYTES = [byte for byte in range(0xF5) if byte not in (0xC0, 0xC1)]


class _BytesFile(TokenizerFile):
    kind: Literal["bytes"]
    bytes: Annotated[
        list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=1), AfterValidator(ascending)
    ]
    end_of_document: bool = False


class BytesTokenizer(Tokenizer):
    """One id per byte: the rank of the byte in the alphabet."""

    kind = "bytes"
    unit = "byte"

    def __init__(self, alphabet: Iterable[int] = range(256), *, ends: bool = False):
        self._bytes = np.array(sorted(alphabet), dtype=np.uint8)
        self.end_id = self._bytes.size if ends else None
        self.vocab_size = self._bytes.size + ends
        # Bytes outside the alphabet become 255, which is no byte's id unless all are in it.
        table = np.full(256, 255, dtype=np.uint8)
        table[self._bytes] = np.arange(self._bytes.size)
        self._id = table.tobytes()

    @classmethod
    def fit(cls, blocks: Iterable[bytes]) -> BytesTokenizer:
        """The tokenizer of the bytes that occur."""
        seen = b""
        for block in blocks:
            seen += bytes(set(block.translate(None, seen)))
        return cls(seen)

    def encode(self, text: str | bytes) -> Ids:
        content = text.encode() if isinstance(text, str) else text
        ids = np.frombuffer(content.translate(self._id), dtype=np.uint8)
        if ids.size and ids.max() >= self._bytes.size:
            byte = content.translate(None, self._bytes.tobytes())[0]
            raise DataError(
                f"byte 0x{byte:02x} {chr(byte)!r} is not in the alphabet of {self._bytes.size} "
                "bytes the corpus was prepared with",
                hint="A corpus prepared with --vocab bytes256 knows all bytes.",
            )
        return ids.astype(self.dtype)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text; bytes that are not UTF-8 come out as U+FFFD."""
        parts = self._documents(self._checked(ids))
        return END.join(
            self._bytes[part].tobytes().decode("utf-8", errors="replace") for part in parts
        )

    def token_bytes(self, token: int) -> bytes:
        return END.encode() if token == self.end_id else bytes(self._bytes[[token]])

    def missing(self, text: str) -> list[str]:
        known = self._bytes.tobytes()
        return [char for char in dict.fromkeys(text) if char.encode().translate(None, known)]

    @staticmethod
    def safe_cut(block: bytes) -> int:
        return len(block)

    def dump(self) -> bytes:
        ends = {} if self.end_id is None else {"end_of_document": True}
        return json.dumps({"kind": self.kind, "bytes": self._bytes.tolist(), **ends}).encode()

    @classmethod
    def load(cls, content: bytes) -> BytesTokenizer:
        file = read_file(_BytesFile, content)
        return cls(file.bytes, ends=file.end_of_document)
