"""What is shown while a training runs."""

from __future__ import annotations

import io
import json
import re
import time
from typing import Any

import pytest
from rich.console import Console

from simsmoe_cli.cli import progress, silence
from simsmoe_cli.cli.progress import ReportView, TrainingView
from simsmoe_cli.run.folder import RunDir

TRAIN: dict[str, Any] = {
    "kind": "train",
    "step": 5,
    "bpc": 2.0,
    "loss_nats": 1.4,
    "tokens_per_s": 1234.5,
    "step_ms": 2000.0,
}


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def view(output: io.StringIO, tmp_path: Any) -> TrainingView:
    return TrainingView(Console(file=output, width=200), 20, run=RunDir(tmp_path))


def test_a_pipe_gets_whole_lines(view: TrainingView, output: io.StringIO) -> None:
    with view:
        view.on_step(5)
        view.on_event(TRAIN)
        view.on_event({"kind": "warning", "step": 5, "message": "look\x1b[31m"})
    first, second, rest = output.getvalue().split("\n")
    assert first == "step  5/20  2.000 BPC  1,234 tokens/s  0:30 left"
    assert second.startswith("warning: look")
    assert "\x1b" not in second
    assert rest == ""


def test_a_run_says_when_its_similarity_loss_counts(
    view: TrainingView, output: io.StringIO
) -> None:
    started = {"kind": "run_started", "step": 0, "compare_every": 4, "similarity_flops": 0.044}
    weight = [[0.2, 0.0], [0.5, 0.003]]
    with view:
        view.on_event({**started, "recipe": {"similarity": {"weight": weight}}})
        view.on_event({**started, "recipe": {"similarity": {"weight": 0.003}}})
    compared = "similarity learning: experts are compared every 4 steps, for 4.4% of a step's FLOPs"
    weighed = "the weight of its loss is 0 up to step 4, 0.003 from step 10 on, linear in between"
    lines = output.getvalue().splitlines()
    assert lines == [compared, f"similarity learning: {weighed}", compared]


def test_the_test_is_a_line_a_tenth_on_a_pipe(
    view: TrainingView, output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST_S", -1.0)
    with view:
        view.on_step(20)
        for done in range(101):
            view.on_part("testing", done / 100)
    lines = output.getvalue().splitlines()
    assert len(lines) == 9
    assert re.fullmatch(r"step 20/20  testing 10 %, 0:0\d left", lines[0])


@pytest.mark.parametrize(
    ("reached", "expected"),
    [
        ([], r"reading the data and building the model, 0:0\d so far"),
        ([("validating", 0.4)], r"step  5/20  validating 40 %, 0:0\d left"),
        ([("probing", 0.0)], r"step  5/20  probing 0 %"),
        ([("validating", 1.0), None], r"step  5/20  0:0\d left"),
    ],
)
def test_no_silence_on_a_pipe(
    view: TrainingView,
    output: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    reached: list[tuple[str, float] | None],
    expected: str,
) -> None:
    """Whatever the training is doing when nothing was printed for a while, a line says it."""
    monkeypatch.setattr(silence, "LOOK_S", 0.01)
    view._silence = silence.SilenceBreaker(view._break_silence, silent_s=0.0)
    if reached:
        view.on_step(5)
    for part in reached:
        view.on_step(5) if part is None else view.on_part(*part)
    with view:
        for _ in range(200):
            if output.getvalue():
                break
            time.sleep(0.02)
    assert re.fullmatch(expected, output.getvalue().splitlines()[0])


def test_json_lines_are_the_events(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    view = TrainingView(Console(stderr=True), 20, run=RunDir(tmp_path), as_json=True)
    with view:
        view.on_event(TRAIN)  # type: ignore[arg-type]
    assert json.loads(capsys.readouterr().out) == TRAIN


def test_an_error_begins_on_a_line_of_its_own(output: io.StringIO, tmp_path: Any) -> None:
    """Whatever bar or status was drawn last on a terminal."""
    screen = Console(file=output, width=80, force_terminal=True)
    with TrainingView(screen, 20, run=RunDir(tmp_path)) as view:
        view.on_step(5)
    assert output.getvalue().rstrip("\x1b[?25h").endswith("\n")


def test_a_report_s_tenths_are_lines_on_a_pipe(output: io.StringIO) -> None:
    with ReportView(Console(file=output, width=80), "opening") as view:
        view.at("measuring", 0.31)
        view.at("measuring", 0.35)
        view.at("drawing", 1.0)
    lines = output.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(" 30 % measuring, ")
    assert lines[1] == "100 % drawing"
