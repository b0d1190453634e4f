"""The head and the tail of an events file: what a run is and where it stands, without the rest; of
the rest, if asked for, a few places, so that the course of the run is seen."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from simsmoe_cli.monitor.state.stored import stored_event
from simsmoe_cli.run.events import Event, NotAnEvent, parse_event

HEAD_BYTES = 64 << 10
TAIL_BYTES = 64 << 10
LARGEST_TAIL = 8 << 20
RECENT = 24
WINDOW_BYTES = 2 << 10  # of a place in between: some train events


def head_and_tail(
    path: Path, kinds: tuple[str, ...] = ("train",), places: int = 0
) -> Iterator[Event]:
    """What a file's events begin with, and the last of them: a few by which the pace is judged, and
    of the others those that are not train events.

    Args:
        path: the events.jsonl.
        kinds: goes back, as far as 8 MiB, until there is an event of each.
        places: evenly between head and tail, at most so many, where train events are taken from.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.readline(HEAD_BYTES)
        yield from _events(path, [(0, head)])
        room = TAIL_BYTES
        while size > len(head):
            begin = max(len(head), size - room)
            file.seek(begin)
            lines = []
            for line in file.read(size - begin).splitlines(keepends=True):
                lines.append((begin, line))
                begin += len(line)
            if size - room > len(head):
                lines = lines[1:]
            found = all(any(_is(kind, line) for _, line in lines) for kind in kinds)
            if size - room <= len(head) or room >= LARGEST_TAIL or found:
                yield from _events(path, _between(file, len(head), size - room, places))
                others = [part for part in lines[:-RECENT] if not _is("train", part[1])]
                yield from _events(path, [*others, *lines[-RECENT:]])
                return
            room *= 8


def _between(file: BinaryIO, begin: int, end: int, places: int) -> list[tuple[int, bytes]]:
    """Whole lines of train events at places of a part of the file, and where they begin."""
    found = []
    places = min(places, max(0, end - begin) // (2 * WINDOW_BYTES))
    for number in range(places):
        at = begin + (end - begin) * number // places
        file.seek(at)
        for line in file.read(WINDOW_BYTES).splitlines(keepends=True)[1:]:
            if _is("train", line):
                found.append((at, line))  # where does not matter: such lines are parsed
    return found


def _is(kind: str, line: bytes) -> bool:
    return f'"{kind}"'.encode() in line[:64]


def _events(path: Path, lines: list[tuple[int, bytes]]) -> Iterator[Event]:
    """Events of the whole lines, which begin at these places of the file; others are left out."""
    for begin, line in lines:
        if not line.endswith(b"\n"):
            continue
        event = stored_event(path, line, 0, len(line) - 1, begin)
        with contextlib.suppress(NotAnEvent):
            yield event or parse_event(line)
