"""What holds for every panel: it fits any space, in colour and without, with runs or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simsmoe_cli.monitor.panels import PANELS, cka
from simsmoe_cli.monitor.panels.panel import Panel, run_grid
from tests.monitor.made_run import write_run
from tests.monitor.views import drawn, view_of

IDS = [panel.id for panel in PANELS]


def test_panels_can_be_told_apart() -> None:
    assert len(set(IDS)) == len({panel.short for panel in PANELS}) == len(PANELS)


@pytest.mark.parametrize("panel", PANELS, ids=IDS)
@pytest.mark.parametrize("names", [["first"], ["first", "second", "third"], ["soon"]])
@pytest.mark.parametrize("color", [True, False])
def test_a_panel_fits_any_space(panel: Panel, names: list[str], color: bool, runs: Path) -> None:
    view = view_of(*(runs / name for name in names), color=color, layer=1, at=500.0)
    for scroll in (0, 1, 2):
        for width, height in ((1, 1), (2, 9), (16, 3), (46, 14), (78, 20), (198, 58)):
            picture = panel.draw(replace(view, scroll=scroll), width, height)
            assert picture.empty == (names == ["soon"])
            if width > 12 and height > 8:  # in less space the widget cuts the lines
                assert len(picture.lines) <= height
                assert all(line.cell_len <= width for line in picture.lines)


@pytest.mark.parametrize("panel", PANELS, ids=IDS)
def test_a_panel_says_something_where_it_has_room(panel: Panel, runs: Path) -> None:
    view = view_of(runs / "first", color=False)
    lines = drawn(panel, view, 100, panel.height(view, 100))
    assert len("".join(lines).split()) > 5
    assert panel.about.endswith(".")


@pytest.mark.parametrize("panel", PANELS, ids=IDS)
def test_keys_explain_themselves(panel: Panel) -> None:
    assert all(key.help for key in panel.keys)
    names = [name for key in panel.keys for name in key.keys.split(",")]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("panel", PANELS[:-1], ids=IDS[:-1])
def test_a_panel_waits_for_a_run_that_does_not_exist_yet(panel: Panel, tmp_path: Path) -> None:
    words = " ".join(drawn(panel, view_of(tmp_path / "soon"), 200, 20)).split()
    assert words[:3] == ["Waiting", "for", "soon:"]


def test_the_chosen_run_is_always_among_those_that_fit(tmp_path: Path) -> None:
    names = ("one", "two", "three", "four", "five", "six")
    folders = [write_run(tmp_path / name, until=250, total=250) for name in names]
    for run, name in enumerate(names):
        view = view_of(*folders, run=run)
        grid = run_grid(view, 78, 10)
        assert run in grid.runs
        assert grid.columns == len(grid.runs) == 3
        assert grid.columns * grid.width <= 78
        assert any(name in line for line in drawn(cka.PANEL, view, 78, 12))
    assert len(run_grid(view, 300, 10).runs) == 6


def test_more_runs_go_into_a_second_row_where_one_is_too_short(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / str(run), until=250, total=250) for run in range(5)]
    view = view_of(*folders)
    grid = run_grid(view, 68, 14)
    assert (len(grid.runs), grid.columns, grid.height) == (5, 3, 7)
    maps = cka.PANEL.draw(view, 68, 16).maps
    assert [(found.run, found.x > 0, found.y > 1) for found in maps] == [
        (0, False, False),
        (1, True, False),
        (2, True, False),
        (3, False, True),
        (4, True, True),
    ]
