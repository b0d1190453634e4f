"""Text to token ids and back: bytes, characters, words. (Pieces: see `pieces.py`.)

Every tokenizer is vectorised or as near to it as its unit allows, and can say where a text may be
cut so that its parts, encoded apart, give the same ids as the whole (`safe_cut`); that is what
lets a corpus be encoded in blocks with bounded memory.

* bytes: the sorted distinct bytes of the whole corpus, or all 256 (`bytes256`). Published SimSMoE
  code splits enwik8 at white space over decimal byte values; that is this alphabet.
* chars: the sorted distinct Unicode code points of the whole corpus.
* words: what stands between ASCII white space, and `<eos>` at every line end, as in word-level
  work on WikiText; the vocabulary is that of all splits, by falling frequency.
"""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from simsmoe_cli.errors import EXIT_DATA, UserError, nearest, printable
from simsmoe_cli.files.untrusted import Unreadable, parse_json, validated

TOKENIZERS = ("bytes", "chars", "words", "sentencepiece")
UNK, EOS = "<unk>", "<eos>"
CODE_POINTS = 0x110000
LONGEST_WORD = 1 << 24
PIECES_VOCAB_SIZE = 8192

Ids = NDArray[Any]


def dtype_for(vocab_size: int) -> np.dtype[Any]:
    """The narrowest little-endian unsigned integer that holds every id."""
    return np.dtype("u1" if vocab_size <= 1 << 8 else "<u2" if vocab_size <= 1 << 16 else "<u4")


def character_cut(block: bytes) -> int:
    """Where the last UTF-8 character that may be unfinished begins."""
    for back in range(1, min(3, len(block)) + 1):
        if block[-back] >= 0xC0:
            return len(block) - back
    return len(block)


def utf8(text: str | bytes) -> str:
    """The text as a string; a UserError names the first byte that is not UTF-8."""
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(error.start, error.object[error.start]) from None


def not_utf8(offset: int, byte: int, where: str = "") -> UserError:
    """The error for a byte that begins or continues no UTF-8 character."""
    return UserError(
        f"byte 0x{byte:02x} at offset {offset} is not UTF-8",
        where=where,
        hint="Use --tokenizer bytes, or convert the text to UTF-8.",
        code=EXIT_DATA,
    )


def damaged(reason: object) -> UserError:
    """The error for a tokenizer's file that is not as it was written."""
    return UserError(
        f"damaged tokenizer: {reason}",
        hint="Prepare the corpus again with --force.",
        code=EXIT_DATA,
    )


class Tokenizer(ABC):
    """Text to ids in [0, vocab_size) and back.

    `kind` is the name on the command line, `unit` what one token is called; with
    `closes_last_line` a split that does not end with a line feed is encoded as if it did.
    """

    kind: ClassVar[str]
    unit: ClassVar[str]
    file_name: ClassVar[str] = "tokenizer.json"
    closes_last_line: ClassVar[bool] = False
    vocab_size: int

    @abstractmethod
    def encode(self, text: str | bytes) -> Ids:
        """The ids of a text [tokens], in the narrowest dtype; UserError for what has none."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of some ids; ValueError for an id outside the vocabulary."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """What one id stands for, by itself; a part of a character, it may be."""

    def missing(self, text: str) -> list[str]:
        """Characters (words: words) of a text that are not in the vocabulary, each once."""
        return []

    @staticmethod
    @abstractmethod
    def safe_cut(block: bytes) -> int:
        """The largest n found such that block[:n] and what follows may be encoded apart."""

    @abstractmethod
    def dump(self) -> bytes:
        """Everything `load` needs, as the content of the file `file_name`."""

    @classmethod
    @abstractmethod
    def load(cls, content: bytes) -> Tokenizer:
        """The tokenizer whose `dump` this is; UserError (EXIT_DATA) for any other content."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return dtype_for(self.vocab_size)

    def _checked(self, ids: Sequence[int] | Ids) -> Ids:
        array = np.asarray(ids, dtype=np.int64)
        if array.size and not (array.min() >= 0 and array.max() < self.vocab_size):
            raise ValueError(f"ids must lie in [0, {self.vocab_size})")
        return array


class BytesTokenizer(Tokenizer):
    """One id per byte: the rank of the byte in the alphabet."""

    kind = "bytes"
    unit = "byte"

    def __init__(self, alphabet: Iterable[int] = range(256)):
        self._bytes = np.array(sorted(alphabet), dtype=np.uint8)
        self.vocab_size = self._bytes.size
        # What is not in the alphabet becomes no id, where there are bytes that are none.
        table = np.full(256, 255, dtype=np.uint8)
        table[self._bytes] = np.arange(self.vocab_size)
        self._id = table.tobytes()

    @classmethod
    def fit(cls, blocks: Iterable[bytes]) -> BytesTokenizer:
        """The tokenizer of the bytes that occur."""
        seen = b""
        for block in blocks:
            seen += bytes(set(block.translate(None, seen)))
        return cls(seen)

    def encode(self, text: str | bytes) -> Ids:
        content = text.encode() if isinstance(text, str) else text
        ids = np.frombuffer(content.translate(self._id), dtype=np.uint8)
        if ids.size and ids.max() >= self.vocab_size:
            byte = content.translate(None, self._bytes.tobytes())[0]
            raise UserError(
                f"byte 0x{byte:02x} {chr(byte)!r} is not in the alphabet of {self.vocab_size} "
                "bytes the corpus was prepared with",
                hint="A corpus prepared with --vocab bytes256 knows all bytes.",
                code=EXIT_DATA,
            )
        return ids.copy()

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text; bytes that are no UTF-8 come out as U+FFFD."""
        return self._bytes[self._checked(ids)].tobytes().decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes(self._bytes[[token]])

    def missing(self, text: str) -> list[str]:
        known = self._bytes.tobytes()
        return [char for char in dict.fromkeys(text) if char.encode().translate(None, known)]

    @staticmethod
    def safe_cut(block: bytes) -> int:
        return len(block)

    def dump(self) -> bytes:
        return json.dumps({"kind": self.kind, "bytes": self._bytes.tolist()}).encode()

    @classmethod
    def load(cls, content: bytes) -> BytesTokenizer:
        return cls(_loaded(_BytesFile, content).bytes)


class CharsTokenizer(Tokenizer):
    """One id per Unicode code point: its rank in the alphabet."""

    kind = "chars"
    unit = "character"

    def __init__(self, alphabet: str):
        self._points = np.unique(_code_points(alphabet))
        self.vocab_size = self._points.size
        self._id = np.full(CODE_POINTS, -1, dtype=np.int32)
        self._id[self._points] = np.arange(self.vocab_size)

    @classmethod
    def fit(cls, blocks: Iterable[bytes]) -> CharsTokenizer:
        """The tokenizer of the characters that occur; blocks hold whole characters."""
        seen = np.zeros(CODE_POINTS, dtype=bool)
        for block in blocks:
            seen[_code_points(utf8(block))] = True
        return cls(_text(np.flatnonzero(seen)))

    def encode(self, text: str | bytes) -> Ids:
        string = utf8(text)
        ids = self._id[_code_points(string)]
        if (ids < 0).any():
            character = string[int(np.argmin(ids))]
            raise UserError(
                f"character {character!r} (U+{ord(character):04X}) is not in the alphabet of "
                f"{self.vocab_size} characters the corpus was prepared with",
                hint="A corpus prepared with --tokenizer bytes --vocab bytes256 knows all text.",
                code=EXIT_DATA,
            )
        return ids.astype(self.dtype)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        return _text(self._points[self._checked(ids)])

    def token_bytes(self, token: int) -> bytes:
        return _text(self._points[[token]]).encode()

    def missing(self, text: str) -> list[str]:
        return [char for char in dict.fromkeys(text) if self._id[ord(char)] < 0]

    @staticmethod
    def safe_cut(block: bytes) -> int:
        return character_cut(block)

    def dump(self) -> bytes:
        return json.dumps({"kind": self.kind, "characters": _text(self._points)}).encode()

    @classmethod
    def load(cls, content: bytes) -> CharsTokenizer:
        return cls(_loaded(_CharsFile, content).characters)


def _code_points(text: str) -> NDArray[np.uint32]:
    try:
        return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    except UnicodeEncodeError as error:
        raise UserError(
            f"U+{ord(text[error.start]):04X} at offset {error.start} is no character "
            "(a lone surrogate)",
            code=EXIT_DATA,
        ) from None


def _text(points: NDArray[Any]) -> str:
    return points.astype("<u4").tobytes().decode("utf-32-le")


class WordsTokenizer(Tokenizer):
    """One id per word and one, `<eos>`, per line end; words not in the vocabulary are `<unk>`.

    Ids 0 and 1 are `<unk>` and `<eos>`. A text that holds these two as words gets the same ids,
    as WikiText, whose rare words are already `<unk>`, needs.
    """

    kind = "words"
    unit = "word"
    closes_last_line = True

    def __init__(self, words: Sequence[str]):
        self._words = list(words)
        self.vocab_size = len(self._words)
        self._id = {word.encode(): index for index, word in enumerate(self._words)}

    @classmethod
    def fit(cls, blocks: Iterable[bytes], vocab_size: int | None = None) -> WordsTokenizer:
        """The tokenizer of the words that occur, or of the most frequent.

        Args:
            blocks: the text, never cut inside a word.
            vocab_size: ids in all, `<unk>` and `<eos>` with them; None keeps every word. Of
                equally frequent words those first in byte order are kept.
        """
        counts: Counter[bytes] = Counter()
        for block in blocks:
            counts.update(block.split())
        for special in (UNK, EOS):
            counts.pop(special.encode(), None)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        kept = ranked if vocab_size is None else ranked[: vocab_size - 2]
        return cls([UNK, EOS, *(utf8(word) for word in kept)])

    def encode(self, text: str | bytes) -> Ids:
        content = text.encode() if isinstance(text, str) else text
        words = content.replace(b"\n", b" <eos> ").split()
        identity, unknown = self._id.get, self._id[UNK.encode()]
        return np.fromiter((identity(word, unknown) for word in words), self.dtype, len(words))

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Words with one space between them, lines ended by a line feed."""
        words = (self._words[index] for index in self._checked(ids))
        text = " ".join("\n" if word == EOS else word for word in words)
        return text.replace(" \n", "\n").replace("\n ", "\n")

    def token_bytes(self, token: int) -> bytes:
        word = self._words[token]
        return b"\n" if word == EOS else word.encode()

    def missing(self, text: str) -> list[str]:
        words = dict.fromkeys(text.encode().split())
        return [word.decode() for word in words if word not in self._id]

    @staticmethod
    def safe_cut(block: bytes) -> int:
        cut = 1 + max(block.rfind(space) for space in (b" ", b"\n", b"\t", b"\r", b"\v", b"\f"))
        if not cut and len(block) > LONGEST_WORD:
            raise UserError(
                f"no white space in {len(block):,} bytes, so there are no words to count",
                hint="Use --tokenizer bytes, chars or sentencepiece.",
                code=EXIT_DATA,
            )
        return cut

    def dump(self) -> bytes:
        return json.dumps({"kind": self.kind, "words": self._words}, ensure_ascii=False).encode()

    @classmethod
    def load(cls, content: bytes) -> WordsTokenizer:
        return cls(_loaded(_WordsFile, content).words)


def _ascending(alphabet: Any) -> Any:
    if any(second <= first for first, second in itertools.pairwise(alphabet)):
        raise ValueError("it is not in order, or something is in it twice")
    return alphabet


def _words_apart(words: list[str]) -> list[str]:
    if words[:2] != [UNK, EOS]:
        raise ValueError(f"it does not begin with {UNK} and {EOS}")
    if len(set(words)) < len(words):
        raise ValueError("a word is in it twice")
    if len(" ".join(words).encode().split()) != len(words):
        raise ValueError("a word is empty or has white space in it")
    return words


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _BytesFile(_File):
    kind: Literal["bytes"]
    bytes: Annotated[
        list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=1), AfterValidator(_ascending)
    ]


class _CharsFile(_File):
    kind: Literal["chars"]
    characters: Annotated[str, Field(min_length=1), AfterValidator(_ascending)]


class _WordsFile(_File):
    kind: Literal["words"]
    words: Annotated[list[str], AfterValidator(_words_apart)]


F = TypeVar("F", bound=_File)


def _loaded(schema: type[F], content: bytes) -> F:
    """What is in a tokenizer.json."""
    try:
        return validated(schema, parse_json(content))
    except Unreadable as error:
        raise damaged(error) from None


def tokenizer_class(kind: str) -> type[Tokenizer]:
    """The class behind a tokenizer's name; sentencepiece is imported when it is asked for.

    UserError (EXIT_DATA) for a name that is not in TOKENIZERS.
    """
    if kind not in TOKENIZERS:
        what = f"unknown tokenizer '{printable(kind)}'"
        raise UserError(what, hint=nearest(printable(kind), TOKENIZERS), code=EXIT_DATA)
    if kind == "sentencepiece":
        from simsmoe_cli.data.tokenizers.sentencepiece import PiecesTokenizer

        return PiecesTokenizer
    classes: tuple[type[Tokenizer], ...] = (BytesTokenizer, CharsTokenizer, WordsTokenizer)
    return next(cls for cls in classes if cls.kind == kind)


def whole_blocks(chunks: Iterable[bytes], safe_cut: Callable[[bytes], int]) -> Iterator[bytes]:
    """The same bytes in blocks that end where a tokenizer's `safe_cut` allows."""
    rest = b""
    for chunk in chunks:
        block = rest + chunk
        cut = safe_cut(block)
        rest = block[cut:]
        if cut:
            yield block[:cut]
    if rest:
        yield rest
