"""A preparation of documents while it goes on, and after it was interrupted.

    .NAME.unfinished/
      plan.json                what is prepared: settings, and the files that are read
      notes/shard-00000.json   written last: without it, the files of the shard are not used
      store/                   becomes the folder of the store: tokenizer, shards, manifest

Everything is written whole or not at all. A preparation goes on after the last shard whose files,
and those before them in the source, have not changed since.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from simsmoe_cli.data.documents.inputs import Input
from simsmoe_cli.data.prepared import Count, Facts
from simsmoe_cli.data.store import Settings, Shard
from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import (
    Unreadable,
    parse_json,
    read_bytes,
    read_json,
    sealed,
    unsealed,
    validated,
)

MOST_BYTES = 1 << 28
MOST_STATE = 1 << 16  # characters of the state of a streamed data set


class ShardPart(Shard):
    """A shard's file for one split, and the amount of text in it."""

    documents: Count
    bytes: Count
    characters: Count
    lines: Count
    words: Count


class ShardNote(Facts):
    """A finished shard: its files by split, and where reading goes on after it."""

    number: Count
    file: Count
    record: Count
    empty: Count
    state: str
    parts: dict[str, ShardPart]


class Plan(Facts):
    """What is prepared."""

    settings: Settings
    tokenizer: str
    drawn: list[str]
    files: list[list[str | int]]


class Unfinished:
    """The folder of an unfinished preparation; the caller holds the lock of its store.

    Attributes:
        store: the folder that becomes the store.
        other_files: whether the interrupted preparation read other files.
    """

    def __init__(self, out: Path):
        # Of a link beside what it leads to, which may be in another file system.
        self._out = Path(os.path.realpath(out))
        self.other_files = False
        self._folder = self._out.parent / f".{self._out.name}.unfinished"
        self._notes = self._folder / "notes"
        self.store = self._folder / "store"

    def begin(self, plan: Plan, *, force: bool) -> list[ShardNote]:
        """Go on where an earlier preparation was interrupted, or begin.

        Args:
            plan: what is to be prepared.
            force: drop an earlier one that prepared something else.

        Returns:
            The finished shards that are used again; UserError (EXIT_DATA) for an unfinished
            preparation with other settings.
        """
        before = self._read_plan()
        notes = self._usable(before, plan) if before is not None else []
        self.other_files = before is not None and before.files != plan.files
        if before is not None and _about(before) != _about(plan):
            if notes and not force:
                raise self._other(before, plan)
            notes = []
        if not notes:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._notes.mkdir(parents=True, exist_ok=True)
        self.store.mkdir(exist_ok=True)
        for note in self._notes.iterdir():
            if note.name not in {self._note(kept.number).name for kept in notes}:
                note.unlink()
        self._write(self._folder / "plan.json", plan)
        return notes

    def begin_anew(self, plan: Plan) -> list[ShardNote]:
        """Begin without the finished shards; returns none."""
        self.drop()
        return self.begin(plan, force=True)

    def tokenizer(self, file: str) -> bytes | None:
        """The content of the tokenizer's file of an interrupted preparation; None: none yet."""
        try:
            return read_bytes(self.store / file, 1 << 30)
        except (FileNotFoundError, Unreadable):
            return None

    def add(self, note: ShardNote) -> None:
        """Note a shard whose files are on the disk."""
        atomic.sync(self.store)
        self._write(self._note(note.number), note)

    def finish(self, names: Sequence[str]) -> None:
        """Put the store in place; only these files of it are kept."""
        for path in self.store.iterdir():
            if path.name in names:
                atomic.share(path)
            else:
                path.unlink()
        atomic.place_folder(self.store, self._out)
        self.drop()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """If the block raises, what it finished stays, and nothing if it finished no shard."""
        try:
            yield
        except BaseException:
            if not any(self._notes.iterdir()):
                self.drop()
            raise

    def drop(self) -> None:
        """Delete what is left of an unfinished preparation."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _note(self, number: int) -> Path:
        return self._notes / f"shard-{number:05}.json"

    def _write(self, path: Path, facts: Facts) -> None:
        atomic.write(path, json.dumps(sealed(facts.model_dump(mode="json"))))

    def _read(self, path: Path) -> Any:
        return unsealed(read_json(path, MOST_BYTES))

    def _read_plan(self) -> Plan | None:
        try:
            return validated(Plan, self._read(self._folder / "plan.json"))
        except (FileNotFoundError, Unreadable):
            return None

    def _usable(self, before: Plan, plan: Plan) -> list[ShardNote]:
        """The finished shards, as far as the files they were made of are still the same."""
        same = sum(
            1
            for _ in takewhile(
                lambda pair: pair[0] == pair[1], zip(before.files, plan.files, strict=False)
            )
        )
        notes: list[ShardNote] = []
        while True:
            try:
                note = validated(ShardNote, self._read(self._note(len(notes))))
            except (FileNotFoundError, Unreadable):
                return notes
            sizes = [(self.store / part.file, part.size) for part in note.parts.values()]
            whole = all(path.is_file() and path.stat().st_size == size for path, size in sizes)
            if note.file >= same or not whole:
                return notes
            notes.append(note)

    def _other(self, before: Plan, plan: Plan) -> UserError:
        there, wanted = before.settings.model_dump(), plan.settings.model_dump()
        differing = [
            f"{name.replace('_', '-')} was {there[name] or 'none'}, now {wanted[name] or 'none'}"
            for name in wanted
            if there[name] != wanted[name]
        ]
        return DataError(
            "an interrupted preparation with other settings is there: "
            + ("; ".join(differing) or _otherwise(before, plan)),
            where=str(self._folder),
            hint="Run it with those settings to go on, or add --force to drop it.",
        )


def _about(plan: Plan) -> tuple[Any, ...]:
    """What a preparation must have in common with the one that goes on with it."""
    return plan.settings, plan.tokenizer, plan.drawn


def _otherwise(before: Plan, plan: Plan) -> str:
    """What differs where the settings do not."""
    if before.tokenizer != plan.tokenizer:
        return "the tokenizer was another"
    drawn = " and ".join(before.drawn) or "no split"
    return f"{drawn} was drawn from the documents, now {' and '.join(plan.drawn) or 'none'}"


def packed(state: Any) -> str:
    """The state of a streamed data set as a text; empty where there is none."""
    return "" if state is None else json.dumps(state)


def unpacked(state: str) -> Any:
    """What `packed` packed."""
    return parse_json(state.encode()) if state else None


def identities(files: Sequence[Input]) -> list[list[str | int]]:
    """What a plan keeps of its files."""
    return [file.identity for file in files]
