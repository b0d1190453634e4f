"""What holds for every tokenizer: blocks give the ids of the whole, what is unknown is named."""

from __future__ import annotations

import numpy as np
import pytest

from simsmoe_cli.data.tokenizers.base import Tokenizer, dtype_for
from simsmoe_cli.data.tokenizers.bytes import BytesTokenizer
from simsmoe_cli.data.tokenizers.chars import CharsTokenizer
from simsmoe_cli.data.tokenizers.words import WordsTokenizer
from simsmoe_cli.errors import EXIT_DATA, UserError
from tests.data.tokenizers.texts import PROSE, require_same_ids


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("kind", ["bytes", "chars", "words"])
def test_blocks_give_the_ids_of_the_whole(kind: str, size: int) -> None:
    content = PROSE[:5000].encode()
    fitted: dict[str, Tokenizer] = {
        "bytes": BytesTokenizer.fit([content]),
        "chars": CharsTokenizer.fit([content]),
        "words": WordsTokenizer.fit([content]),
    }
    require_same_ids(fitted[kind], content, size)


def test_ids_are_as_narrow_as_the_vocabulary_allows() -> None:
    sizes = {1: 1, 256: 1, 257: 2, 65_536: 2, 65_537: 4}
    assert {size: dtype_for(size).itemsize for size in sizes} == sizes
    assert BytesTokenizer().encode(b"abc").dtype == np.uint8
    assert CharsTokenizer("".join(map(chr, range(300)))).encode("abc").dtype == np.uint16


@pytest.mark.parametrize(
    ("tokenizer", "text", "named"),
    [
        (BytesTokenizer(b"abc"), "abz", "byte 0x7a 'z'"),
        (CharsTokenizer("abc"), "ab\u2028", "U+2028"),
        (CharsTokenizer("abc"), b"ab\xff", "byte 0xff at offset 2"),
        (CharsTokenizer("abc"), "a\ud800", "U+D800"),
    ],
)
def test_what_is_not_in_the_alphabet_is_named(
    tokenizer: Tokenizer, text: str | bytes, named: str
) -> None:
    with pytest.raises(UserError) as caught:
        tokenizer.encode(text)
    assert caught.value.code == EXIT_DATA
    assert named in str(caught.value)


def test_ids_outside_the_vocabulary_are_an_error() -> None:
    for tokenizer in (BytesTokenizer(b"abc"), CharsTokenizer("abc")):
        for ids in ([-1], [tokenizer.vocab_size]):
            with pytest.raises(ValueError, match="ids must lie in"):
                tokenizer.decode(ids)
