"""Playing the probes over training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from tests.monitor.driving import dashboard, drive, monitor, until
from tests.monitor.made_run import write_run


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
