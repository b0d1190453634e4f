"""The token store: a prepared corpus as memory-mapped ids, with a manifest that describes them.

    DATA_DIR/NAME/
      manifest.json                          written last: without it the folder is not a store
      train.bin valid.bin test.bin           ids, little-endian, narrowest unsigned integer
      tokenizer.json | sentencepiece.model the tokenizer that made them

A store is built in a partial folder and renamed when whole (`corpora/prepare.py`). It is opened
only if the manifest fits its schema and its own checksum, its numbers agree with each other, and
the files have the sizes, and the tokenizer the hash, that it names. The ids themselves are checked
against checksums when they are used (`split_tokens.py`).

Schema 2 has checksums of 16 MiB each and one of the manifest. Stores of schema 1 have a SHA-256 of
each split instead and stay readable: a split is then read whole, once in a process, before anything
of it is used, and the manifest is only checked for numbers that agree. They are never changed in
place; `prepare-data --force` makes a store of schema 2 with the same fingerprint.

Schema 3 is that of documents (`documents/prepare.py`): an end token follows each document, and a
split lies in shards:

      train-00000.bin train-00001.bin ... valid-00000.bin ... test-00000.bin ...
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from simsmoe_cli.data.corpora.facts import SPLITS
from simsmoe_cli.data.prepared import (
    SCHEMA,
    Count,
    Facts,
    FileInfo,
    Prepared,
    Sha256,
    Shown,
    split_info,
)
from simsmoe_cli.data.sharded_tokens import ShardedTokens, allow_open_files
from simsmoe_cli.data.split_tokens import CHUNK_BYTES, Expected, SplitTokens
from simsmoe_cli.data.tokenizers.base import Tokenizer, dtype_for
from simsmoe_cli.data.tokenizers.names import TOKENIZERS, tokenizer_class
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.files.untrusted import Unreadable, read_bytes
from simsmoe_cli.registry import CORPORA

MOST_TOKENIZER_BYTES = 1 << 30
# Below this, reading a split of schema 1 whole takes a second or so.
MUCH_BYTES = 1 << 30
SHARDED = 3  # the schema of a store with shards

CORPUS = Prepared("corpus", "manifest.json", CORPORA, own="PATH", schemas=(1, SCHEMA, SHARDED))


Chunks = Annotated[
    list[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]],
    Field(description="xxh3 (64 bits) of every 16 MiB of the file; none in schema 1"),
]


class Shard(FileInfo):
    """One of the files of a split."""

    tokens: Annotated[int, Field(ge=1, lt=1 << 60)]
    chunks: Chunks


class SplitInfo(FileInfo):
    """A split: its files, and the amount of text that its tokens stand for.

    With shards, `file` is empty, `size` is theirs together, and `sha256` is the hash of their
    hashes.
    """

    tokens: Annotated[int, Field(ge=2, lt=1 << 60)] = Field(
        description="those that end documents as well"
    )
    bytes: Annotated[int, Field(ge=1, lt=1 << 60)] = Field(description="bytes of text")
    characters: Count = Field(description="Unicode characters of text (UTF-8 lead bytes)")
    lines: Count
    words: Count = Field(
        description="words and line ends, as the words tokenizer counts them; perplexity per word "
        "divides by it"
    )
    chunks: Chunks = Field([])
    documents: Count = Field(0, description="documents, each with its end token; 0: no documents")
    shards: list[Shard] = Field([])

    @property
    def tokens_per_unit(self) -> float:
        """Tokens, end tokens too, per token of text; 1 where there are no documents."""
        return self.tokens / (self.tokens - self.documents)

    @property
    def files(self) -> Sequence[FileInfo]:
        """The files that it lies in."""
        return self.shards or [self]


class SourceInfo(Facts):
    """Where the text came from."""

    given: Shown = Field(description="path, URL or Python version it was read from")
    files: Count
    bytes: Count
    sha256: Sha256 = Field(
        description="of the text, splits joined; of documents: of the names, sizes and times of "
        "their files"
    )
    python: Shown = Field("", description="pystdlib: the Python whose library it is")


class Settings(Facts):
    """The settings that a corpus was prepared with."""

    tokenizer: Shown
    vocab_size: int | None = None
    vocab: Literal["corpus", "bytes256"] = "corpus"
    sp_model: Literal["unigram", "bpe"] = "unigram"
    vocab_from: Shown = Field("", description="sha256 of the tokenizer of another store, if lent")
    text_column: Shown = Field("", description="documents: the column of the texts")
    held_out: float = Field(0.0, description="documents: share of each held-out split")
    end_token: Shown = Field(
        "", description="documents: the token of the tokenizer's that was asked for"
    )


class Manifest(Facts):
    """The manifest of a store."""

    schema_version: int = SCHEMA
    name: Shown
    corpus: Shown = Field("", description="the known corpus it is; empty for other text")
    whole: bool = Field(description="false for a part of a known corpus")
    unit: Shown = Field(description="what one token is called")
    tokenizer: Shown
    tokenizer_file: FileInfo
    vocab_size: Annotated[int, Field(ge=1, le=1 << 32)]
    end_id: int | None = Field(None, description="the token after each document; null: none")
    dtype: Shown
    settings: Settings
    source: SourceInfo
    splits: dict[str, SplitInfo]
    warnings: list[Shown] = Field([])

    @model_validator(mode="after")
    def _agree(self) -> Manifest:
        """Refuse numbers and names that contradict each other."""
        if sorted(self.splits) != sorted(SPLITS):
            raise ValueError(f"its splits are not {', '.join(SPLITS)}")
        if self.tokenizer not in TOKENIZERS:
            raise ValueError(f"unknown tokenizer '{self.tokenizer}'")
        made = tokenizer_class(self.tokenizer)
        if self.unit != made.unit or self.tokenizer_file.file != made.file_name:
            raise ValueError(f"unit or file are not those of the tokenizer {self.tokenizer}")
        dtype = dtype_for(self.vocab_size)
        if self.dtype != dtype.str:
            raise ValueError(f"ids below {self.vocab_size:,} are {dtype.str}, not {self.dtype}")
        for name, split in self.splits.items():
            self._agree_on_files(name, split, dtype.itemsize)
            if bool(split.documents) != (self.end_id is not None):
                raise ValueError(f"{name} has {split.documents:,} documents")
            text = {"byte": split.bytes, "character": split.characters, "word": split.words}
            tokens = split.tokens - split.documents
            if tokens != text.get(self.unit, tokens):
                units = f"{text[self.unit]:,} {self.unit}s"
                raise ValueError(f"{name} has {tokens:,} tokens for {units}")
            if max(split.characters, split.lines, split.words - split.lines) > split.bytes:
                raise ValueError(f"{name} has more characters, lines or words than bytes")
        if sum(split.bytes for split in self.splits.values()) != self.source.bytes:
            raise ValueError("the bytes of the splits do not add up to those of the source")
        return self

    def _agree_on_files(self, name: str, split: SplitInfo, itemsize: int) -> None:
        """Refuse files whose names, sizes or checksums contradict the split's tokens."""
        if (self.schema_version == SHARDED) != bool(split.shards):
            raise ValueError(f"{name} has {len(split.shards):,} shards")
        size, tokens = split.size, split.tokens
        if split.shards and (size, tokens) != (
            sum(shard.size for shard in split.shards),
            sum(shard.tokens for shard in split.shards),
        ):
            raise ValueError(f"the shards of {name} do not add up to it")
        files: list[Shard] | list[SplitInfo] = split.shards or [split]
        for file in files:
            if not split.shards and file.file != f"{name}.bin":
                raise ValueError(f"the file of {name} is not {name}.bin")
            if split.shards and not re.fullmatch(rf"{name}-\d{{5,9}}\.bin", file.file):
                raise ValueError(f"a shard of {name} is called {file.file}")
            if file.size != file.tokens * itemsize:
                raise ValueError(f"{name} has {file.size:,} bytes for {file.tokens:,} ids")
            chunks = -(-file.size // CHUNK_BYTES) if self.schema_version > 1 else 0
            if len(file.chunks) != chunks:
                raise ValueError(f"{name} has {len(file.chunks):,} checksums, not {chunks:,}")

    @property
    def vocabulary(self) -> str:
        """Hash of the tokenizer: equal for two stores whose ids mean the same."""
        return self.tokenizer_file.sha256

    @property
    def fingerprint(self) -> str:
        """Hash of tokenizer and splits: equal for two stores that hold the same ids."""
        hashes = [self.vocabulary, *(self.splits[name].sha256 for name in SPLITS)]
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


class TokenStore:
    """A prepared corpus, opened for reading; `built` is True if this `prepare` built it.

    Attributes:
        path: its folder.
        manifest: its manifest.
        tokenizer: the tokenizer that made the ids.
    """

    def __init__(self, path: Path, manifest: Manifest, tokenizer: Tokenizer):
        self.path = path
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.built = False
        self._splits: dict[str, SplitTokens | ShardedTokens] = {}

    @classmethod
    def open(cls, path: Path) -> TokenStore:
        """The store in a folder.

        DataError when there is none, it is unfinished, or its manifest was changed,
        contradicts itself, or does not match its files (sizes of all, content of the
        tokenizer's).
        """
        manifest = CORPUS.read_manifest(path, Manifest)
        files = chain.from_iterable(split.files for split in manifest.splits.values())
        CORPUS.require_sizes(path, (manifest.tokenizer_file, *files))
        return cls(path, manifest, _read_tokenizer(path, manifest))

    @property
    def warnings(self) -> list[str]:
        """Warnings to show before the corpus is used."""
        size = sum(split.size for split in self.manifest.splits.values())
        if self.manifest.schema_version > 1 or size < MUCH_BYTES:
            return self.manifest.warnings
        old = (
            f"{self.manifest.name} was prepared by an earlier version and has no checksums by "
            f"chunk, so each split is read whole before it is used ({size / 1e9:.1f} GB in all); "
            "prepare it again with --force"
        )
        return [*self.manifest.warnings, old]

    def verify(self) -> None:
        """Check every split whole; DataError if one differs."""
        for name in self.manifest.splits:
            self.checked_split(name)

    def split(self, name: str) -> SplitTokens | ShardedTokens:
        """The ids of a split [tokens], memory-mapped and read-only, checked as they are read."""
        info = split_info(self.manifest.splits, name, self.path)
        if name not in self._splits:
            if info.shards:
                allow_open_files(sum(len(split.shards) for split in self.manifest.splits.values()))
                self._splits[name] = ShardedTokens([self._opened(file) for file in info.shards])
            else:
                self._splits[name] = self._opened(info)
        return self._splits[name]

    def _opened(self, info: SplitInfo | Shard) -> SplitTokens:
        """The ids in one file."""
        old = self.manifest.schema_version == 1
        expected = Expected(
            dtype=np.dtype(self.manifest.dtype),
            tokens=info.tokens,
            vocab_size=self.manifest.vocab_size,
            algorithm="sha256" if old else "xxh3_64",
            chunk_bytes=info.size if old else CHUNK_BYTES,
            checksums=(info.sha256,) if old else tuple(info.chunks),
        )
        return SplitTokens(
            self.path / info.file, expected, lambda reason: CORPUS.damaged(self.path, reason)
        )

    def checked_split(self, name: str) -> SplitTokens | ShardedTokens:
        """The ids of a split, with every chunk checked; for scores, which read all of it."""
        tokens = self.split(name)
        tokens.check_all()
        return tokens


def _read_tokenizer(path: Path, manifest: Manifest) -> Tokenizer:
    """The tokenizer of a store; UserError unless it is the one that the manifest names."""
    info = manifest.tokenizer_file
    try:
        content = read_bytes(path / info.file, MOST_TOKENIZER_BYTES)
    except (Unreadable, FileNotFoundError) as error:
        raise CORPUS.damaged(path, f"{info.file} {error}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != info.sha256:
        reason = f"{info.file} has sha256 {found}, the manifest says {info.sha256}"
        raise CORPUS.damaged(path, reason)
    try:
        tokenizer = tokenizer_class(manifest.tokenizer).load(content)
        if manifest.tokenizer == "huggingface":  # its file does not say which token it is
            tokenizer.end_id = manifest.end_id
    except UserError as error:
        if error.code != EXIT_DATA:  # a library is missing
            raise
        raise CORPUS.damaged(path, f"{info.file}: {error.what}") from None
    if tokenizer.vocab_size != manifest.vocab_size:
        has = f"has {tokenizer.vocab_size:,} ids"
        raise CORPUS.damaged(path, f"{info.file} {has}, the manifest says {manifest.vocab_size:,}")
    if tokenizer.end_id != manifest.end_id:
        reason = f"{info.file} ends documents with {tokenizer.end_id}, the manifest says"
        raise CORPUS.damaged(path, f"{reason} {manifest.end_id}")
    return tokenizer


def is_store(path: Path) -> bool:
    """Whether a folder is a prepared corpus, or was one and is damaged now."""
    return CORPUS.is_in(path)


def find_store(corpus: str, data_dir: Path) -> Path:
    """The folder of a prepared corpus, given its name below `data_dir` or a folder anywhere.

    DataError with what to run, or the nearest prepared name.
    """
    return CORPUS.find(corpus, data_dir)
