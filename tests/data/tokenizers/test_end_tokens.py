"""End tokens: no text is encoded to one, and a tokenizer with one is kept and written out whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from simsmoe_cli.data.documents.fit import opened_end
from simsmoe_cli.data.tokenizers.base import END, Tokenizer
from simsmoe_cli.data.tokenizers.bytes import UTF8_BYTES, BytesTokenizer
from simsmoe_cli.data.tokenizers.chars import CharsTokenizer
from simsmoe_cli.data.tokenizers.huggingface import open_given
from simsmoe_cli.data.tokenizers.incremental_decode import TextStream
from simsmoe_cli.data.tokenizers.names import tokenizer_class
from simsmoe_cli.data.tokenizers.sentencepiece import SentencePieceTokenizer
from simsmoe_cli.data.tokenizers.tokenizer_json import fast_tokenizer
from simsmoe_cli.data.tokenizers.words import WordsTokenizer
from simsmoe_cli.errors import EXIT_DATA, UserError
from tests.data.tokenizers.huggingface_files import model_folder

TEXT = "the cat sat on the mat , caf\u00e9 \U0001f642\nand so on and so on\n" * 30
DOCUMENTS = ["the mat\n", "and so on caf\u00e9\n", f"the {END} cat\n"]


@pytest.fixture(params=["bytes", "bytes256", "chars", "words", "unigram", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    blocks = [(TEXT + DOCUMENTS[2]).encode()]
    match request.param:
        case "bytes":
            return BytesTokenizer(UTF8_BYTES, ends=True)
        case "bytes256":
            return BytesTokenizer(ends=True)
        case "chars":
            return CharsTokenizer.fit(blocks, ends=True)
        case "words":
            return WordsTokenizer.fit(blocks, ends=True)
        case kind:
            return SentencePieceTokenizer.fit(blocks, 275, kind, ends=True)


def test_documents_come_back_and_none_has_the_end_token(tokenizer: Tokenizer) -> None:
    end = tokenizer.end_id
    assert end is not None
    assert 0 <= end < tokenizer.vocab_size
    assert tokenizer.token_bytes(end) == END.encode()
    parts = tokenizer.encode_documents(DOCUMENTS)
    for text, ids in zip(DOCUMENTS, parts, strict=True):
        assert end not in ids
        assert ids.dtype == tokenizer.dtype
        known = text.replace(END, "<unk>") if tokenizer.kind == "words" else text
        assert tokenizer.decode(ids) == known
    joined = np.concatenate([np.append(ids, end) for ids in parts])
    stream = TextStream(tokenizer)
    text = "".join(map(stream.feed, joined.tolist())) + stream.finish()
    assert text == tokenizer.decode(joined)
    assert text.count(END) == len(DOCUMENTS) + (tokenizer.kind != "words")


def test_it_is_kept_in_the_file(tokenizer: Tokenizer) -> None:
    again = tokenizer_class(tokenizer.kind).load(tokenizer.dump())
    assert (again.end_id, again.vocab_size) == (tokenizer.end_id, tokenizer.vocab_size)
    np.testing.assert_array_equal(again.encode(TEXT), tokenizer.encode(TEXT))


def test_the_library_of_hugging_face_knows_it_as_a_special_token(tokenizer: Tokenizer) -> None:
    made = tokenizers.Tokenizer.from_str(json.dumps(fast_tokenizer(tokenizer)))
    assert made.token_to_id(END) == tokenizer.end_id
    assert made.get_vocab_size() == tokenizer.vocab_size
    for text in DOCUMENTS[:2]:
        assert made.encode(text).ids == tokenizer.encode(text).tolist()
        ids = [*tokenizer.encode(text).tolist(), tokenizer.end_id]
        assert END not in made.decode(ids, skip_special_tokens=True)


def test_a_tokenizer_without_one_is_what_it_was() -> None:
    for made in (BytesTokenizer(), CharsTokenizer("ab"), WordsTokenizer(["<unk>", "<eos>"])):
        assert made.end_id is None
        assert b"end_of_document" not in made.dump()


def test_documents_are_encoded_in_batches_as_one_by_one(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", "gpt2", TEXT)
    made = open_given(str(folder))
    assert made is not None
    texts = [*DOCUMENTS, "", TEXT, TEXT * 200]  # the last is longer than a window
    for text, ids in zip(texts, made.encode_documents(texts), strict=True):
        np.testing.assert_array_equal(ids, made.encode(text))
        assert ids.dtype == made.dtype


def test_the_end_token_of_a_model_is_found(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", "gpt2", TEXT)
    made = open_given(str(folder))
    assert made is not None
    config = folder / "tokenizer_config.json"
    for given in ("<s>", {"content": "<s>"}):
        config.write_text(json.dumps({"eos_token": given}))
        assert opened_end(made, str(folder), None) == made.end_of("<s>")
    assert opened_end(made, str(folder / "tokenizer.json"), None) == made.end_of("<s>")
    assert opened_end(made, str(folder), "<|user|>") == made.end_of("<|user|>")
    config.unlink()
    for token in (None, "<nothing>"):
        with pytest.raises(UserError, match="--end-token") as caught:
            opened_end(made, str(folder), token)
        assert caught.value.code == EXIT_DATA
