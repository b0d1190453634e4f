"""Series as curves, and the cursor on them. Logged steps are 50, 100 ... 2000."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simsmoe_cli.monitor.panels.curves import (
    cursor_x,
    layer_courses,
    move_cursor,
    points,
    value_at,
    x_axis,
)
from tests.monitor.views import view_of


def test_the_cursor_moves_by_points_and_stays_on_the_curve(runs: Path) -> None:
    view = view_of(runs / "first")
    steps = []
    for columns in (1, 1, 10, -1, 1_000_000, 1, -1_000_000, -1):
        view = move_cursor(view, 78, columns)
        steps.append(view.selection.at)
    assert steps == [50, 100, 600, 550, 2000, 2000, 50, 50]
    assert move_cursor(view_of(runs / "first"), 78, -1).selection.at == 2000


def test_there_is_no_cursor_before_the_first_step(tmp_path: Path) -> None:
    view = view_of(tmp_path / "soon")
    assert move_cursor(view, 78, 1) == view


def test_the_cursor_against_time_is_at_the_time_of_its_step(runs: Path) -> None:
    view = view_of(runs / "first", at=1000.0, by_time=True)
    assert cursor_x(view) == (1000 - 50) * 2 / 60
    assert x_axis(view).high == (2000 - 50) * 2 / 60


def test_a_value_is_the_last_one_not_after_a_step(runs: Path) -> None:
    valid = points(view_of(runs / "first").chosen, "valid")
    assert value_at(valid, 700) == valid.mean[1]
    assert value_at(valid, 100) != value_at(valid, 100)


def test_courses_of_layers_need_room_and_without_colours_are_the_chosen_one(runs: Path) -> None:
    view = view_of(runs / "first", layer=1)
    assert layer_courses(view, "cka.", "mean CKA", 60, 7) == []
    assert layer_courses(view, "nothing.", "nothing", 60, 20) == []
    lines = layer_courses(view, "cka.", "mean CKA", 60, 12)
    assert len(lines) == 12
    assert lines[1].plain == "mean CKA  ━━ layer 3"
    plain = layer_courses(replace(view, color=False), "cka.", "mean CKA", 60, 12)
    assert not any("•" in line.plain for line in plain)
