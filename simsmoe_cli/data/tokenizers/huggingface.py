"""Tokenizer `huggingface`: the `tokenizer.json` of a Hugging Face model, run by its own library.

No special tokens are added; those spelled out in a text are read as the library reads them. Whether
a text comes back from its ids depends on the file: some normalise, or have an unknown token.

Such a tokenizer does not say where a text may be cut: its normaliser and regular expressions look
to both sides, and a prefix may be added at the beginning. So a long text is encoded in windows that
overlap (OVERLAP characters), and two windows are joined at the end of a token inside the overlap
where both give the same AGREE tokens before it and after it. For BPE this is exact if the text
encoded at once also ends a token there: no merge then reaches over the place. Where windows agree
nowhere, as in a very long run of one character, they are encoded again as one.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from simsmoe_cli.data.tokenizers.base import (
    Ids,
    Tokenizer,
    character_cut,
    damaged,
    utf8,
    whole_blocks,
)
from simsmoe_cli.errors import EXIT_DATA, DataError, UserError, printable
from simsmoe_cli.files.foreign_calls import is_failure, silent_stderr
from simsmoe_cli.files.untrusted import Unreadable, read_bytes

FILE = "tokenizer.json"
MOST_BYTES = 1 << 28  # the largest known tokenizer.json has 35 MB
MOST_IDS = 1 << 24
WINDOW = 1 << 18  # characters
MOST_WINDOW = 1 << 22
OVERLAP = 1 << 12
AGREE = 16
SPACE = "\u2581"
BYTE = re.compile("<0x[0-9A-F]{2}>")
# Encoded and decoded once when a file is opened, so that the library panics then if it does.
TRIAL = "A trial: caf\u00e9 \U0001f642\n\n  2 lines\t<s>"
SLOW_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")


class _Window:
    """A part of a text, its ids, and the characters [start, end) of the part each stands for."""

    def __init__(self, text: str, encoding: Any, dtype: np.dtype[Any]):
        self.text = text
        self.ids = np.array(encoding.ids, dtype=dtype)
        self.spans: list[tuple[int, int]] = encoding.offsets


class HuggingFaceTokenizer(Tokenizer):
    """The ids of a tokenizer.json; `vocab_size` is the largest id, of added tokens too, plus 1."""

    kind = "huggingface"
    unit = "token"

    def __init__(self, content: bytes, library_object: Any):
        self._content = content
        self._fast = library_object
        self._added = {
            token: str(added.content)
            for token, added in self._fast.get_added_tokens_decoder().items()
        }
        ids = self._fast.get_vocab(with_added_tokens=True).values()
        self.vocab_size = 1 + max(ids, default=-1)
        decoder = self._fast.decoder
        state = decoder.__getstate__() if decoder is not None else b""
        self._is_byte_level = b"ByteLevel" in state
        self._has_byte_fallback = b"ByteFallback" in state

    def encode(self, text: str | bytes) -> Ids:
        return self._window(utf8(text)).ids

    def encode_blocks(self, chunks: Iterable[bytes]) -> Iterator[Ids]:
        window, given = None, 0  # `given`: tokens of the window that were yielded already
        for part in _parts(chunks):
            if window is None:
                window = self._window(part)
                continue
            begin = max(0, len(window.text) - OVERLAP)
            following = self._window(window.text[begin:] + part)
            joint = _joint(window, following, begin)
            if joint is not None and joint[0] >= given:
                yield window.ids[given : joint[0]]
                window, given = following, joint[1]
                continue
            if len(window.text) + len(part) > MOST_WINDOW:
                raise DataError(
                    f"the tokenizer finds no place to divide {MOST_WINDOW:,} characters of the text"
                    " that follow each other",
                    hint="Break the text into lines, or use another tokenizer.",
                )
            window = self._window(window.text + part)
        if window is not None:
            yield window.ids[given:]

    def encode_documents(self, texts: Sequence[str]) -> list[Ids]:
        short = [text for text in texts if len(text) <= WINDOW]
        with _one_line("the tokenizer cannot encode the text"):
            found = iter(self._fast.encode_batch_fast(short, add_special_tokens=False))
        return [
            np.array(next(found).ids, dtype=self.dtype)
            if len(text) <= WINDOW
            else np.concatenate(list(self.encode_blocks([text.encode()])))
            for text in texts
        ]

    def end_of(self, content: str) -> int | None:
        """The id of a token by its text; None if there is no such token."""
        token: int | None = self._fast.token_to_id(content)
        return token

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text; special tokens are written out, and bytes that are not UTF-8 as U+FFFD."""
        checked = self._checked(ids).tolist()
        with _one_line("the tokenizer cannot decode"):
            return str(self._fast.decode(checked, skip_special_tokens=False))

    def token_bytes(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        piece = self._fast.id_to_token(token) or ""  # some ids below the largest have no token
        if self._has_byte_fallback and BYTE.fullmatch(piece):
            return bytes([int(piece[3:-1], 16)])
        if self._is_byte_level:
            byte_of = _byte_of_name()
            return b"".join(
                bytes([byte_of[name]]) if name in byte_of else name.encode() for name in piece
            )
        return piece.replace(SPACE, " ").encode()

    @staticmethod
    def safe_cut(block: bytes) -> int:
        """0: no place is certain (see `encode_blocks`)."""
        return 0

    def dump(self) -> bytes:
        return self._content

    @classmethod
    def load(cls, content: bytes) -> HuggingFaceTokenizer:
        library = _library()
        if len(content) > MOST_BYTES:
            raise damaged(f"the file has more than {MOST_BYTES:,} bytes")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            raise damaged("the file is not UTF-8") from None
        with silent_stderr(), _one_line("damaged tokenizer", "Copy the file again."):
            fast = library.Tokenizer.from_str(text)
            fast.no_truncation()
            fast.no_padding()
            fast.post_processor = None  # it adds special tokens and shortens spans
            if getattr(fast.model, "dropout", None) is not None:
                fast.model.dropout = None
            tokenizer = cls(content, fast)
            if not 1 <= tokenizer.vocab_size <= MOST_IDS:
                raise damaged(f"its ids are not 0 to at most {MOST_IDS - 1:,}")
            with contextlib.suppress(Exception):  # it may lack characters of the trial
                fast.decode(fast.encode(TRIAL, add_special_tokens=False).ids)
        return tokenizer

    def _window(self, text: str) -> _Window:
        with _one_line("the tokenizer cannot encode the text"):
            encoding = self._fast.encode(text, add_special_tokens=False)
            return _Window(text, encoding, self.dtype)


def open_given(tokenizer: str) -> HuggingFaceTokenizer | None:
    """The tokenizer that `--tokenizer` names by a path; None for what does not look like one.

    Args:
        tokenizer: a folder with a tokenizer.json, or the path of a tokenizer.json.

    Raises:
        UserError: EXIT_USAGE for "huggingface" itself and for a missing library; EXIT_DATA for a
            path without a tokenizer.json that can be used.
    """
    path = Path(os.path.expanduser(tokenizer))
    if not os.path.exists(path):
        _require_no_path(tokenizer)
        return None
    file = path / FILE if os.path.isdir(path) else path
    try:
        content = read_bytes(file, MOST_BYTES)
    except FileNotFoundError:
        raise _no_file(path) from None
    except Unreadable as error:
        raise DataError(f"the tokenizer {error}", where=str(file)) from None
    try:
        return HuggingFaceTokenizer.load(content)
    except UserError as error:
        if error.code != EXIT_DATA:
            raise
        hint = "Copy the file from the original model again."
        if file.name != FILE:
            hint = f"Give the model's folder, or its {FILE}."
        raise DataError(error.what, where=str(file), hint=hint) from None


def byte_names() -> list[str]:
    """The printable character that byte-level vocabularies write each byte as."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def _require_no_path(tokenizer: str) -> None:
    """Raise a UserError for a path where nothing is, and for "huggingface" without a path."""
    if tokenizer == HuggingFaceTokenizer.kind:
        raise UserError(
            "'huggingface' does not say which tokenizer",
            where="--tokenizer",
            hint=f"Give a model's folder: simsmoe prepare-data CORPUS --tokenizer FOLDER, with a "
            f"{FILE} in it.",
        )
    if os.sep in tokenizer or tokenizer.endswith(".json"):
        raise DataError(
            f"there is no '{printable(tokenizer)}'",
            where="--tokenizer",
            hint=f"Give a folder on this machine with a {FILE}; nothing is downloaded.",
        )


def _no_file(folder: Path) -> UserError:
    slow = [name for name in SLOW_FILES if os.path.isfile(folder / name)]
    if not slow:
        hint = "Give the folder of a Hugging Face model."
        return DataError(f"no {FILE} in it", where=str(folder), hint=hint)
    return DataError(
        f"no {FILE} in it, only {slow[0]}",
        where=str(folder),
        hint="Write one with transformers: AutoTokenizer.from_pretrained(FOLDER)"
        ".save_pretrained(FOLDER).",
    )


def _library() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError:
        raise UserError(
            "reading a tokenizer.json needs the package tokenizers",
            hint="Install it: pip install 'simsmoe[hf]'",
        ) from None


@contextlib.contextmanager
def _one_line(what: str, hint: str = "") -> Iterator[None]:
    """Turn whatever the library raises, a panic too, into a DataError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        reason = printable(" ".join(str(error).split()) or type(error).__name__, 240)
        raise DataError(f"{what}: {reason}", hint=hint) from None


@cache
def _byte_of_name() -> dict[str, int]:
    return {name: byte for byte, name in enumerate(byte_names())}


def _parts(chunks: Iterable[bytes]) -> Iterator[str]:
    """The text in parts of WINDOW characters; the last may be shorter."""
    text = ""
    for block in whole_blocks(chunks, character_cut):
        text += utf8(block)
        while len(text) >= WINDOW:
            yield text[:WINDOW]
            text = text[WINDOW:]
    if text:
        yield text


def _joint(first: _Window, second: _Window, begin: int) -> tuple[int, int] | None:
    """Where to go over from one window to the next.

    Args:
        first: a window.
        second: the next, which begins at character `begin` of the first.

    Returns:
        How many tokens of the first come before the place, and how many of the second; the place
        nearest to the middle of the overlap. None if they agree nowhere.
    """
    overlap = len(first.text) - begin
    lead = next((i for i, (start, _) in enumerate(first.spans) if start >= begin), None)
    if lead is None:
        return None
    a = [
        (int(token), start - begin, end - begin)
        for token, (start, end) in zip(first.ids[lead:], first.spans[lead:], strict=True)
    ]
    b = [
        (int(token), start, end)
        for token, (start, end) in itertools.takewhile(
            lambda item: item[1][0] < overlap, zip(second.ids, second.spans, strict=True)
        )
    ]
    at = {start: k for k, (_, start, _) in reversed(list(enumerate(b)))}
    cuts = range(AGREE, len(a) - AGREE)
    for i in sorted(cuts, key=lambda i: abs(a[i][1] - overlap // 2)):
        if a[i - 1][1] == a[i][1] or a[i - 1][2] > a[i][1]:
            continue  # inside a character
        k = at.get(a[i][1], 0)
        if k >= AGREE and a[i - AGREE : i + AGREE] == b[k - AGREE : k + AGREE]:
            return lead + i, k
    return None
