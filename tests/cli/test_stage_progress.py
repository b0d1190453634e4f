"""Progress of stages where there is no terminal: a line every tenth, and never a long silence."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from simsmoe_cli.cli import stage_progress
from simsmoe_cli.cli.stage_progress import StageProgress


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stage_progress, "time", clock)
    return clock


def test_a_line_every_tenth_with_the_time_left(clock: Clock) -> None:
    out = io.StringIO()
    with StageProgress(Console(file=out, width=200)) as show:
        for second in range(101):
            clock.now = second
            show("encode", second * 1_000_000, 100_000_000)
    lines = out.getvalue().splitlines()
    assert lines[0] == " 10% encode: 10.0 MB of 100.0 MB, 1:30 left"
    assert [int(line.split("%")[0]) for line in lines] == list(range(10, 101, 10))


def test_what_was_done_before_counts_for_the_share_and_not_for_the_time(clock: Clock) -> None:
    out = io.StringIO()
    with StageProgress(Console(file=out, width=200)) as show:
        show("encode", 800, 1000)
        clock.now = 10.0
        show("encode", 900, 1000)
    assert out.getvalue() == " 90% encode: 1 kB of 1 kB, 0:10 left\n"


def test_of_several_processes_only_the_first_prints(clock: Clock) -> None:
    out = io.StringIO()
    with StageProgress(Console(file=out, quiet=True)) as show:
        show("encode", 800, 1000)
        clock.now = 10.0
        show("encode", 900, 1000)
    assert out.getvalue() == ""


def test_a_short_stage_prints_nothing(clock: Clock) -> None:
    out = io.StringIO()
    with StageProgress(Console(file=out)) as show:
        for done in range(11):
            clock.now = done / 3
            show("encode", done, 10)
    assert out.getvalue() == ""


def test_a_stage_that_reports_nothing_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_progress, "SILENT_S", 0.0)
    out = io.StringIO()
    with StageProgress(Console(file=out)) as show:
        show("fit the tokenizer", 0, None)
        for _ in range(200):
            if out.getvalue():
                break
            time.sleep(0.05)
    assert re.fullmatch(r"fit the tokenizer: 0:0\d so far", out.getvalue().splitlines()[0])


def test_names_of_every_kind_stay_on_one_line(clock: Clock) -> None:
    out = io.StringIO()
    with StageProgress(Console(file=out)) as show:
        for done in range(11):
            clock.now = 10 * done
            show("evaluating new\nline [red]\x1b", done, 10)
    lines = out.getvalue().splitlines()
    assert len(lines) == 10
    assert all(r"evaluating new\nline [red]\x1b: " in line for line in lines)
    screen = io.StringIO()
    with StageProgress(Console(file=screen, force_terminal=True, width=99)) as show:
        show("evaluating [red]run", 1, 10)
    assert "evaluating [red]run" in screen.getvalue()


def test_nobody_who_reads_is_no_error(clock: Clock) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with StageProgress(Console(file=Closed())) as show:
        clock.now = 20.0
        show("encode", 0, 10)
        show("encode", 9, 10)
