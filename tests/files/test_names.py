"""Names of runs, corpora and tasks: plain, short, and harmless wherever they are printed."""

from __future__ import annotations

import pytest

from simsmoe_cli.errors import EXIT_USAGE, UserError
from simsmoe_cli.files.names import check_name, safe_name


@pytest.mark.parametrize(
    "name", ["a", "brainformer-tiny-2", "v1.0_final", "漢字", "[red]", "a b", "é"]
)
def test_a_plain_name_is_taken(name: str) -> None:
    check_name(name)
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "it is empty"),
        ("\x1b[31mx", "control characters"),
        ("two\nlines", "control characters"),
        ("\u202eright to left", "control characters"),
        ("\udcff", "bytes that are not text"),
        ("nul\x00", "control characters"),
        ("a/b", "a path separator"),
        ("a\\b", "a path separator"),
        ("..", "starts with '.'"),
        (".hidden", "starts with '.'"),
        ("-rf", "starts with '-'"),
        (" a", "starts or ends with a space"),
        ("a ", "starts or ends with a space"),
        ("x" * 151, "longer than 150 bytes"),
        ("漢" * 51, "longer than 150 bytes"),
        ("x" * 100_000, "longer than 150 bytes"),
        ("auto", "is a reserved word"),
        ("events.jsonl", "is a reserved word"),
    ],
)
def test_any_other_is_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(UserError, match=r"^--name: ") as caught:
        check_name(name)
    assert why in str(caught.value)
    assert caught.value.code == EXIT_USAGE
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    if made := safe_name(name):
        check_name(made)
