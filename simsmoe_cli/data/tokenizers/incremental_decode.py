"""Decodes ids one at a time, as a model generates them.

A token may be a part of a character, and a word does not say whether a space comes before it. The
texts returned consist of whole characters; joined they equal what the tokenizer decodes all ids to.
"""

from __future__ import annotations

import codecs

from simsmoe_cli.data.tokenizers.base import Tokenizer


class TextStream:
    """The text of ids fed one by one."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._line_begins = True
        self._ids: list[int] = []  # unit token: the ids given out last, and those not yet
        self._given = 0

    def feed(self, token: int) -> str:
        """The text a token adds: "" while a character is unfinished, U+FFFD if it is invalid."""
        if self._tokenizer.unit == "token":
            self._ids.append(token)
            text = self._added()
            if text.endswith("\ufffd"):
                return ""
            self._ids = self._ids[self._given :]
            self._given = len(self._ids)
            return text
        content = self._tokenizer.token_bytes(token)
        if self._tokenizer.unit == "word":
            ends = content == b"\n"
            if not (self._line_begins or ends):
                content = b" " + content
            self._line_begins = ends
        return self._decoder.decode(content)

    def finish(self) -> str:
        """The rest: U+FFFD for a character that was begun and not finished."""
        return self._added() + self._decoder.decode(b"", final=True)

    def _added(self) -> str:
        """What the ids not yet given out add to those before them. A decoder of Hugging Face treats
        the first token of a text differently, so none is decoded by itself."""
        before = self._tokenizer.decode(self._ids[: self._given])
        return self._tokenizer.decode(self._ids)[len(before) :]
