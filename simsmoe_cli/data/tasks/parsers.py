"""Parses files of labelled texts: CSV, TSV, JSON lines, trees of the Stanford Sentiment Treebank.

* CSV is quoted (RFC 4180): a quoted field may hold commas, line ends and doubled quotes.
* TSV is not: a quotation mark is text, as in GLUE's files, and no field holds a tab or line end.
* JSON lines: one object a line.
* Trees: one a line, `(3 (2 It) (4 ...))`; the label is the root's, the text its leaves with one
  space between them, the treebank's escapes (-LRB-, -RRB-, `\\/`, `\\*`) undone.

All are UTF-8, with or without a byte order mark, with LF or CRLF; blank lines are skipped.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePath
from typing import Any

from simsmoe_cli.data.io.archives import COMPRESSED
from simsmoe_cli.errors import DataError, UserError, counted, nearest, printable
from simsmoe_cli.files.untrusted import Unreadable, parse_json

LONGEST_FIELD = 1 << 30
LONGEST_SHOWN = 60
MOST_NAMES = 200
LINE = re.compile(r"[^\n]+")
TREE = re.compile(r"\(([0-4]) .+\)")
LEAF = re.compile(r"\([0-4] ([^ ()]+)\)")
SPACES = re.compile(r"[ ()]+")
ESCAPES = {"-LRB-": "(", "-RRB-": ")", "\\/": "/", "\\*": "*"}
ESCAPED = re.compile("|".join(re.escape(escape) for escape in ESCAPES))


@dataclass(frozen=True)
class Row:
    """A text with its label as it is written; an unlabelled one has the label ""."""

    text: str
    label: str
    line: int


@dataclass(frozen=True)
class Columns:
    """The names of the columns that hold the text and the label; no label: None."""

    text: str
    label: str | None


def data_error(where: str, line: int, what: str, hint: str = "") -> UserError:
    """The error for something wrong in a file; line 0 if it is not in a single line."""
    location = f"{where}, line {line}" if line else where
    return DataError(what, where=location, hint=hint)


def shown(name: str) -> str:
    """A name from a file, made safe for a message: one line without control characters."""
    return printable(name, LONGEST_SHOWN)


def known_names(names: Iterable[str]) -> list[str]:
    """Names from a file for a hint, each made safe; only the first ones if there are many."""
    return [shown(name) for name in islice(names, MOST_NAMES)]


def table_kind(name: str) -> str:
    """csv, tsv or json by a file's name, compressed or not; "" for any other."""
    path = PurePath(name.lower())
    if path.suffix in COMPRESSED:
        path = path.with_suffix("")
    kinds = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}
    return kinds.get(path.suffix, "json" if path.suffix in (".jsonl", ".ndjson", ".json") else "")


def decoded(content: bytes, where: str) -> str:
    """The text of a file, without a byte order mark; a UserError names the line if not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The offset is that in what was decoded, which begins after the mark.
        start = error.start + len(content) - len(error.object)
        raise data_error(
            where,
            content.count(b"\n", 0, start) + 1,
            f"byte 0x{content[start]:02x} is not UTF-8",
            "Convert the file to UTF-8.",
        ) from None


def parse_table(content: bytes, kind: str, columns: Columns, where: str) -> list[Row]:
    """The rows of a CSV, TSV or JSON-lines file.

    Args:
        content: of the file, decompressed.
        kind: csv, tsv or json.
        columns: the columns of text and label.
        where: the file as a user knows it.

    Returns:
        At least one row; DataError with the line for whatever is wrong.
    """
    text = decoded(content, where)
    if not text.strip():
        raise data_error(where, 0, "the file is empty")
    read: dict[str, Callable[[str, Columns, str], Iterator[Row]]] = {
        "csv": _csv_rows,
        "tsv": _tsv_rows,
        "json": _json_rows,
    }
    return _checked(read[kind](text, columns, where), columns.label is not None, where)


def parse_trees(content: bytes, where: str) -> list[Row]:
    """The rows of a file of trees, labels "0" to "4"."""
    return _checked(_tree_rows(decoded(content, where), where), True, where)


def _checked(rows: Iterable[Row], labelled: bool, where: str) -> list[Row]:
    found = list(rows)
    if not found:
        raise data_error(where, 0, "holds no examples", "It takes one example a row.")
    empty = [row.line for row in found if not row.text.strip()]
    if empty:
        what = f"{len(empty):,} of {len(found):,} texts are empty, the first here"
        raise data_error(where, empty[0], what, "Leave such rows out.")
    bare = [row.line for row in found if labelled and not row.label]
    if bare:
        what = f"{len(bare):,} of {len(found):,} rows have no label, the first here"
        raise data_error(where, bare[0], what, "Leave such rows out.")
    return found


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a text that are not empty, one at a time, with their numbers from 1.

    No list is made of them: among many millions, an error in the first is found at once.
    """
    number, start = 1, 0
    for line in LINE.finditer(text):
        number += text.count("\n", start, line.start())
        start = line.start()
        yield number, line[0]


def _csv_rows(text: str, columns: Columns, where: str) -> Iterator[Row]:
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield from _table_rows(_csv_records(text, where), columns, where, "Quote such a field.")
    finally:
        csv.field_size_limit(before)


def _csv_records(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise data_error(where, line, f"is not CSV: {error}", 'Fields are quoted with ".') from None


def _tsv_rows(text: str, columns: Columns, where: str) -> Iterator[Row]:
    lines = ((number, line.removesuffix("\r")) for number, line in _lines(text))
    records = ((number, line.split("\t")) for number, line in lines if line)
    hint = "TSV is read without quotes; save data with tabs or line ends in a text as CSV."
    return _table_rows(records, columns, where, hint)


def _table_rows(
    records: Iterator[tuple[int, list[str]]], columns: Columns, where: str, hint: str
) -> Iterator[Row]:
    first, header = next(records, (1, []))
    header = [name.strip() for name in header]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise data_error(where, first, f"two columns are called '{shown(twice[0])}'", "Rename one.")
    text_at = _position(columns.text, header, where, first)
    label_at = None if columns.label is None else _position(columns.label, header, where, first)
    for line, fields in records:
        if len(fields) != len(header):
            what = f"{counted(len(fields), 'field')}, but the header has {len(header)}"
            few = "Complete the row, or leave it out."
            raise data_error(where, line, what, hint if len(fields) > len(header) else few)
        label = "" if label_at is None else fields[label_at].strip()
        yield Row(fields[text_at], label, line)


def _position(column: str, header: list[str], where: str, line: int) -> int:
    if column not in header:
        raise missing_column(column, header, where, line)
    return header.index(column)


def missing_column(column: str, known: Iterable[str], where: str, line: int) -> UserError:
    """The error for a missing column, with the nearest existing one."""
    return data_error(
        where,
        line,
        f"no column '{shown(column)}'",
        f"{nearest(shown(column), known_names(known))} See --text-column and --label-column.",
    )


def _json_rows(text: str, columns: Columns, where: str) -> Iterator[Row]:
    for number, line in _lines(text):
        if not line.strip():
            continue
        try:
            item = parse_json(line.encode())
        except Unreadable as error:
            raise data_error(where, number, str(error), "One object a line.") from None
        if not isinstance(item, dict):
            raise data_error(where, number, "is not a JSON object", "One object a line.")
        label = "" if columns.label is None else _label(item, columns.label, where, number)
        content = _field(item, columns.text, where, number)
        if not isinstance(content, str):
            raise data_error(
                where,
                number,
                f"'{shown(columns.text)}' is not text",
                "Put it in quotes, or leave it out.",
            )
        yield Row(content, label, number)


def _field(item: dict[str, Any], column: str, where: str, line: int) -> Any:
    if column not in item:
        raise missing_column(column, item, where, line)
    return item[column]


def _label(item: dict[str, Any], column: str, where: str, line: int) -> str:
    """A label as text; "" for null."""
    value = _field(item, column, where, line)
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | int):
        return json.dumps(value)
    raise data_error(where, line, f"'{shown(column)}' is not text, a whole number, true or false")


def _tree_rows(text: str, where: str) -> Iterator[Row]:
    for number, line in _lines(text):
        tree = line.strip()
        if not tree:
            continue
        match = TREE.fullmatch(tree)
        leaves = LEAF.findall(tree)
        # Each leaf has its own pair of brackets, so that only labels of inner nodes are left over.
        rest = SPACES.sub("", LEAF.sub("", tree))
        if (
            not match
            or not leaves
            or tree.count("(") != tree.count(")")
            or re.sub("[0-4]", "", rest)
        ):
            what = f"is not a tree: '{shown(tree)}'"
            raise data_error(where, number, what, "One tree a line: (3 (2 It) (4 works)).")
        words = (ESCAPED.sub(lambda found: ESCAPES[found[0]], leaf) for leaf in leaves)
        yield Row(" ".join(words), match[1], number)
