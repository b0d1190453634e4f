"""log.txt: what a training printed."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from simsmoe_cli.errors import UserError
from simsmoe_cli.run import printed_log
from simsmoe_cli.run.printed_log import PrintedLog


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PrintedLog]:
    log = PrintedLog(tmp_path / "log.txt")
    yield log
    log.close()


def lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "log.txt").read_text().splitlines()


def test_what_is_printed_is_kept_without_colours_and_still_printed(
    log: PrintedLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.StreamHandler(sys.stderr)  # holds the stream from before
    print("before")
    log.start("simsmoe pretrain")
    print("\x1b[1mone\x1b[0m", "two")
    logger.emit(logging.makeLogRecord({"msg": "from a logger"}))
    print("no end", end="")
    error = UserError("no disk", hint="Buy one.")
    log.add_error(error)
    log.close()
    print("\nafter")
    head, *rest = lines(tmp_path)
    assert head.startswith("--- 2")
    assert head.endswith(" simsmoe pretrain")
    assert rest == [
        "one two",
        "from a logger",
        *str(error).splitlines(),
        "no end",
    ]
    assert capsys.readouterr().out == "before\n\x1b[1mone\x1b[0m two\nno end\nafter\n"


def test_a_progress_bar_leaves_its_last_line_alone(
    log: PrintedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    console = Console(force_terminal=True, width=60)
    with Progress(console=console, auto_refresh=False) as progress:
        task = progress.add_task("train", total=3)
        log.start("")
        for step in range(3):
            progress.update(task, completed=step + 1, refresh=True)
            console.print(f"step {step}")
            print(f"user {step}")
    log.close()
    told = lines(tmp_path)[1:]
    assert told[:6] == ["step 0", "user 0", "step 1", "user 1", "step 2", "user 2"]
    assert len(told) == 7
    assert "100%" in told[6]
    for bar in ("\r 1 %", "\r 2 %", "\r 3 %\n"):
        terminal.write(bar)


def test_a_resumed_run_adds_and_a_large_log_loses_its_beginning(
    log: PrintedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printed_log, "LARGEST", 9000)
    (tmp_path / "log.txt").write_text("earlier\n")
    log.start("simsmoe pretrain, resumed from step-0000040")
    assert lines(tmp_path)[0] == "earlier"
    for number in range(1500):
        print(f"line {number}")
    kept = lines(tmp_path)
    assert (tmp_path / "log.txt").stat().st_size <= 9000
    assert kept == [f"line {number}" for number in range(1500 - len(kept), 1500)]
    print("x" * 100_000)
    assert len(lines(tmp_path)[-1]) == printed_log.LONGEST + len("…")


def test_training_goes_on_where_the_log_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.txt").mkdir()
    log = PrintedLog(tmp_path / "log.txt")
    log.start("")
    print("fine")
    log.close()
    assert capsys.readouterr().out == "fine\n"
