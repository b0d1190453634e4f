"""The panel of the score."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from simsmoe_cli.monitor.panels.curves import curve, points, running_mean
from simsmoe_cli.monitor.panels.score import PANEL
from tests.monitor.made_run import score, write_run
from tests.monitor.views import drawn, key, view_of


def test_the_cursor_shows_every_value(runs: Path) -> None:
    view = view_of(runs / "first", at=1000.0)
    train = score(1000, 1.0)
    valid = train + 0.04 / math.log(2)
    assert drawn(PANEL, view)[0] == (
        f"━━ best {valid:.3f}  ━━ train {train:.3f}  ━━ validation {valid:.3f}"
    )
    assert PANEL.draw(view, 78, 20).note == "step 1,000"


def test_without_a_cursor_the_unit_is_told(runs: Path) -> None:
    picture = PANEL.draw(view_of(runs / "first"), 78, 20)
    assert (picture.title, picture.note) == ("BPC", "bits per byte")


def valid_of(step: int, separate: float) -> float:
    return score(step, separate) + 0.04 / math.log(2)


@pytest.mark.parametrize("at", [None, 1000.0])
def test_several_runs_have_a_line_each_with_the_difference_to_the_first(
    runs: Path, at: float | None
) -> None:
    names = ("first", "second", "third")
    folders = [runs / name for name in names]
    view, step = view_of(*folders, at=at), int(at or 2000)
    head, *lines = drawn(PANEL, view)[:4]
    assert head.split() == ["validation", "to", "first", "best", "train"]
    for line, name, separate in zip(lines, names, (1, 0.2, 0.5), strict=True):
        valid, difference = valid_of(step, separate), valid_of(step, separate) - valid_of(step, 1)
        assert line.split() == [
            "━━",
            name,
            f"{valid:.3f}",
            "–" if name == "first" else f"{difference:+.3f}",
            f"{valid:.3f}",
            "━━",
            f"{score(step, separate):.3f}",
        ]


@pytest.mark.parametrize("width", [24, 30, 40, 60])
def test_numbers_of_the_legend_are_never_cut(runs: Path, width: int) -> None:
    view = view_of(runs / "first", runs / "second", runs / "third")
    lines = drawn(PANEL, view, width, 14)
    for line, separate in zip(lines[1:4], (1, 0.2, 0.5), strict=True):
        assert f" {valid_of(2000, separate):.3f}" in line


def test_curves_that_coincide_are_both_seen(runs: Path, tmp_path: Path) -> None:
    view = view_of(runs / "first", write_run(tmp_path / "copy"))
    styles = [str(span.style) for line in PANEL.draw(view, 78, 20).lines[3:] for span in line.spans]
    first, copy = (styles.count(f"bold {view.color_of(run)}") for run in (0, 1))
    assert first == pytest.approx(copy, rel=0.3)


def test_smoothing_is_a_running_mean_of_training_alone(runs: Path) -> None:
    view = key(PANEL, key(PANEL, view_of(runs / "first"), "e"), "e")
    picture = PANEL.draw(view, 78, 20)
    assert picture.note == "bits per byte · mean of 20 points"
    raw = points(view.chosen, "train").mean
    found = curve(view, view.chosen, "train", "", "", smooth=True)
    assert found is not None
    for at in (0, 7, 30):
        assert found.y[at] == pytest.approx(raw[max(0, at - 19) : at + 1].mean())
    assert picture.lines[0] == PANEL.draw(view_of(runs / "first"), 78, 20).lines[0]
    values = running_mean(np.array([1.0, math.nan, 3.0]), 2)
    assert values.tolist() == pytest.approx([1, math.nan, 3], nan_ok=True)


def test_without_colours_training_curves_have_marks_too(runs: Path) -> None:
    lines = drawn(PANEL, view_of(runs / "first", runs / "second", color=False))
    assert [line.split()[0] for line in lines[1:3]] == ["x", "*"]
    assert [line.split()[-2] for line in lines[1:3]] == ["•", "+"]


def test_the_range_of_y_goes_round(runs: Path) -> None:
    view = view_of(runs / "first")
    titles = []
    for _ in range(4):
        titles.append(PANEL.draw(view, 78, 20).title)
        view = key(PANEL, view, "y")
    assert titles == ["BPC", "BPC, values of the later half", "BPC, logarithmic", "BPC"]


def test_curves_against_time(runs: Path) -> None:
    assert drawn(PANEL, view_of(runs / "first", by_time=True))[-1].endswith("minutes")
