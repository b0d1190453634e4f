"""What stands still is not drawn again."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot

from tests.monitor.driving import dashboard, drive, monitor


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
