"""The picker lists runs and opens those chosen."""

from __future__ import annotations

import os
from pathlib import Path

from textual.pilot import Pilot

from simsmoe_cli.monitor.app import Monitor
from simsmoe_cli.monitor.screens.picker import SORTED_BY, Picker
from simsmoe_cli.monitor.state.alerts import Thresholds
from tests.monitor.driving import NOW, dashboard, drive, monitor, seen, until
from tests.monitor.made_run import write_run


def test_the_picker_lists_the_newest_first_with_its_state(tmp_path: Path) -> None:
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


def test_runs_are_filtered_by_words_and_sorted(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        picker = pilot.app.screen
        assert isinstance(picker, Picker)
        await until(pilot, lambda: len(picker.runs) == 3)

        def names() -> list[str]:
            return [run.name for run in picker.listed]

        orders = {}
        for _ in SORTED_BY:
            orders[picker.sorted_by] = names()
            await pilot.press("o")
        assert orders["name"] == ["first", "second", "third"]
        assert orders["score"] == ["first", "third", "second"]  # the lowest BPC first
        assert orders["CKA"] == ["first", "third", "second"]
        await pilot.press("slash", *"calibrated")
        assert names() == ["first", "third"] or names() == ["third", "first"]
        assert "2 of 3" in seen(pilot)
        await pilot.press("space", *"thi")
        assert names() == ["third"]
        await pilot.press("x")
        assert "No run has these words" in seen(pilot)
        await pilot.press("escape")
        assert len(names()) == 3
        await pilot.press("slash", *"thi", "enter")
        await pilot.pause()
        assert [run.path.name for run in dashboard(pilot).followers] == ["third"]

    drive(monitor([], runs), scenario)
