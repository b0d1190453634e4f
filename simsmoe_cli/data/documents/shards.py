"""Writes the shards of a store of documents, from where an earlier preparation ended."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from simsmoe_cli.data.documents.encode import Encoded, Part, Rules, encode_all
from simsmoe_cli.data.documents.inputs import Input
from simsmoe_cli.data.documents.read import Batch
from simsmoe_cli.data.documents.unfinished import (
    ShardNote,
    ShardPart,
    Unfinished,
    packed,
    unpacked,
)
from simsmoe_cli.data.ids_file import IdsFile
from simsmoe_cli.data.io.download import Progress
from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.errors import DataError

SHARD_BYTES = 1 << 28  # of text
DOUBLED_AFTER = 64


def shard_bytes(number: int) -> int:
    """How much text a shard gets before the next one begins."""
    return SHARD_BYTES << number // DOUBLED_AFTER


class _ShardWriter:
    """The files of one shard, by split; a file is made when there is something to write."""

    def __init__(self, folder: Path, number: int):
        self.number = number
        self.bytes = self.empty = 0
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._files: dict[str, IdsFile] = {}
        self._sums: dict[str, Part] = {}

    def add(self, encoded: Encoded) -> None:
        self.bytes += encoded.bytes
        self.empty += encoded.empty
        for split, part in encoded.parts.items():
            if split not in self._files:
                path = self._folder / f"{split}-{self.number:05}.bin"
                self._files[split] = self._stack.enter_context(IdsFile(path))
                self._sums[split] = Part(part.ids[:0], 0, 0, 0, 0, 0)
            self._files[split].add(part.ids)
            sums = self._sums[split]
            sums.documents += part.documents
            sums.bytes += part.bytes
            sums.characters += part.characters
            sums.lines += part.lines
            sums.words += part.words

    def finish(self) -> dict[str, ShardPart]:
        """The files, which are on the disk now."""
        parts = {}
        for split, file in self._files.items():
            sha256, chunks = file.finish()
            sums = self._sums[split]
            parts[split] = ShardPart(
                file=f"{split}-{self.number:05}.bin",
                size=file.size,
                sha256=sha256,
                tokens=file.tokens,
                chunks=chunks,
                documents=sums.documents,
                bytes=sums.bytes,
                characters=sums.characters,
                lines=sums.lines,
                words=sums.words,
            )
        self.close()
        return parts

    def close(self) -> None:
        """Close the files."""
        self._stack.close()


def write_shards(
    unfinished: Unfinished,
    finished: Sequence[ShardNote],
    files: Sequence[Input],
    rules: Rules,
    tokenizer: Tokenizer,
    jobs: int,
    report: Progress,
) -> list[ShardNote]:
    """Encode all documents after the finished shards.

    Returns:
        The shards written; each is noted as soon as it is whole.
    """
    places = {id(file): place for place, file in enumerate(files)}
    *before, size = itertools.accumulate((file.size for file in files), initial=0)
    total = size or None
    made: list[ShardNote] = []

    def note(shard: _ShardWriter, file: Input, batch: Batch) -> None:
        finished_one = ShardNote(
            number=shard.number,
            file=places[id(file)],
            record=batch.after,
            empty=shard.empty,
            state=packed(batch.state),
            parts=shard.finish(),
        )
        unfinished.add(finished_one)
        made.append(finished_one)

    batches = _batches(files, rules.column, finished[-1] if finished else None)
    shard = None
    with contextlib.closing(encode_all(batches, rules, tokenizer, jobs)) as encoded:
        try:
            for file, batch, result in encoded:
                if shard is None:
                    shard = _ShardWriter(unfinished.store, len(finished) + len(made))
                shard.add(result)
                report("encode", before[places[id(file)]] + batch.read, total)
                if shard.bytes >= shard_bytes(shard.number):
                    note(shard, file, batch)
                    shard = None
            if shard is not None:
                note(shard, file, batch)
        finally:
            if shard is not None:
                shard.close()
    return made


def _batches(
    files: Sequence[Input], column: str, last: ShardNote | None
) -> Iterator[tuple[Input, Batch]]:
    """The batches of all files after a shard; a UserError for a file without any document."""
    begin = 0 if last is None else last.file
    for file in files[begin:]:
        start, state = (last.record, unpacked(last.state)) if last else (0, None)
        last = None
        read = start > 0
        for batch in file.read(start, column, state):
            read = True
            yield file, batch
        if not read:
            raise DataError("holds no documents", where=file.where)
