"""The tokenizer of documents: fitted to them, or the end token of one that is given.

`bytes` needs no text. `chars` and `words` read all documents once beforehand, as they do for other
text; sentencepiece is trained on 10 MB of training text, taken in equal parts from the beginnings
of at most 64 files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from simsmoe_cli.data.corpora.write_store import COMPARED_BYTES, SAMPLE_BYTES
from simsmoe_cli.data.documents.encode import Rules, split_of, texts
from simsmoe_cli.data.documents.inputs import Input
from simsmoe_cli.data.io.download import Progress
from simsmoe_cli.data.store import Settings
from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.data.tokenizers.bytes import UTF8_BYTES, BytesTokenizer
from simsmoe_cli.data.tokenizers.chars import CharsTokenizer
from simsmoe_cli.data.tokenizers.huggingface import HuggingFaceTokenizer
from simsmoe_cli.data.tokenizers.words import WordsTokenizer
from simsmoe_cli.errors import DataError, printable
from simsmoe_cli.files.untrusted import Unreadable, read_json

MOST_FILES = 64
# Where a model's folder does not name its end token.
USUAL = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")


def fit(settings: Settings, files: Sequence[Input], rules: Rules, report: Progress) -> Tokenizer:
    """A tokenizer with an end token."""
    report("fit the tokenizer", 0, None)
    if settings.tokenizer == "bytes":
        return BytesTokenizer(range(256) if settings.vocab == "bytes256" else UTF8_BYTES, ends=True)
    if settings.tokenizer == "sentencepiece":
        from simsmoe_cli.data.tokenizers.sentencepiece import SentencePieceTokenizer

        assert settings.vocab_size is not None
        sample = _sample(files, rules, SAMPLE_BYTES)
        return SentencePieceTokenizer.fit(sample, settings.vocab_size, settings.sp_model, ends=True)
    if settings.tokenizer == "chars":
        return CharsTokenizer.fit(_all(files, rules, report), ends=True)
    return WordsTokenizer.fit(_all(files, rules, report), settings.vocab_size, ends=True)


def opened_end(tokenizer: HuggingFaceTokenizer, given: str, end_token: str | None) -> int:
    """The id of a Hugging Face tokenizer's end token.

    Args:
        tokenizer: opened from `given`.
        given: a folder, or the path of a tokenizer.json.
        end_token: the text of the token; None: what tokenizer_config.json calls eos_token, or one
            of the usual names.

    Raises:
        UserError: EXIT_DATA: there is no such token, or none is known.
    """
    path = Path(os.path.expanduser(given))
    folder = path if path.is_dir() else path.parent
    named = end_token or _eos_token(folder / "tokenizer_config.json")
    for name in [named] if named else USUAL:
        if (found := tokenizer.end_of(name)) is not None:
            return found
    what = f"has no token '{printable(named)}'" if named else "does not say which token ends a text"
    raise DataError(
        f"the tokenizer {what}",
        where="--end-token" if end_token else given,
        hint="Name a token of its vocabulary by --end-token.",
    )


def some_text(files: Sequence[Input], rules: Rules) -> bytes:
    """The beginning of the first document that has text."""
    for _, _, text in _documents(files[:1], rules):
        if text:
            return text[:COMPARED_BYTES].encode()
    return b"\n"


def _eos_token(path: Path) -> str | None:
    try:
        facts = read_json(path)
    except (FileNotFoundError, Unreadable):
        return None
    token = facts.get("eos_token") if isinstance(facts, dict) else None
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _documents(files: Sequence[Input], rules: Rules) -> Iterator[tuple[Input, int, str]]:
    for file in files:
        for batch in file.read(0, rules.column):
            for number, text in texts(batch, file, rules.column):
                yield file, number, text


def _all(files: Sequence[Input], rules: Rules, report: Progress) -> Iterator[bytes]:
    """All documents, each with its last line ended."""
    total, done = sum(file.size for file in files), 0
    for file in files:
        for batch in file.read(0, rules.column):
            report("fit the tokenizer", done + batch.read, total or None)
            yield "".join(
                text if text.endswith("\n") else text + "\n"
                for _, text in texts(batch, file, rules.column)
                if text
            ).encode()
        done += file.size


def _sample(files: Sequence[Input], rules: Rules, most: int) -> Iterator[bytes]:
    """About so many bytes of training text."""
    train = [file for file in files if file.split in ("", "train")]
    train = train[:: -(-len(train) // MOST_FILES)]
    for before, file in enumerate(train):
        left = most // (len(train) - before)
        for _, number, text in _documents([file], rules):
            if split_of(file, number, rules) == "train":
                content = text.encode()[:left]
                left -= len(content)
                most -= len(content)
                yield content
            if left <= 0:
                break
