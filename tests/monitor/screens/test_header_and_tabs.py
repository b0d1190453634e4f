"""The row of tabs."""

from __future__ import annotations

from pathlib import Path

from textual.pilot import Pilot

from tests.monitor.driving import dashboard, drive, monitor, text_of


def test_a_click_on_a_tab_opens_its_panel(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        await pilot.click("#tabs", offset=(text_of(screen.tabs).index("Layers"), 0))
        await pilot.pause()
        assert screen.focused is screen.panels[4]

    drive(monitor([runs / "first"], runs), scenario)
