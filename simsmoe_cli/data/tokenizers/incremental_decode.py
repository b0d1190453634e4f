"""Ids to text as they come, one at a time.

A token may be a part of a character, and a word says nothing of the space before it; the pieces
given out are whole characters, and joined they are what the tokenizer decodes all ids to.
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

    def feed(self, token: int) -> str:
        """What the token adds: "" while a character is unfinished, U+FFFD if it never will be."""
        content = self._tokenizer.token_bytes(token)
        if self._tokenizer.unit == "word":
            ends = content == b"\n"
            if not (self._line_begins or ends):
                content = b" " + content
            self._line_begins = ends
        return self._decoder.decode(content)

    def finish(self) -> str:
        """What is left: U+FFFD for a character that was begun."""
        return self._decoder.decode(b"", final=True)
