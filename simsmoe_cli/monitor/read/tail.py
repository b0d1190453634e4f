"""Follows an events.jsonl, also if it is cut back, replaced or deleted.

The file grows by whole lines, but a reader may see a line half written; a resumed run cuts the
file back and goes on; copies of a run folder are replaced as a whole; folders are
deleted and made again. `Tail.poll` reads new events, and says when all earlier events are no longer
valid.

The file is recognised by its bytes, not by its inode, so that a copy synchronised from another
machine can be followed. Three parts must be unchanged: the beginning of the first line, the
beginning of the last line that was read (which holds the time of that event), and the bytes before
the position up to which it was read.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from simsmoe_cli.run.event_log import BROKEN, KIND, LONG_LINE, NotAnEvent, longest, parse_event
from simsmoe_cli.run.events import Event

CHUNK_BYTES = 4 << 20
MARK_BYTES = 256


@dataclass
class Batch:
    """The result of one poll.

    Attributes:
        events: new events, oldest first; those of schema 1 hold their matrices.
        restarted: the file is another, or was cut back: forget all earlier events; those given
            here are from its beginning.
        missing: there is no file to read now.
        more: there is more to read at once.
        notices: problems of the file, in words; each is reported once.
    """

    events: list[Event] = field(default_factory=list)
    restarted: bool = False
    missing: bool = False
    more: bool = False
    notices: list[str] = field(default_factory=list)


class Tail:
    """Reads the events of one file as they come; use from one thread at a time.

    Args:
        path: the events.jsonl; it need not exist yet.

    Attributes:
        path: as given.
        skipped: lines that were skipped, by why: see `NotAnEvent`.
    """

    def __init__(self, path: Path):
        self.path = path
        self.skipped: Counter[str] = Counter()
        self._told: set[str] = set()
        self._gone = False
        # Reused while there is much to read: clearing new memory for every piece of the file would
        # take longer than reading into it.
        self._buffer = bytearray()
        self._forget()

    def _forget(self) -> None:
        self._offset = 0
        self._in_long_line = False
        self._marks: list[tuple[int, bytes]] = []
        self.skipped.clear()

    def poll(self, limit_bytes: int = 8 << 20) -> Batch:
        """Read about `limit_bytes` of new data, at least one whole line if there is one."""
        batch = Batch()
        try:
            with self._open() as file:
                self._read(file, limit_bytes, batch)
            self._told.discard("unreadable")
        except FileNotFoundError:
            batch.missing = True
        except OSError as error:
            batch.missing = True
            reason = error.strerror or str(error)
            self._tell(batch, "unreadable", f"{self.path.name} cannot be read: {reason}")
        if batch.missing and self._offset:
            self._gone = True
        return batch

    def _open(self) -> FileIO:
        """The file, unbuffered; never waits, as opening a pipe would."""
        handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(0, "it is not a regular file")
        return FileIO(handle)

    def _tell(self, batch: Batch, kind: str, message: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            batch.notices.append(message)

    def _read(self, file: FileIO, limit_bytes: int, batch: Batch) -> None:
        size = os.fstat(file.fileno()).st_size
        if self._offset and (self._gone or size < self._offset or not self._as_before(file)):
            batch.restarted = True
            self._forget()
        self._gone = False
        if size == self._offset:
            return
        begin = self._offset
        file.seek(begin)
        buffer = self._buffer
        held = 0  # bytes in the buffer that are not a whole line yet
        while (there := size - self._offset - held) > 0:
            wanted = min(CHUNK_BYTES, max(1, limit_bytes), there)
            if len(buffer) < held + wanted:
                buffer.extend(bytes(held + wanted - len(buffer)))
            with memoryview(buffer) as view:
                count = file.readinto(view[held : held + wanted])
                if not count:
                    break
                end = held + count
                cut = buffer.rfind(b"\n", held, end) + 1
                if cut:
                    batch.events += self._events(buffer, cut, batch)
                    view[: end - cut] = view[cut:end]
            held = end - cut
            if held > longest(buffer):
                self._skip_into_long_line(held, batch)
                held = 0
            if cut and self._offset - begin >= limit_bytes:
                break
        batch.more = self._offset + held < size
        if not batch.more:
            buffer.clear()

    def _skip_into_long_line(self, held: int, batch: Batch) -> None:
        if not self._in_long_line:
            self._skip(batch, "long", f"lines of over {LONG_LINE >> 20} MiB are skipped")
        self._in_long_line = True
        self._offset += held

    def _events(self, block: bytearray, size: int, batch: Batch) -> Iterator[Event]:
        """Events of the whole lines in the first `size` bytes of a block that begins at the offset,
        which moves behind them."""
        begin = self._offset
        self._offset += size
        last = block.rfind(b"\n", 0, size - 1) + 1
        tail = max(last, size - MARK_BYTES)
        self._marks = [
            self._marks[0]
            if self._marks
            else (begin, bytes(block[: min(MARK_BYTES, block.find(b"\n"))])),
            (begin + last, bytes(block[last : min(size, last + MARK_BYTES)])),
            (begin + tail, bytes(block[tail:size])),
        ]
        lines = block[:size].split(b"\n")[:-1]
        if self._in_long_line:
            self._in_long_line = False
            lines.pop(0)
        # There may be millions of lines that are not events: those are told apart quickly.
        if others := len([line for line in lines if KIND not in line and line.strip()]):
            self._skip(batch, "broken", BROKEN, others)
        for line in lines:
            if KIND in line:
                try:
                    yield parse_event(line, matrices=True)
                except NotAnEvent as error:
                    self._skip(batch, error.why, str(error))

    def _skip(self, batch: Batch, why: str, message: str, lines: int = 1) -> None:
        self.skipped[why] += lines
        self._tell(batch, why, message)

    def _as_before(self, file: FileIO) -> bool:
        """Whether the file still holds what was read."""
        return all(_at(file, begin, len(seen)) == seen for begin, seen in self._marks)


def _at(file: FileIO, begin: int, count: int) -> bytes:
    file.seek(begin)
    return file.read(count)
