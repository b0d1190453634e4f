"""Tables and trees: what is data, and what is an error in which line."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simsmoe_cli.data.tasks.parsers import Columns, parse_table, parse_trees, table_kind
from simsmoe_cli.errors import EXIT_DATA, UserError

COLUMNS = Columns("text", "label")


def rows(content: str | bytes, kind: str, columns: Columns = COLUMNS) -> list[tuple[str, str]]:
    raw = content.encode() if isinstance(content, str) else content
    return [(row.text, row.label) for row in parse_table(raw, kind, columns, "data")]


def failure(content: str | bytes, kind: str, columns: Columns = COLUMNS) -> UserError:
    with pytest.raises(UserError) as caught:
        rows(content, kind, columns)
    assert caught.value.code == EXIT_DATA
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_quoted_csv_field_may_hold_commas_line_ends_and_quotes() -> None:
    content = 'text,label\n"one,\ntwo\r\n""three""",a\nfour,b\n'
    assert rows(content, "csv") == [('one,\ntwo\r\n"three"', "a"), ("four", "b")]
    lines = [row.line for row in parse_table(content.encode(), "csv", COLUMNS, "data")]
    assert lines == [2, 5]


def test_a_quotation_mark_in_tsv_is_text() -> None:
    content = 'text\tlabel\n"Good" it is\ta\n"\tb\n'
    assert rows(content, "tsv") == [('"Good" it is', "a"), ('"', "b")]


def test_separators_of_unicode_end_no_line() -> None:
    text = "one\x85two\u2028three\x0bfour\x1cfive"
    assert rows(f"text\tlabel\n{text}\ta\n", "tsv") == [(text, "a")]
    assert rows(f"text,label\n{text},a\n", "csv") == [(text, "a")]
    assert rows('{"text": "one\u2028two", "label": "a"}\n', "json") == [("one\u2028two", "a")]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("csv", "id,label,text\n7,a,x\n8,b,y\n"),
        ("tsv", "id\tlabel\ttext\n7\ta\tx\n8\tb\ty\n"),
        ("json", '{"text": "x", "label": "a", "id": 7}\n{"label": "b", "text": "y"}\n'),
    ],
)
def test_byte_order_mark_line_ends_and_blank_lines_do_not_matter(kind: str, content: str) -> None:
    expected = [("x", "a"), ("y", "b")]
    unfinished = content.removesuffix("\n")
    gappy = content.replace("\n", "\n\n")
    for variant in (content, "\ufeff" + content, unfinished, gappy):
        assert rows(variant, kind) == expected
        assert rows(variant.replace("\n", "\r\n"), kind) == expected


def test_labels_of_json_may_be_text_numbers_or_booleans() -> None:
    content = (
        '{"text": "x", "label": 3}\n{"text": "y", "label": true}\n{"text": "z", "label": " c "}'
    )
    assert [label for _, label in rows(content, "json")] == ["3", "true", "c"]


def test_a_text_may_be_longer_than_the_csv_module_likes() -> None:
    before = csv.field_size_limit()
    long = "x" * 200_000
    assert rows(f"text,label\n{long},a\n", "csv") == [(long, "a")]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_missing_column_names_the_nearest(kind: str) -> None:
    separator = "," if kind == "csv" else "\t"
    error = failure(
        separator.join(("sentence", "labels")) + "\n", kind, Columns("sentence", "label")
    )
    assert (error.where, error.what) == ("data, line 1", "no column 'label'")
    assert error.hint.startswith("Did you mean 'labels'? Available: labels, sentence.")


def test_a_missing_key_of_json_names_the_line_and_the_nearest() -> None:
    error = failure('{"text": "x", "label": 1}\n{"txt": "y", "label": 1}', "json")
    assert (error.where, error.what) == ("data, line 2", "no column 'text'")
    assert "Did you mean 'txt'?" in error.hint


def test_two_columns_of_one_name_are_an_error() -> None:
    error = failure("text,label,text\nx,a,y\n", "csv")
    assert (error.where, error.what) == ("data, line 1", "two columns are called 'text'")


def test_what_a_file_says_cannot_break_a_message() -> None:
    error = failure('"te\nxt\x1b[2J","label"\nx,a\n', "csv")
    assert r"Available: label, te\nxt\x1b[2J." in error.hint
    error = failure("x" * 5000 + "\n", "tsv")
    assert len(str(error)) < 250


FIELD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1))
def test_what_the_csv_module_writes_is_read_back(written: list[tuple[str, str]]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("text", "label"), *written])
    assert rows(out.getvalue(), "csv") == [(text, label.strip()) for text, label in written]


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1))
def test_json_lines_are_read_back(written: list[tuple[str, str]]) -> None:
    lines = [json.dumps({"text": text, "label": label}) for text, label in written]
    assert rows("\n".join(lines), "json") == [(text, label.strip()) for text, label in written]


def test_empty_texts_are_counted_and_the_first_is_named() -> None:
    error = failure("text\tlabel\nx\ta\n \tb\ny\ta\n\tb\n", "tsv")
    assert (error.where, error.what) == (
        "data, line 3",
        "2 of 4 texts are empty, the first here",
    )


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("csv", 'text,label\nx,a\ny,\nz," "\n'),
        ("json", '{"text":"x","label":1}\n\n{"text":"y","label":null}\n{"text":"z","label":""}'),
    ],
)
def test_missing_labels_are_counted_and_the_first_is_named(kind: str, content: str) -> None:
    error = failure(content, kind)
    assert (error.where, error.what) == (
        "data, line 3",
        "2 of 3 rows have no label, the first here",
    )


def test_without_a_label_column_no_label_is_missed() -> None:
    assert rows("index\ttext\n0\tx\n", "tsv", Columns("text", None)) == [("x", "")]


@pytest.mark.parametrize(
    ("kind", "content", "line", "what"),
    [
        ("tsv", "text\tlabel\nx\ta\nx\ty\ta\n", 3, "3 fields, but the header has 2"),
        ("csv", "text,label\nx,y,a\n", 2, "3 fields, but the header has 2"),
        ("csv", 'text,label\nx,a\n"y,b\nz,c\n', 3, "is not CSV: unexpected end of data"),
        ("json", '{"text": "x", "label": 1}\n{"text": \n', 2, "is not JSON (expecting value)"),
        ("json", '["x", 1]\n', 1, "is not a JSON object"),
        ("json", "[" * 100_000, 1, "is nested too deep"),
        ("json", '{"text": 5, "label": 1}', 1, "'text' is not text"),
        ("json", '{"text": "x", "label": [1]}', 1, "'label' is not text, a whole number"),
        ("json", '{"text": "\\ud800", "label": 1}', 1, "has half a character"),
        ("csv", b"text,label\nx,a\ncaf\xe9,b\n", 3, "byte 0xe9 is not UTF-8"),
        ("tsv", b"\xef\xbb\xbftext\tlabel\nx\ta\ny\xff\tb\n", 3, "byte 0xff is not UTF-8"),
        ("json", b'{"text": "\xc3', 1, "byte 0xc3 is not UTF-8"),
    ],
)
def test_what_is_no_table_is_an_error_in_its_line(
    kind: str, content: str | bytes, line: int, what: str
) -> None:
    error = failure(content, kind)
    assert error.where == f"data, line {line}"
    assert error.what.startswith(what)


def test_a_row_with_too_few_fields_is_not_told_to_quote() -> None:
    error = failure("text,label\nx,a\nx\n", "csv")
    assert error.what == "1 field, but the header has 2"
    assert error.hint == "Complete the row, or leave it out."


@pytest.mark.parametrize(("kind", "content"), [("csv", "text,label\n"), ("tsv", "text\tlabel")])
def test_a_table_without_rows_is_an_error(kind: str, content: str) -> None:
    assert failure(content, kind).what == "holds no examples"


@pytest.mark.parametrize("kind", ["csv", "tsv", "json"])
@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_said_to_be_empty(kind: str, content: str) -> None:
    assert failure(content, kind).what == "the file is empty"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", "csv"),
        ("A.CSV.gz", "csv"),
        ("b.tsv.xz", "tsv"),
        ("c.jsonl", "json"),
        ("c.ndjson.bz2", "json"),
        ("d.txt", ""),
        ("csv", ""),
        ("e.gz", ""),
    ],
)
def test_a_name_says_what_table_it_is(name: str, kind: str) -> None:
    assert table_kind(name) == kind


def test_a_tree_gives_the_label_of_its_root_and_its_leaves() -> None:
    content = (
        b"(3 (2 It) (4 (2 's) (4 (3 good) (2 .))))\r\n\n(0 (2 -LRB-) (2 (1 1\\/2) (2 -RRB-)))\n"
    )
    assert [(row.text, row.label, row.line) for row in parse_trees(content, "trees")] == [
        ("It 's good .", "3", 1),
        ("( 1/2 )", "0", 3),
    ]


@pytest.mark.parametrize(
    "tree", ["(3 (2 It) (2 works)", "(5 (2 It) (2 works))", "It works", "(3 )", "(3 (2 It) works)"]
)
def test_what_is_no_tree_is_an_error_in_its_line(tree: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_trees(f"(2 (2 a) (2 b))\n{tree}\n".encode(), "trees")
    assert caught.value.where == "trees, line 2"
    assert caught.value.what == f"is not a tree: '{tree}'"


def test_a_wrong_first_row_of_millions_is_named_without_a_list_of_them() -> None:
    content = b"{}\n" * 1_000_000
    tracemalloc.start()
    try:
        error = failure(content, "json")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error.where == "data, line 1"
    assert peak < 3 * len(content)


@pytest.mark.parametrize("kind", ["json", "tsv"])
def test_empty_lines_are_counted_and_passed_over(kind: str) -> None:
    head, bad = {"json": ("", '{"text": 1, "label": "a"}'), "tsv": ("text\tlabel", "one")}[kind]
    good = {"json": '{"text": "one", "label": "a"}', "tsv": "one\ta"}[kind]
    lines = [head, "", "", good, "", bad]
    assert failure("\n".join(lines), kind).where == "data, line 6"
