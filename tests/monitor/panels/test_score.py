"""The panel of the score."""

from __future__ import annotations

import math
from pathlib import Path

from simsmoe_cli.monitor.panels.score import PANEL
from tests.monitor.made_run import score
from tests.monitor.views import drawn, key, view_of


def test_the_cursor_shows_every_value(runs: Path) -> None:
    picture = PANEL.draw(view_of(runs / "first", at=1000.0), 78, 20)
    train = score(1000, 1.0)
    valid = train + 0.04 / math.log(2)
    told = f"best {valid:.3f} train {train:.3f} validation {valid:.3f}"
    assert picture.note == f"step 1,000: {told}"


def test_without_a_cursor_the_unit_is_told(runs: Path) -> None:
    picture = PANEL.draw(view_of(runs / "first"), 78, 20)
    assert (picture.title, picture.note) == ("BPC", "bits per byte")


def test_several_runs_share_a_plot(runs: Path) -> None:
    folders = [runs / name for name in ("first", "second", "third")]
    legend = drawn(PANEL, view_of(*folders))[0]
    assert all(folder.name in legend for folder in folders)
    picture = PANEL.draw(view_of(*folders, at=1000.0), 78, 20)
    assert all(f"{folder.name} validation " in picture.note for folder in folders)


def test_without_colours_training_curves_have_names_too(runs: Path) -> None:
    legend = drawn(PANEL, view_of(runs / "first", runs / "second", color=False))[0]
    assert legend == "• first train  + second train  x first  * second"


def test_the_range_of_y_goes_round(runs: Path) -> None:
    view = view_of(runs / "first")
    titles = []
    for _ in range(4):
        titles.append(PANEL.draw(view, 78, 20).title)
        view = key(PANEL, view, "y")
    assert titles == ["BPC", "BPC, values of the later half", "BPC, logarithmic", "BPC"]


def test_curves_against_time(runs: Path) -> None:
    assert drawn(PANEL, view_of(runs / "first", by_time=True))[-1].endswith("minutes")
