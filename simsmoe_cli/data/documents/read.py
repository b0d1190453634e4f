"""Reads files of documents in batches of about a megabyte, without parsing them.

A batch holds consecutive records of one file: lines of JSON, rows of parquet, or the one document
of a plain text. Where batches begin depends on the file alone, so reading can go on at the
beginning of any batch. Memory is bounded by a batch, by the longest record, and for parquet by the
column's part of a row group.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from simsmoe_cli.data.io.archives import clear_damage, read_at
from simsmoe_cli.errors import DataError, UserError, nearest, printable

Kind = Literal["JSON lines", "parquet", "plain text", "data set"]
LONGEST = 1 << 26  # bytes of a record
BATCH_BYTES = 1 << 20
MOST_ROWS = 4096


@dataclass(frozen=True)
class Batch:
    """Consecutive records of a file.

    Attributes:
        first: the number of the first record, from 0.
        after: the number of the record after the last one.
        records: lines of JSON, joined; or a UTF-8 text (None: null) per record.
        read: bytes of the file that were read so far.
        state: of a data set that is streamed, from which reading goes on after this batch.
    """

    first: int
    after: int
    records: bytes | list[bytes | None]
    read: int
    state: Any = None


def fault(where: str, kind: Kind, record: int, what: str, hint: str = "") -> UserError:
    """The error for something wrong in a record, numbered from 0."""
    unit = "line" if kind == "JSON lines" else "row"
    location = where if kind == "plain text" else f"{where}, {unit} {record + 1:,}"
    return DataError(what, where=location, hint=hint)


def no_column(column: str, known: list[str], where: str, kind: Kind, record: int) -> UserError:
    """The error for a column that is not there, with the nearest names."""
    hint = f"{nearest(printable(column), map(printable, known))} Choose one by --text-column."
    return fault(where, kind, record, f"no column '{printable(column)}'", hint)


def read_lines(path: Path, where: str, start: int) -> Iterator[Batch]:
    """The lines of a file, compressed or not."""
    number, rest, read = 0, b"", 0
    for chunk, read in read_at(path):
        block = rest + chunk
        end = block.rfind(b"\n") + 1
        rest = block[end:]
        if len(rest) > LONGEST:
            after = number + block.count(b"\n")
            raise fault(where, "JSON lines", after, _too_long("line"), "Is it JSON lines?")
        lines = block.count(b"\n", 0, end)
        if lines and number >= start:
            yield Batch(number, number + lines, block[:end], read)
        number += lines
    if rest and number >= start:
        yield Batch(number, number + 1, rest, read)


def read_parquet(path: Path, where: str, column: str, start: int) -> Iterator[Batch]:
    """The texts of one column."""
    parquet, arrow = _libraries()
    number = 0
    with clear_damage(path), parquet.ParquetFile(path, pre_buffer=False) as file:
        schema = file.schema_arrow
        if column not in schema.names:
            raise no_column(column, schema.names, where, "plain text", 0)
        kind = schema.field(column).type
        if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
            what = f"column '{printable(column)}' holds {printable(kind)}, not text"
            raise DataError(what, where=where)
        for group in range(file.num_row_groups):
            facts = file.metadata.row_group(group)
            if number + facts.num_rows <= start:
                number += facts.num_rows
                continue
            each = max(1, facts.total_byte_size // max(1, facts.num_rows))
            rows = max(1, min(MOST_ROWS, BATCH_BYTES // each))
            for table in file.iter_batches(rows, row_groups=[group], columns=[column]):
                after = number + table.num_rows
                if number >= start:
                    texts = table.column(0).cast(arrow.large_binary()).to_pylist()
                    read = path.stat().st_size * after // max(1, file.metadata.num_rows)
                    yield Batch(number, after, texts, read)
                number = after


def read_text(path: Path, where: str, start: int) -> Iterator[Batch]:
    """The whole file as one document."""
    if start:
        return
    content = bytearray()
    for chunk, _ in read_at(path):
        content += chunk
        if len(content) > LONGEST:
            hint = "Prepare it without --documents, as one running text."
            raise fault(where, "plain text", 0, _too_long("document"), hint)
    yield Batch(0, 1, [bytes(content)], path.stat().st_size)


def _too_long(what: str) -> str:
    return f"a {what} of more than {LONGEST >> 20} MiB"


def _libraries() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow.parquet"), importlib.import_module("pyarrow")
    except ImportError:
        raise UserError(
            "reading parquet needs the package pyarrow",
            hint="Install it: pip install 'simsmoe[hf]' or pip install pyarrow.",
        ) from None
