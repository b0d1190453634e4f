"""Pictures of the dashboard, looked at once and kept.

The runs come from a formula and the clock stands, so a picture depends on the code alone. After a
change that is meant, `pytest tests/monitor/test_snapshots.py --snapshot-update`, and look at them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from simsmoe_cli.monitor.screens.picker import Picker
from tests.monitor.driving import NOW, monitor, ready, until
from tests.monitor.made_run import write_run

Compare = Callable[..., bool]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "calibrated")
    write_run(folder / "none", similarity="none", separate=0.2)
    return folder


def after(*keys: str) -> Callable[[Pilot[None]], Any]:
    """What is done before the picture is taken."""

    async def run(pilot: Pilot[None]) -> None:
        await ready(pilot)
        await pilot.press(*keys)
        await pilot.pause()
        await pilot.pause()

    return run


KEYS = {
    "score": "1 y right right",
    "cka": "2 down m",
    "load": "3 down down l l l l",
    "signals": "4",
    "layers": "5 down down left",
    "shared": "6 down",
    "events": "8",
    "help": "2 f1",
}


@pytest.mark.parametrize("panel", KEYS)
def test_a_small_window(snap_compare: Compare, runs: Path, panel: str) -> None:
    app = monitor([runs / "calibrated"], runs)
    assert snap_compare(app, terminal_size=(80, 24), run_before=after(*KEYS[panel].split()))


def test_a_middling_window_on_a_light_ground(snap_compare: Compare, runs: Path) -> None:
    app = monitor([runs / "calibrated"], runs)
    assert snap_compare(app, terminal_size=(120, 40), run_before=after("d", "2", "down"))


def test_two_runs(snap_compare: Compare, runs: Path) -> None:
    app = monitor([runs / "calibrated", runs / "none"], runs)
    assert snap_compare(app, terminal_size=(120, 40), run_before=after("2", "down", "m"))


def test_a_large_window(snap_compare: Compare, runs: Path) -> None:
    app = monitor([runs / "calibrated"], runs)
    assert snap_compare(app, terminal_size=(200, 60), run_before=after("2", "down", "m"))


def test_the_picker(snap_compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("calibrated", "none", "a-name-that-is-rather-too-long")):
        path = write_run(Path("runs") / name, until=2000 - 500 * number, finished=number < 2)
        os.utime(path / "events.jsonl", (NOW - 60 * number, NOW - 60 * number))

    async def run(pilot: Pilot[None]) -> None:
        picker = pilot.app.screen
        assert isinstance(picker, Picker)
        await until(pilot, lambda: len(picker.runs) == 3)
        await pilot.press("space")
        await pilot.pause()

    assert snap_compare(monitor([], Path("runs")), terminal_size=(80, 24), run_before=run)
