"""What the dashboard shows: of one run, of several, at every size, on selection."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from textual.pilot import Pilot

from simsmoe_cli.monitor.app import Monitor
from simsmoe_cli.monitor.screens.layout import pages
from simsmoe_cli.monitor.screens.picker import Picker
from simsmoe_cli.monitor.state.alerts import Thresholds
from tests.monitor.driving import NOW, dashboard, drive, monitor, seen, text_of, until
from tests.monitor.made_run import EXPERTS, cka_of, score, write_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "first")
    write_run(folder / "second", similarity="none", separate=0.2)
    write_run(folder / "third", separate=0.5)
    return folder


def test_nothing_is_lost_in_a_small_window(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        head = seen(pilot)
        facts = ("first", "finished", "quickstart", "smoe", "similarity calibrated", "cpu fp32")
        numbers = ("step 2,000/2,000", "ETA –", "tokens/s", "best", "test", "3.21 M parameters")
        for fact in (*facts, *numbers):
            assert fact in head
        for number, panel in enumerate(screen.panels, 1):
            assert f"{number} {panel.panel.short}" in head
            await pilot.press(str(number))
            await pilot.pause()
            assert panel.display
            assert f"{number} {panel.panel.title}" in seen(pilot)
            assert "Quit" in seen(pilot).split("\n")[-1]
            assert len(text_of(panel).split()) > 5

    drive(monitor([runs / "first"], runs), scenario, size=(80, 24))


def test_a_large_window_shows_all_panels_at_once(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        picture = seen(pilot)
        for number, panel in enumerate(screen.panels, 1):
            assert f"{number} {panel.panel.title}" in picture
        assert not screen.tabs.display

    drive(monitor([runs / "first"], runs), scenario, size=(200, 60))


@pytest.mark.parametrize("width", [20, 46, 80, 120, 140, 200, 400])
@pytest.mark.parametrize("height", [3, 10, 24, 40, 60, 120])
def test_every_panel_has_one_page(width: int, height: int) -> None:
    found = pages(7, width, height)
    assert sorted(panel for page in found for panel in page.panels) == list(range(7))
    for page in found:
        assert (page.rows - 1) * page.columns < len(page.panels) <= page.rows * page.columns
        assert 1 <= page.last_span <= page.columns


def test_a_tiny_window_is_survived(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        for number in "1234567":
            await pilot.press(number)
            await pilot.pause()
        assert pilot.app.is_running
        await pilot.resize_terminal(100, 30)
        await pilot.pause()
        assert "7 Events and warnings" in seen(pilot)

    drive(monitor([runs / "first", runs / "second"], runs), scenario, size=(18, 5))


def test_the_cursor_on_a_pair_tells_its_exact_value(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        await pilot.press("2", "down", "m")
        await pilot.pause()
        assert "experts 2 and 5: CKA 0.991" in text_of(screen.panels[1])
        await pilot.press("left", "down", "k")
        await pilot.pause()
        row, column = screen.selection.pair or (0, 0)
        value = cka_of(2, row, column, 1750, 1.0)
        assert f"experts {row} and {column}: CKA {value:.3f}" in text_of(screen.panels[1])
        known = [cka_of(2, i, j, 1750, 1.0) or 0 for i in range(EXPERTS) for j in range(i)]
        mean = sum(known) / len(known)
        assert screen.panels[1].picture.note == f"layer 5 · step 1,750 · mean {mean:.3f}"

    drive(monitor([runs / "first"], runs), scenario)


def test_an_undefined_value_is_called_undefined(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        await pilot.press("2")
        screen.choose(layer=3, pair=(6, 1))
        await pilot.pause()
        shown = text_of(screen.panels[1])
        assert "experts 6 and 1: CKA undefined" in shown
        row = next(line for line in shown.split("\n") if line.strip().startswith("6"))
        assert row.count("–") == EXPERTS - 1
        await pilot.press("6", "escape")
        await pilot.pause()
        assert "21 of 28 pairs defined" in text_of(screen.panels[5])

    drive(monitor([runs / "first"], runs), scenario)


def test_a_click_chooses_a_cell(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        await pilot.press("2")
        await pilot.pause()
        lines = text_of(screen.panels[1]).split("\n")
        row = next(y for y, line in enumerate(lines) if line.strip().startswith("3"))
        column = lines[0].index("5")
        await pilot.click("#cka", offset=(column + 2, row + 1))
        await pilot.pause()
        assert screen.selection.pair == (3, 5)
        await pilot.press("3")
        await pilot.pause()
        load = screen.panels[2]
        lines = text_of(load).split("\n")
        row = next(y for y, line in enumerate(lines) if line.strip().startswith("5 "))
        await pilot.click("#load", offset=(lines[0].index("3") + 2, row + 1))
        await pilot.pause()
        assert (screen.selection.layer, screen.selection.expert) == (2, 3)
        assert "layer 5: expert 3 has 0.00% of the slots" in text_of(load)

    drive(monitor([runs / "first"], runs), scenario)


def test_a_click_on_a_tab_opens_its_panel(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        await pilot.click("#tabs", offset=(text_of(screen.tabs).index("Layers"), 0))
        await pilot.pause()
        assert screen.focused is screen.panels[4]

    drive(monitor([runs / "first"], runs), scenario)


def test_the_key_for_runs_reaches_those_that_do_not_fit(tmp_path: Path) -> None:
    names = ("one", "two", "three", "four", "five", "six")
    for name in names:
        write_run(tmp_path / name, until=250, total=250)

    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        await pilot.press("2")
        shown = []
        for name in (*names, "one"):
            await pilot.pause()
            shown.append({other for other in names if other in text_of(screen.panels[1])})
            assert name in shown[-1]
            assert name in text_of(screen.header)
            await pilot.press("r")
        assert shown[0] != set(names)

    drive(monitor([tmp_path / name for name in names], tmp_path), scenario)


def test_several_runs_share_plots_and_stand_beside_each_other(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        names = ("first", "second", "third")
        score, cka = text_of(screen.panels[0]), text_of(screen.panels[1])
        assert all(name in score.split("\n")[0] for name in names)
        assert "first" in cka
        assert "second" in cka
        await pilot.press("2", "m")
        await pilot.pause()
        told = text_of(screen.panels[1]).split("\n")[-2]
        values = [cka_of(0, *(screen.selection.pair or (0, 1)), 2000, s) for s in (1, 0.2, 0.5)]
        assert told.split("CKA")[1].split() == [
            part for value in values for part in ("●", f"{value:.3f}")
        ]
        await pilot.press("r", "r")
        await pilot.pause()
        assert "third" in text_of(screen.panels[1])

    paths = [runs / name for name in ("first", "second", "third")]
    drive(monitor(paths, runs), scenario, size=(200, 60))


def test_the_cursor_on_curves_tells_every_value(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        await pilot.press("right")
        screen.choose(at=1000.0)
        await pilot.pause()
        train = score(1000, 1.0)
        valid = train + 0.04 / math.log(2)
        told = f"best {valid:.3f} train {train:.3f} validation {valid:.3f}"
        assert screen.panels[0].picture.note == f"step 1,000: {told}"

    drive(monitor([runs / "first"], runs), scenario)


def test_the_picker_lists_the_newest_first_with_its_state(tmp_path: Path) -> None:
    import os

    ages = {"old": 9000, "live": 10, "quiet": 5000}
    for name, age in ages.items():
        path = write_run(
            tmp_path / name, until=1000 if name != "old" else 2000, finished=name == "old"
        )
        os.utime(path / "events.jsonl", (NOW - age, NOW - age))
    now = NOW - 2000  # some seconds after the last event of a run of 1,000 steps

    async def scenario(pilot: Pilot[None]) -> None:
        picker = pilot.app.screen
        assert isinstance(picker, Picker)
        await until(pilot, lambda: len(picker.runs) == 3)
        lines = [line.split() for line in seen(pilot).split("\n")[2:5]]
        assert [line[0] for line in lines] == ["live", "quiet", "old"]
        assert [line[1] for line in lines] == ["training", "training", "finished"]
        await pilot.press("down", "enter")
        await pilot.pause()
        assert dashboard(pilot).followers[0].path == tmp_path / "quiet"

    drive(Monitor([], tmp_path, Thresholds(), 0.05, lambda: now), scenario)


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "There are no runs here yet" in seen(pilot))
        await pilot.press("enter", "space")
        write_run(tmp_path / "new")
        picker = pilot.app.screen
        assert isinstance(picker, Picker)
        await until(pilot, lambda: len(picker.runs) == 1)
        await pilot.press("enter")
        await pilot.pause()
        assert dashboard(pilot).followers[0].path == tmp_path / "new"

    drive(monitor([], tmp_path), scenario)


def test_the_command_palette_finds_layers_and_panels(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+p", *"layer 5")
        await pilot.pause(0.5)
        await pilot.press("enter")
        await pilot.pause()
        await until(pilot, lambda: dashboard(pilot).selection.layer == 2)

    drive(monitor([runs / "first"], runs), scenario)


def test_names_are_not_markup(tmp_path: Path) -> None:
    path = write_run(tmp_path / "[red]run[")

    async def scenario(pilot: Pilot[None]) -> None:
        assert "[red]run[" in seen(pilot)
        await pilot.press("f1")
        await pilot.pause()
        assert "[red]run[" in seen(pilot)

    drive(monitor([path], tmp_path), scenario, size=(120, 80))


def test_what_stands_still_is_not_drawn_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        drawn: list[str] = []
        for panel in (*screen.panels, screen.header, screen.tabs):
            monkeypatch.setattr(panel, "redraw", lambda name=panel.id: drawn.append(name))
        screen.update_panels()
        screen.header.update()
        await pilot.pause(0.2)
        assert drawn == []
        screen.choose(at=500.0)
        await pilot.pause()
        assert "score" in drawn
        assert "events" not in drawn

    drive(monitor([runs / "first"], runs), scenario, size=(200, 60))


def test_the_dashboard_never_imports_torch() -> None:
    program = "import sys, simsmoe_cli.monitor.app; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "False", done.stderr
