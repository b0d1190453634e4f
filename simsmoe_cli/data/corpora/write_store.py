"""Writes the files of a store from a text: fits the tokenizer, encodes, counts, writes checksums.

Texts are read in blocks that end where the tokenizer allows, so the ids are the same as if the text
was encoded at once, and memory does not grow with the text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from simsmoe_cli.data.corpora.facts import SPLITS
from simsmoe_cli.data.corpora.text import Counts, Text, too_short
from simsmoe_cli.data.ids_file import IdsFile
from simsmoe_cli.data.io.download import Progress
from simsmoe_cli.data.prepared import FileInfo, kept, manifest_text
from simsmoe_cli.data.store import (
    CORPUS,
    Manifest,
    Settings,
    SourceInfo,
    SplitInfo,
)
from simsmoe_cli.data.tokenizers.base import Tokenizer, character_cut, whole_blocks
from simsmoe_cli.data.tokenizers.bytes import BytesTokenizer
from simsmoe_cli.data.tokenizers.chars import CharsTokenizer
from simsmoe_cli.data.tokenizers.words import WordsTokenizer

SAMPLE_BYTES = 10_000_000
COMPARED_BYTES = 1 << 18


def write_store(
    folder: Path,
    name: str,
    corpus: str,
    settings: Settings,
    text: Text,
    source: SourceInfo,
    report: Progress,
    lent: Tokenizer | None = None,
) -> None:
    """Fit the tokenizer unless one is lent, encode all splits, and write the manifest last."""
    report("fit the tokenizer", 0, None)
    try:
        tokenizer = lent or _fit(settings, text)
        content = tokenizer.dump()
        write_whole(folder / tokenizer.file_name, content)
        splits = {split: _encode(text, split, tokenizer, folder, report) for split in SPLITS}
    finally:
        text.require_unchanged()
    manifest = Manifest(
        name=name,
        corpus=corpus,
        whole=text.whole,
        unit=tokenizer.unit,
        tokenizer=tokenizer.kind,
        tokenizer_file=FileInfo.of(tokenizer.file_name, content),
        vocab_size=tokenizer.vocab_size,
        dtype=tokenizer.dtype.str,
        settings=settings,
        source=source,
        splits=splits,
        warnings=[
            kept(warning)
            for warning in (*text.warnings, *losses(next(text.chunks("train")), tokenizer))
        ],
    )
    write_whole(folder / CORPUS.manifest, manifest_text(manifest).encode())


def _fit(settings: Settings, text: Text) -> Tokenizer:
    """The tokenizer of a text: alphabets and words from all splits, pieces from train alone."""
    if settings.tokenizer == "sentencepiece":
        from simsmoe_cli.data.tokenizers.sentencepiece import SentencePieceTokenizer

        sample = text.sample("train", SAMPLE_BYTES)
        assert settings.vocab_size is not None
        return SentencePieceTokenizer.fit(sample, settings.vocab_size, settings.sp_model)
    if settings.tokenizer == "chars":
        return CharsTokenizer.fit(_all_blocks(text, CharsTokenizer))
    if settings.tokenizer == "words":
        return WordsTokenizer.fit(_all_blocks(text, WordsTokenizer), settings.vocab_size)
    return BytesTokenizer() if settings.vocab == "bytes256" else BytesTokenizer.fit(text.chunks())


def losses(begin: bytes, tokenizer: Tokenizer) -> list[str]:
    """A warning if the tokenizer of a Hugging Face model does not give the beginning of a text
    back."""
    if tokenizer.unit != "token":
        return []
    begin = begin[:COMPARED_BYTES]
    begin = begin[: character_cut(begin)]
    # A space before the text may be added or removed; that is not a loss.
    if tokenizer.decode(tokenizer.encode(begin)).strip() == begin.decode().strip():
        return []
    return [
        "the tokenizer does not give the text back unchanged (it normalises, or has an unknown "
        "token), so bits per byte do not compare with those of other tokenizers"
    ]


def _all_blocks(text: Text, tokenizer: type[Tokenizer]) -> Iterator[bytes]:
    """The splits one after the other, each in blocks that can be encoded separately."""
    cut = tokenizer.safe_cut
    return chain.from_iterable(whole_blocks(text.chunks(split), cut) for split in SPLITS)


def _encode(
    text: Text, split: str, tokenizer: Tokenizer, folder: Path, report: Progress
) -> SplitInfo:
    """Write the ids of one split and count the bytes, characters, lines and words they stand
    for."""
    counts = Counts()
    begun, _ = text.span(split)
    with IdsFile(folder / f"{split}.bin") as file:

        def chunks() -> Iterator[bytes]:
            read, chunk = begun, b""
            for chunk in text.chunks(split):
                file.hashing.submit(counts.feed, chunk)
                read += len(chunk)
                report("encode", read, text.size)
                yield chunk
            if tokenizer.closes_last_line and not chunk.endswith(b"\n"):
                yield b"\n"

        for ids in tokenizer.encode_blocks(chunks()):
            file.add(ids)
        sha256, sums = file.finish()
    if file.tokens < 2:
        raise too_short(f"{text.size} bytes")
    return SplitInfo(
        file=f"{split}.bin",
        size=file.size,
        sha256=sha256,
        tokens=file.tokens,
        bytes=counts.bytes,
        characters=counts.characters,
        lines=counts.lines,
        words=counts.words,
        chunks=sums,
    )


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file, and return when it is on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
