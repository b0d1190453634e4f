"""Errors are one short line of printable text, whatever they speak of."""

from __future__ import annotations

import pytest

from simsmoe_cli.errors import UserError, nearest, printable, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, with ü and 漢", "plain, with ü and 漢"),
        ("two\nlines", "two\\nlines"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202eright to left", "\\u202eright to left"),
        ("\ud800", "\\ud800"),
        (17, "17"),
    ],
)
def test_a_foreign_text_is_shown_on_one_line(text: object, expected: str) -> None:
    assert printable(text) == expected


def test_of_a_long_text_both_ends_are_shown() -> None:
    shown = printable("a" * 5000 + "end", most=80)
    assert len(shown) == 80
    assert shown.startswith("aaa")
    assert shown.endswith("aend")


def test_an_error_is_one_line_however_long_its_place_is() -> None:
    error = UserError("no such\nfile", where="/x" * 5000, hint="Look\x1b[0m again.")
    assert len(str(error)) < 1000
    assert str(error).isprintable()


def test_of_many_problems_ten_are_shown() -> None:
    problems = [UserError("unknown field", where=f"field{number}") for number in range(2000)]
    lines = str(UserError("2,000 problems", problems=problems)).splitlines()
    assert lines[1] == "  field0: unknown field"
    assert len(lines) == 12
    assert lines[-1] == "  and 1,990 more"


def test_ten_problems_are_all_shown() -> None:
    problems = [UserError("unknown field", where=f"field{number}") for number in range(10)]
    assert (
        str(UserError("10 problems", problems=problems)).splitlines()[-1].endswith("unknown field")
    )


def test_a_text_of_several_lines_keeps_them() -> None:
    assert visible("one\n\ttwo\x1b[31m\r") == "one\n\ttwo\\x1b[31m\\r"


def test_the_nearest_name_is_found_among_many_and_not_all_are_listed() -> None:
    names = [f"run-{number:05}" for number in range(100_000)]
    hint = nearest("run-0042", names)
    assert hint.startswith("Did you mean 'run-0")
    assert hint.endswith("and 99,960 more.")
    assert len(hint) < 1000


def test_what_is_near_a_very_long_name_is_asked_of_its_beginning() -> None:
    assert nearest("routers" + "x" * 1_000_000, ["routers", "tasks"]).startswith("Available: ")
    assert nearest("", ["a"]) == "Available: a."
    assert nearest("x", []) == "Available: none."


def test_known_names_are_escaped() -> None:
    assert nearest("red-one", ["\x1b[31mred-one"]) == (
        "Did you mean '\\x1b[31mred-one'? Available: \\x1b[31mred-one."
    )
