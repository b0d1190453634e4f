"""Every tokenizer is found by its name, and read back from its file or refused."""

from __future__ import annotations

import pytest

from simsmoe_cli.data.tokenizers.names import tokenizer_class
from simsmoe_cli.data.tokenizers.sentencepiece import SentencePieceTokenizer
from simsmoe_cli.errors import EXIT_DATA, UserError
from tests.data.tokenizers.texts import PROSE


@pytest.mark.parametrize("kind", ["bytes", "chars", "words", "sentencepiece"])
def test_a_tokenizer_survives_its_file(kind: str) -> None:
    content = PROSE.encode()
    tokenizer = (
        SentencePieceTokenizer.fit([content], 400, "unigram")
        if kind == "sentencepiece"
        else tokenizer_class(kind).fit([content])  # type: ignore[attr-defined]
    )
    again = tokenizer_class(kind).load(tokenizer.dump())
    assert again.vocab_size == tokenizer.vocab_size
    assert again.encode(content).tolist() == tokenizer.encode(content).tolist()


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("bytes", b"", "not JSON"),
        ("bytes", b"[]", "input should be an object"),
        ("bytes", b'{"kind": "bytes"}', "bytes: field required"),
        ("bytes", b'{"kind": "chars", "bytes": [1]}', "kind"),
        ("bytes", b'{"kind": "bytes", "bytes": []}', "bytes"),
        ("bytes", b'{"kind": "bytes", "bytes": [1, 256]}', "bytes.1"),
        ("bytes", b'{"kind": "bytes", "bytes": [-1]}', "bytes.0"),
        ("bytes", b'{"kind": "bytes", "bytes": [1, 1]}', "twice"),
        ("bytes", b'{"kind": "bytes", "bytes": [2, 1]}', "not in order"),
        ("bytes", b'{"kind": "bytes", "bytes": ["1"]}', "bytes.0"),
        ("bytes", b'{"kind": "bytes", "bytes": {"1": 1}}', "bytes"),
        ("bytes", b'{"kind": "bytes", "bytes": [1], "bytes": [2]}', "'bytes' twice"),
        ("bytes", b'{"kind": "bytes", "bytes": ' + b"[" * 100_000, "nested too deep"),
        ("chars", b'{"kind": "chars", "characters": ""}', "characters"),
        ("chars", b'{"kind": "chars", "characters": "aa"}', "twice"),
        ("chars", b'{"kind": "chars", "characters": 5}', "characters"),
        ("chars", b'{"kind": "chars", "characters": "\\ud800"}', "half a character"),
        ("chars", b'{"kind": "chars", "characters": "\xff"}', "not UTF-8"),
        ("words", b'{"kind": "words", "words": ["a"]}', "does not begin with <unk>"),
        ("words", b'{"kind": "words", "words": ["<unk>", "<eos>", "a", "a"]}', "twice"),
        ("words", b'{"kind": "words", "words": ["<unk>", "<eos>", "a b"]}', "white space"),
        ("words", b'{"kind": "words", "words": ["<unk>", "<eos>", ""]}', "empty"),
        ("words", b'{"kind": "words", "words": ["<unk>", "<eos>", 3]}', "words.2"),
        ("sentencepiece", b"", "damaged"),
        ("sentencepiece", b"\0" * 500, "damaged"),
        ("sentencepiece", b'{"kind": "words"}', "damaged"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(kind: str, content: bytes, said: str) -> None:
    with pytest.raises(UserError) as caught:
        tokenizer_class(kind).load(content)
    assert said in caught.value.what
    assert caught.value.code == EXIT_DATA
    assert str(caught.value).isprintable()


def test_an_unknown_tokenizer_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown tokenizer 'byte'\. Did you mean 'bytes'\?"):
        tokenizer_class("byte")
