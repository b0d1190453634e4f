"""The app: its own keys, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from textual.command import CommandPalette
from textual.pilot import Pilot

from simsmoe_cli.monitor.app import Monitor
from simsmoe_cli.monitor.screens.help import Help
from tests.monitor.driving import drive, keys_of, monitor, seen, until

ROOT = Path(__file__).resolve().parents[2]
APP = {"f1", "question_mark", "ctrl+p", "d", "s", "q"}


def test_the_keys_of_the_app(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pressed: set[str] = set()
    monkeypatch.chdir(tmp_path)

    async def scenario(pilot: Pilot[None]) -> None:
        async def press(key: str) -> None:
            pressed.add(key)
            await pilot.press(key)
            await pilot.pause()

        for key in ("f1", "question_mark"):
            await press(key)
            assert isinstance(pilot.app.screen, Help)
            assert "Cursor on the curves" in seen(pilot)
            await pilot.press("escape")
        await press("ctrl+p")
        assert isinstance(pilot.app.screen, CommandPalette)
        await pilot.press("escape")
        assert pilot.app.current_theme.dark
        await press("d")
        assert not pilot.app.current_theme.dark
        await press("s")
        await until(pilot, lambda: "Saved screenshot to 'simsmoe_monitor" in seen(pilot))
        await press("q")

    app = monitor([runs / "first"], runs)
    drive(app, scenario)
    assert not app.is_running
    (picture,) = tmp_path.glob("*.svg")
    assert "first" in picture.read_text()
    assert pressed == APP == keys_of(Monitor)


def test_the_dashboard_never_imports_torch() -> None:
    program = "import sys, simsmoe_cli.monitor.app; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "False", done.stderr
