"""The tokenizers by the names that recipes and `prepare-data --tokenizer` use."""

from __future__ import annotations

from typing import cast

from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.errors import DataError, nearest, printable
from simsmoe_cli.registry import resolve

# "module:Class", imported when asked for: sentencepiece is a large library.
TOKENIZERS = {
    "bytes": "simsmoe_cli.data.tokenizers.bytes:BytesTokenizer",
    "chars": "simsmoe_cli.data.tokenizers.chars:CharsTokenizer",
    "words": "simsmoe_cli.data.tokenizers.words:WordsTokenizer",
    "sentencepiece": "simsmoe_cli.data.tokenizers.sentencepiece:SentencePieceTokenizer",
    "huggingface": "simsmoe_cli.data.tokenizers.huggingface:HuggingFaceTokenizer",
}


def tokenizer_class(kind: str) -> type[Tokenizer]:
    """The class of a tokenizer; DataError for a name that is not in TOKENIZERS."""
    if kind not in TOKENIZERS:
        what = f"unknown tokenizer '{printable(kind)}'"
        raise DataError(what, hint=nearest(printable(kind), TOKENIZERS))
    return cast(type[Tokenizer], resolve(TOKENIZERS[kind]))
