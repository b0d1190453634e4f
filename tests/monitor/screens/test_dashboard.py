"""The dashboard in windows of any size, with one run and several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from simsmoe_cli.monitor.panels import PANELS
from tests.monitor.driving import LAST_PANEL, dashboard, drive, monitor, seen, text_of, until
from tests.monitor.made_run import cka_of, write_run


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


def test_a_tiny_window_is_survived(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        for number in range(len(PANELS)):
            await pilot.press(str(number + 1))
            await pilot.pause()
        assert pilot.app.is_running
        await pilot.resize_terminal(100, 30)
        await pilot.pause()
        assert f"{LAST_PANEL} Events and warnings" in seen(pilot)

    drive(monitor([runs / "first", runs / "second"], runs), scenario, size=(18, 5))


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

    drive(monitor([tmp_path / name for name in names], tmp_path), scenario, size=(60, 24))


def test_several_runs_share_plots_and_stand_beside_each_other(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        names = ("first", "second", "third")
        score, cka = text_of(screen.panels[0]), text_of(screen.panels[1])
        assert [line.split()[1] for line in score.split("\n")[1:4]] == list(names)
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


def test_the_command_palette_finds_layers_and_panels(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+p", *"layer 5")
        await pilot.pause(0.5)
        await pilot.press("enter")
        await pilot.pause()
        await until(pilot, lambda: dashboard(pilot).selection.layer == 2)

    drive(monitor([runs / "first"], runs), scenario)


def test_escape_stops_playing(tmp_path: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        await pilot.press("2", "space")
        assert dashboard(pilot).playing
        await pilot.press("escape")
        assert not dashboard(pilot).playing

    drive(monitor([write_run(tmp_path / "first")], tmp_path), scenario)


def test_playing_walks_all_probes_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        shown = []
        choose = screen.choose

        def record(**fields: Any) -> None:
            choose(**fields)
            shown.append(screen.selection.step)

        monkeypatch.setattr(screen, "choose", record)
        await pilot.press("2", "space")
        await until(pilot, lambda: not screen.playing)
        assert shown == [*range(0, 1751, 250), None]

    drive(monitor([write_run(tmp_path / "first")], tmp_path), scenario)
