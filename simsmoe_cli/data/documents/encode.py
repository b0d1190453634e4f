"""Encodes batches of documents, in this process or in several others.

Each document is parsed, assigned to a split, encoded and followed by the end token. Results come in
the order of the batches, so the number of processes changes nothing but the time.

Splits: unless its file belongs to one, a document is held out by its number in the file. Of every
`group` consecutive documents one goes to each held-out split, at places given by a hash of the
file's name and the group's number. So a document stays in its split when files come and go.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process

import numpy as np
import xxhash

from simsmoe_cli.data.corpora.text import Counts
from simsmoe_cli.data.documents.inputs import Input, Origin
from simsmoe_cli.data.documents.read import Batch, fault, no_column
from simsmoe_cli.data.tokenizers.base import Ids, Tokenizer
from simsmoe_cli.data.tokenizers.names import tokenizer_class
from simsmoe_cli.errors import EXIT_OUT_OF_MEMORY, UserError, printable
from simsmoe_cli.files.held_signals import held_signals

AHEAD = 2  # batches per process that are read before they are needed


@dataclass(frozen=True)
class Rules:
    """How documents are found in records and assigned to splits.

    Attributes:
        column: the column of the texts.
        drawn: the held-out splits that documents are drawn for: "valid", "test", both or none.
        group: of how many consecutive documents one goes to each.
    """

    column: str
    drawn: tuple[str, ...]
    group: int


@dataclass
class Part:
    """What a batch adds to a split: the ids, and the amount of text that they stand for."""

    ids: Ids
    documents: int
    bytes: int
    characters: int
    lines: int
    words: int


@dataclass
class Encoded:
    """A batch, encoded.

    Attributes:
        parts: by split.
        empty: documents without text, which are left out.
    """

    parts: dict[str, Part] = field(default_factory=dict)
    empty: int = 0

    @property
    def bytes(self) -> int:
        """Of text."""
        return sum(part.bytes for part in self.parts.values())


def texts(batch: Batch, origin: Origin, column: str) -> Iterator[tuple[int, str]]:
    """Number and text of each document of a batch, empty ones too.

    Raises:
        UserError: EXIT_DATA with file and line for a record that cannot be read.
    """
    if isinstance(batch.records, bytes):
        for number, line in enumerate(batch.records.split(b"\n"), batch.first):
            if line.strip():
                yield number, _json_text(_decoded(line, origin, number), origin, column, number)
        return
    for number, content in enumerate(batch.records, batch.first):
        yield number, _decoded(content or b"", origin, number)


def split_of(origin: Origin, number: int, rules: Rules) -> str:
    """The split of a document."""
    if origin.split:
        return origin.split
    draw = xxhash.xxh3_64_intdigest(f"{origin.name}\0{number // rules.group}".encode())
    position = (number + draw) % rules.group
    return rules.drawn[position] if position < len(rules.drawn) else "train"


def encode(batch: Batch, origin: Origin, rules: Rules, tokenizer: Tokenizer) -> Encoded:
    """Encode a batch."""
    by_split: dict[str, list[str]] = {}
    result = Encoded()
    for number, text in texts(batch, origin, rules.column):
        if text:
            by_split.setdefault(split_of(origin, number, rules), []).append(text)
        else:
            result.empty += 1
    end = np.array([tokenizer.end_id], dtype=tokenizer.dtype)
    for split, documents in by_split.items():
        counts, added = Counts(), 0
        pieces: list[Ids] = []
        for text, ids in zip(documents, tokenizer.encode_documents(documents), strict=True):
            content = text.encode()
            if content[-1:] != b"\n":  # a document ends its last line
                content += b"\n"
                added += 1
            counts.feed(content)
            pieces += [ids, end]
        result.parts[split] = Part(
            np.concatenate(pieces),
            len(documents),
            counts.bytes - added,
            counts.characters - added,
            counts.lines,
            counts.words,
        )
    return result


def encode_all(
    batches: Iterable[tuple[Input, Batch]], rules: Rules, tokenizer: Tokenizer, jobs: int
) -> Generator[tuple[Input, Batch, Encoded], None, None]:
    """Encode batches in their order, with `jobs` processes; 1 encodes in this one.

    Raises:
        UserError: what `texts` raises, in the order of the batches; EXIT_OUT_OF_MEMORY if the
            system killed a process.
    """
    # The library's own threads would use more cores than were asked for.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if jobs == 1:
        for file, batch in batches:
            yield file, batch, encode(batch, file.origin, rules, tokenizer)
        return
    given = (tokenizer.kind, tokenizer.dump(), tokenizer.end_id, rules)
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _begin, given)
    waiting: deque[tuple[Input, Batch, Future[Encoded]]] = deque()
    try:
        for file, batch in batches:
            with held_signals():
                waiting.append((file, batch, pool.submit(_encode, batch, file.origin)))
            if len(waiting) > AHEAD * jobs:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    except BrokenProcessPool:
        raise UserError(
            "a process that encodes was killed, probably because memory ran out",
            hint="Run the same command again with fewer --jobs; it goes on from the last shard.",
            code=EXIT_OUT_OF_MEMORY,
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _next(
    waiting: deque[tuple[Input, Batch, Future[Encoded]]],
) -> tuple[Input, Batch, Encoded]:
    file, batch, future = waiting.popleft()
    return file, batch, future.result()


_own: Callable[[Batch, Origin], Encoded]


def _begin(kind: str, content: bytes, end_id: int | None, rules: Rules) -> None:
    """Prepare a process that encodes: it ends with its parent, which alone handles signals."""
    global _own
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tokenizer = tokenizer_class(kind).load(content)
    tokenizer.end_id = end_id
    _own = lambda batch, origin: encode(batch, origin, rules, tokenizer)  # noqa: E731


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode(batch: Batch, origin: Origin) -> Encoded:
    return _own(batch, origin)


def _decoded(content: bytes, origin: Origin, number: int) -> str:
    try:
        return content.decode("utf-8-sig" if number == 0 else "utf-8")
    except UnicodeDecodeError as error:
        raise fault(
            origin.where,
            origin.kind,
            number,
            f"byte 0x{error.object[error.start]:02x} is not UTF-8",
            "Convert the file to UTF-8, or leave it out with a quoted glob.",
        ) from None


def _json_text(line: str, origin: Origin, column: str, number: int) -> str:
    """The text in a line of JSON; "" for null."""

    def wrong(what: str, hint: str = "") -> UserError:
        return fault(origin.where, origin.kind, number, what, hint)

    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg[:1].lower()}{error.msg[1:]}, column {error.colno:,}"
        raise wrong(f"is not JSON ({reason})", "One object a line; mend or remove it.") from None
    except (RecursionError, ValueError):
        raise wrong("is JSON that is nested too deep, or has too long a number") from None
    if not isinstance(row, dict):
        raise wrong("is not a JSON object", "One object a line.")
    if column not in row:
        raise no_column(column, list(row), origin.where, origin.kind, number)
    text = row[column]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise wrong(f"'{printable(column)}' is not text", "Name another column by --text-column.")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise wrong("has half a character (a lone surrogate)", "Mend or remove it.") from None
    return text
