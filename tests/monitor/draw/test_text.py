"""Words for numbers, and lines laid out without a terminal."""

from __future__ import annotations

import math

from rich.text import Text

from simsmoe_cli.monitor.draw.text import cut, decimal, filled, message, side_by_side, wrapped


def test_a_number_or_what_stands_for_none() -> None:
    assert decimal(0.12345) == "0.123"
    assert decimal(2.0, 1) == "2.0"
    assert decimal(math.nan) == "–"
    assert decimal(math.inf, undefined="undefined") == "undefined"


def test_long_texts_are_wrapped_or_cut() -> None:
    assert [line.plain for line in wrapped(Text("one two three"), 8)] == ["one two ", "three"]
    assert cut(Text("one two three"), 8).plain == "one two…"
    assert cut(Text("one"), -3).plain == ""


def test_a_message_is_in_the_middle() -> None:
    lines = [line.plain for line in message("Nothing yet.", 20, 5)]
    assert lines == ["", "", "    Nothing yet."]
    assert len(message("many words " * 30, 20, 5)) == 5


def test_blocks_beside_each_other_keep_their_places() -> None:
    left, right = [Text("a"), Text("b")], [Text("too long")]
    lines = side_by_side([left, right], 4)
    assert [line.plain for line in lines] == ["a     too ", "b         "]


def test_lines_are_filled_up_or_left_out() -> None:
    assert [line.plain for line in filled([Text("a")], 3)] == ["a", "", ""]
    assert [line.plain for line in filled([Text("a"), Text("b")], 1)] == ["a"]
