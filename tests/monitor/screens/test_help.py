"""The help names runs as they are called."""

from __future__ import annotations

from pathlib import Path

from textual.pilot import Pilot

from tests.monitor.driving import drive, monitor, seen
from tests.monitor.made_run import write_run


def test_names_are_not_markup(tmp_path: Path) -> None:
    path = write_run(tmp_path / "[red]run[")

    async def scenario(pilot: Pilot[None]) -> None:
        assert "[red]run[" in seen(pilot)
        await pilot.press("f1")
        await pilot.pause()
        assert "[red]run[" in seen(pilot)

    drive(monitor([path], tmp_path), scenario, size=(120, 80))
