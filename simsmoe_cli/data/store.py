"""The token store: a prepared corpus as memory-mapped ids, with a manifest that vouches for it.

    DATA_DIR/NAME/
      manifest.json                          written last: without it the folder is no store
      train.bin valid.bin test.bin           ids, little-endian, narrowest unsigned integer
      tokenizer.json | sentencepiece.model   what made them

A store is built in a folder beside its place and renamed when whole (`prepare.py`), and opened
only if every file has the size, and the tokenizer the hash, that the manifest says.
"""

from __future__ import annotations

import difflib
import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simsmoe_cli.data.tokenizers import Tokenizer, tokenizer_class
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.registry import CORPORA

SCHEMA = 1
MANIFEST = "manifest.json"


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileInfo(_Facts):
    """A file of the store."""

    file: str
    size: int = Field(description="bytes")
    sha256: str


class SplitInfo(FileInfo):
    """A split: its file, and how much text its tokens stand for."""

    tokens: int
    bytes: int = Field(description="bytes of text")
    characters: int = Field(description="Unicode characters of text (UTF-8 lead bytes)")
    lines: int
    words: int = Field(
        description="words and line ends, as the words tokenizer counts them: what a perplexity "
        "per word divides by"
    )


class SourceInfo(_Facts):
    """Where the text came from."""

    given: str = Field(description="path, URL or Python version it was read from")
    files: int
    bytes: int
    sha256: str = Field(description="of the text, splits joined")
    python: str = Field("", description="pystdlib: the Python whose library it is")


class Settings(_Facts):
    """What a corpus was asked to be prepared as."""

    tokenizer: str
    vocab_size: int | None = None
    vocab: Literal["corpus", "bytes256"] = "corpus"
    sp_model: Literal["unigram", "bpe"] = "unigram"
    vocab_from: str = Field("", description="sha256 of the tokenizer of another store, if lent")


class Manifest(_Facts):
    """Everything there is to know of a store."""

    schema_version: int = SCHEMA
    name: str
    corpus: str = Field("", description="the known corpus it is; empty for other text")
    whole: bool = Field(description="false for a part of a known corpus")
    unit: Literal["byte", "character", "word", "piece"]
    tokenizer: str
    tokenizer_file: FileInfo
    vocab_size: int
    dtype: str
    settings: Settings
    source: SourceInfo
    splits: dict[str, SplitInfo]
    warnings: list[str] = []

    @property
    def vocabulary(self) -> str:
        """What two stores share whose ids mean the same: the hash of the tokenizer."""
        return self.tokenizer_file.sha256

    @property
    def fingerprint(self) -> str:
        """What two stores share that hold the same ids: a hash of tokenizer and splits."""
        hashes = [self.vocabulary, *(split.sha256 for split in self.splits.values())]
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


class TokenStore:
    """A prepared corpus, opened for reading; `built` is set by the `prepare` that built it."""

    def __init__(self, path: Path, manifest: Manifest):
        self.path = path
        self.manifest = manifest
        self.built = False

    @classmethod
    def open(cls, path: Path) -> TokenStore:
        """The store in a folder.

        UserError (EXIT_DATA) when there is none, it is unfinished, or its manifest does not match
        its files: sizes of all, content of the tokenizer's. `verify` reads the rest.
        """
        try:
            manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
        except FileNotFoundError:
            what = "no prepared corpus" + (" (no manifest)" if path.is_dir() else "")
            raise UserError(
                what, where=str(path), hint="See: simsmoe prepare-data --help", code=EXIT_DATA
            ) from None
        except (ValidationError, OSError) as error:
            reason = f"{type(error).__name__} in its manifest"
            raise _mismatch(path, reason) from None
        store = cls(path, manifest)
        if manifest.schema_version != SCHEMA:
            raise _mismatch(path, f"manifest schema {manifest.schema_version}, not {SCHEMA}")
        for info in (manifest.tokenizer_file, *manifest.splits.values()):
            file = path / info.file
            size = file.stat().st_size if file.is_file() else None
            if size != info.size:
                found = "is missing" if size is None else f"has {size:,} bytes"
                raise _mismatch(path, f"{info.file} {found}, the manifest says {info.size:,}")
        itemsize = np.dtype(manifest.dtype).itemsize
        for name, split in manifest.splits.items():
            if split.tokens * itemsize != split.size:
                raise _mismatch(path, f"{name} has {split.size:,} bytes for {split.tokens:,} ids")
        store._require_hash(manifest.tokenizer_file)
        return store

    def verify(self) -> None:
        """Read every file and hold it against its hash; UserError (EXIT_DATA) if one differs."""
        for info in (self.manifest.tokenizer_file, *self.manifest.splits.values()):
            self._require_hash(info)

    def split(self, name: str) -> NDArray[Any]:
        """The ids of a split [tokens], memory-mapped and read-only."""
        info = self.manifest.splits.get(name)
        if info is None:
            known = ", ".join(self.manifest.splits)
            raise UserError(f"no split '{name}'", where=str(self.path), hint=f"Splits: {known}.")
        dtype = np.dtype(self.manifest.dtype)
        return np.memmap(self.path / info.file, dtype=dtype, mode="r", shape=(info.tokens,))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What made the ids."""
        content = (self.path / self.manifest.tokenizer_file.file).read_bytes()
        return tokenizer_class(self.manifest.tokenizer).load(content)

    def _require_hash(self, info: FileInfo) -> None:
        with open(self.path / info.file, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != info.sha256:
            reason = f"{info.file} has sha256 {found}, the manifest says {info.sha256}"
            raise _mismatch(self.path, reason)


def _mismatch(path: Path, reason: str) -> UserError:
    return UserError(
        f"the prepared corpus is damaged: {reason}",
        where=str(path),
        hint="Prepare it again with --force.",
        code=EXIT_DATA,
    )


def is_store(path: Path) -> bool:
    """Whether a folder is a store, or was one before something happened to it."""
    return (path / MANIFEST).is_file()


def find_store(corpus: str, data_dir: Path) -> Path:
    """The folder of a prepared corpus.

    Args:
        corpus: its name below `data_dir`, or a folder anywhere.
        data_dir: where prepared corpora lie.

    Returns:
        Its path; UserError (EXIT_DATA) with what to run, or the nearest prepared name.
    """
    for path in (data_dir / corpus, Path(corpus).expanduser()):
        if is_store(path):
            return path
    prepared = (
        sorted(item.name for item in data_dir.iterdir() if is_store(item))
        if data_dir.is_dir()
        else []
    )
    close = difflib.get_close_matches(corpus, prepared, n=1, cutoff=0.6)
    known = difflib.get_close_matches(corpus, CORPORA, n=1, cutoff=0.6)
    hint = f"Did you mean '{close[0]}'? " if close and corpus not in CORPORA else ""
    hint += f"To prepare it: simsmoe prepare-data {known[0] if known else 'PATH'}. "
    hint += f"Prepared: {', '.join(prepared) or 'none'}."
    raise UserError(
        f"corpus '{corpus}' is not prepared", where=str(data_dir), hint=hint, code=EXIT_DATA
    )
