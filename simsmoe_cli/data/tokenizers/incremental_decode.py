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

    def feed(self, token: int) -> str:
        """The text a token adds: "" while a character is unfinished, U+FFFD if it is invalid."""
        content = self._tokenizer.token_bytes(token)
        if self._tokenizer.unit == "word":
            ends = content == b"\n"
            if not (self._line_begins or ends):
                content = b" " + content
            self._line_begins = ends
        return self._decoder.decode(content)

    def finish(self) -> str:
        """The rest: U+FFFD for a character that was begun and not finished."""
        return self._decoder.decode(b"", final=True)
