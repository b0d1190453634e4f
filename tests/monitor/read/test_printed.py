"""The end of log.txt."""

from __future__ import annotations

from pathlib import Path

from simsmoe_cli.monitor.read.printed import LINES, TAIL_BYTES, PrintedTail


def test_lines_that_are_added_are_seen_and_a_lost_file_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    tail = PrintedTail(path)
    assert not tail.poll()
    path.write_text("one\n")
    assert tail.poll()
    assert not tail.poll()
    with open(path, "a") as file:
        file.write("two \x1b[31m\nbegun")
    assert tail.poll()
    assert tail.lines == ("one", "two  [31m", "begun")
    path.unlink()
    assert not tail.poll()
    assert len(tail.lines) == 3


def test_of_a_long_log_only_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("".join(f"line {number} {'x' * 50}\n" for number in range(5000)))
    tail = PrintedTail(path)
    tail.poll()
    assert len(tail.lines) <= LINES
    assert sum(map(len, tail.lines)) < TAIL_BYTES
    assert tail.lines[-1].startswith("line 4999 ")
    assert all(line.startswith("line ") for line in tail.lines)
