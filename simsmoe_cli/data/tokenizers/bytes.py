"""Tokenizer `bytes`: one id per byte.

The alphabet is that of the whole corpus, its distinct bytes in order, or all 256 (`bytes256`).
Published SimSMoE code splits enwik8 at white space over decimal byte values; that is this alphabet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from simsmoe_cli.data.tokenizers.base import Ids, Tokenizer, TokenizerFile, ascending, read_file
from simsmoe_cli.errors import EXIT_DATA, UserError


class _BytesFile(TokenizerFile):
    kind: Literal["bytes"]
    bytes: Annotated[
        list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=1), AfterValidator(ascending)
    ]


class BytesTokenizer(Tokenizer):
    """One id per byte: the rank of the byte in the alphabet."""

    kind = "bytes"
    unit = "byte"

    def __init__(self, alphabet: Iterable[int] = range(256)):
        self._bytes = np.array(sorted(alphabet), dtype=np.uint8)
        self.vocab_size = self._bytes.size
        # Bytes outside the alphabet become 255, which is not an id unless all bytes are in it.
        table = np.full(256, 255, dtype=np.uint8)
        table[self._bytes] = np.arange(self.vocab_size)
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
        if ids.size and ids.max() >= self.vocab_size:
            byte = content.translate(None, self._bytes.tobytes())[0]
            raise UserError(
                f"byte 0x{byte:02x} {chr(byte)!r} is not in the alphabet of {self.vocab_size} "
                "bytes the corpus was prepared with",
                hint="A corpus prepared with --vocab bytes256 knows all bytes.",
                code=EXIT_DATA,
            )
        return ids.copy()

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text; bytes that are not UTF-8 come out as U+FFFD."""
        return self._bytes[self._checked(ids)].tobytes().decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes(self._bytes[[token]])

    def missing(self, text: str) -> list[str]:
        known = self._bytes.tobytes()
        return [char for char in dict.fromkeys(text) if char.encode().translate(None, known)]

    @staticmethod
    def safe_cut(block: bytes) -> int:
        return len(block)

    def dump(self) -> bytes:
        return json.dumps({"kind": self.kind, "bytes": self._bytes.tolist()}).encode()

    @classmethod
    def load(cls, content: bytes) -> BytesTokenizer:
        return cls(read_file(_BytesFile, content).bytes)
