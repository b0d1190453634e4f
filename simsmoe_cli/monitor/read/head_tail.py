"""Reads the head and the tail of an events file, and optionally a few positions in between."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from simsmoe_cli.run.event_log import NotAnEvent, parse_event
from simsmoe_cli.run.events import Event

HEAD_BYTES = 64 << 10
TAIL_BYTES = 64 << 10
LARGEST_TAIL = 8 << 20
RECENT = 24
MOST_SEARCHED = 4 << 20
WINDOW_BYTES = 2 << 10  # of a sample in between: some train events


def head_and_tail(
    path: Path, kinds: tuple[str, ...] = ("train",), samples: int = 0
) -> Iterator[Event]:
    """The first event of a file and its last ones; and the start of the last resumption.

    All of the newest few are given, because the pace is computed from them. Of those before, train
    events are left out.

    Args:
        path: the events.jsonl.
        kinds: goes back, as far as 8 MiB, until there is an event of each.
        samples: the most positions, evenly between head and tail, from which train events are read.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.readline(HEAD_BYTES)
        yield from _events([head])
        room = TAIL_BYTES
        while size > len(head):
            begin = max(len(head), size - room)
            file.seek(begin)
            lines = file.read(size - begin).splitlines(keepends=True)
            if begin > len(head):
                lines = lines[1:]
            found = all(any(_is(kind, line) for line in lines) for kind in kinds)
            if begin == len(head) or room >= LARGEST_TAIL or found:
                yield from _events(_last_start(file, len(head), begin))
                yield from _events(_between(file, len(head), begin, samples))
                yield from _events(line for line in lines[:-RECENT] if not _is("train", line))
                yield from _events(lines[-RECENT:])
                return
            room *= 8


def _last_start(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    """The line of the last run_started event of a part of the file, if there is one: a resumed run
    may have other settings. At most the last MOST_SEARCHED bytes are searched."""
    begin = max(begin, end - MOST_SEARCHED)
    file.seek(begin)
    part = file.read(end - begin)
    if (at := part.rfind(b'"run_started"')) >= 0:
        yield part[part.rfind(b"\n", 0, at) + 1 : part.find(b"\n", at) + 1]


def _between(file: BinaryIO, begin: int, end: int, samples: int) -> Iterator[bytes]:
    """Whole lines of train events at a few positions of a part of the file."""
    samples = min(samples, max(0, end - begin) // (2 * WINDOW_BYTES))
    for number in range(samples):
        file.seek(begin + (end - begin) * number // samples)
        for line in file.read(WINDOW_BYTES).splitlines(keepends=True)[1:]:
            if _is("train", line):
                yield line


def _is(kind: str, line: bytes) -> bool:
    return f'"{kind}"'.encode() in line[:64]


def _events(lines: Iterable[bytes]) -> Iterator[Event]:
    """Events of the whole lines; others are left out."""
    for line in lines:
        if line.endswith(b"\n"):
            with contextlib.suppress(NotAnEvent):
                yield parse_event(line, matrices=True)
