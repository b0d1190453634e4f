"""What the dashboard does when files come, go, shrink or speak of the future."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from textual.pilot import Pilot

from simsmoe_cli.monitor.screens import message_line
from tests.monitor.driving import LAST_PANEL, NOW, dashboard, drive, monitor, seen, text_of, until
from tests.monitor.made_run import event, router_event, similarity_event, train_event, write_run

SIZE = (120, 40)


@pytest.fixture(autouse=True)
def messages_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go after some seconds, which a busy machine may take between two looks."""
    monkeypatch.setattr(message_line, "SHOWN_S", 1000.0)


def append(path: Path, *events: object) -> None:
    with open(path / "events.jsonl", "a") as file:
        for one in events:
            file.write(json.dumps(one) + "\n")


def messages(pilot: Pilot[None]) -> list[str]:
    return [told.text for told in dashboard(pilot).messages.told.values()]


def test_it_waits_for_a_run_that_does_not_exist_yet(tmp_path: Path) -> None:
    path = tmp_path / "coming"

    async def scenario(pilot: Pilot[None]) -> None:
        assert "Waiting for coming" in text_of(dashboard(pilot).panels[0])
        assert "coming  waiting" in seen(pilot)
        write_run(path, until=1000, finished=False)
        await until(pilot, lambda: "coming  training" in seen(pilot))
        await until(pilot, lambda: "train" in text_of(dashboard(pilot).panels[0]))
        assert "step 1,000/2,000" in seen(pilot)
        assert "ETA" in seen(pilot)

    drive(monitor([path], tmp_path, now=lambda: NOW - 2000), scenario, SIZE)


def test_it_follows_what_is_appended_and_a_torn_line_waits(tmp_path: Path) -> None:
    path = write_run(tmp_path / "live", until=1000, finished=False)

    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        line = json.dumps(train_event(1050, 1.0)) + "\n"
        with open(path / "events.jsonl", "a") as file:
            file.write(line[:40])
            file.flush()
            await pilot.pause(0.3)
            assert screen.followers[0].history.step == 1000
            file.write(line[40:])
        await until(pilot, lambda: screen.followers[0].history.step == 1050)
        await until(pilot, lambda: "step 1,050/2,000" in seen(pilot))
        append(path, router_event(1250), similarity_event(1250, 1.0))
        await until(pilot, lambda: "step 1,250 newest" in seen(pilot))

    drive(monitor([path], tmp_path, now=lambda: NOW - 2000), scenario, SIZE)


def test_a_probe_looked_at_stays_while_newer_ones_come(tmp_path: Path) -> None:
    path = write_run(tmp_path / "live", until=1000, finished=False)

    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        await pilot.press("2", "left")
        append(path, similarity_event(1250, 1.0))
        await until(pilot, lambda: len(screen.followers[0].history.similarities) == 6)
        assert screen.selection.step == 750
        assert "step 750" in screen.panels[1].picture.note

    drive(monitor([path], tmp_path, now=lambda: NOW - 2000), scenario, SIZE)


def test_a_folder_deleted_underneath_is_told_and_its_return_too(tmp_path: Path) -> None:
    path = write_run(tmp_path / "gone", until=1000, finished=False)

    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        shutil.rmtree(path)
        await until(pilot, lambda: "its events are gone" in seen(pilot))
        assert any("gone" in note for note in messages(pilot))
        assert "train" in text_of(screen.panels[0])
        write_run(path, until=500, finished=False)
        await until(pilot, lambda: screen.followers[0].history.step == 500)
        await until(pilot, lambda: "its events are gone" not in text_of(screen.header))

    drive(monitor([path], tmp_path, now=lambda: NOW - 2000), scenario, SIZE)


def test_a_run_cut_back_is_read_again(tmp_path: Path) -> None:
    path = write_run(tmp_path / "cut", until=1000, finished=False)

    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        write_run(path, until=500, finished=False)
        await until(pilot, lambda: screen.followers[0].history.step == 500)
        await until(pilot, lambda: any("cut back" in note for note in messages(pilot)))
        assert len(screen.followers[0].history.similarities) == 3
        await until(pilot, lambda: "step 500/2,000" in seen(pilot))

    drive(monitor([path], tmp_path, now=lambda: NOW - 2000), scenario, SIZE)


def test_events_of_the_future_are_passed_over_and_told(tmp_path: Path) -> None:
    path = write_run(tmp_path / "future", until=1000, finished=False)
    append(path, event("train", 1050) | {"schema": 99}, train_event(1100, 1.0))

    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        assert screen.followers[0].history.step == 1100
        assert any("schema 99" in note for note in messages(pilot))
        await pilot.press(LAST_PANEL)
        await pilot.pause()
        assert "schema 99" in text_of(screen.panels[-1])

    drive(monitor([path], tmp_path, now=lambda: NOW - 2000), scenario, SIZE)


def test_alerts_are_one_message_and_all_in_the_events_but_old_ones_only_there(
    tmp_path: Path,
) -> None:
    path = write_run(tmp_path / "alarm", until=1250, finished=False)

    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        log = screen.followers[0].history.log
        assert "expert 3 is dead" in "\n".join(line.text for line in log)
        assert messages(pilot) == []
        before = len(log)
        for step in (1500, 1750):
            worse, dead = similarity_event(step, 1.0), router_event(step)
            for layer in worse["layers"]:
                layer["mean"] = 0.95
            dead["layers"][0]["dead"] = [1, 4]
            append(path, dead, worse)
        append(path, train_event(1800, 1.0) | {"loss_nats": None, "bpc": None})
        await until(pilot, lambda: "the loss is not finite" in "".join(messages(pilot)))
        told = "layer 1: experts 1, 4 are dead (under 1% of a fair share); "
        told += "mean CKA above 0.8 in layers 1, 3, 5, 7; the loss is not finite"
        assert messages(pilot) == [told]
        assert "▲ alarm: layer 1: experts 1, 4" in seen(pilot).splitlines()[-1]
        assert len(log) == before + 6
        assert "Events!" in text_of(screen.tabs)
        await pilot.press("escape", LAST_PANEL)
        await pilot.pause()
        assert messages(pilot) == []
        assert "▲ the loss is not finite" in text_of(screen.panels[-1])
        assert "Events!" not in text_of(screen.tabs)

    drive(monitor([path], tmp_path, now=lambda: NOW - 2000), scenario, SIZE)


def test_a_live_run_that_falls_silent_is_told(tmp_path: Path) -> None:
    path = write_run(tmp_path / "silent", until=1000, finished=False)
    now = [NOW - 2000]

    async def scenario(pilot: Pilot[None]) -> None:
        assert "silent  training" in seen(pilot)
        now[0] += 100_000
        await until(pilot, lambda: any("no event for" in note for note in messages(pilot)))
        await until(pilot, lambda: "silent  stale" in seen(pilot))

    drive(monitor([path], tmp_path, now=lambda: now[0]), scenario, SIZE)


def test_how_far_each_of_several_live_runs_is(tmp_path: Path) -> None:
    """Also of those that are not chosen; a finished run has nothing to tell."""
    paths = [
        write_run(tmp_path / "half", until=1000, finished=False),
        write_run(tmp_path / "quarter", until=500, finished=False),
        write_run(tmp_path / "done"),
    ]

    async def scenario(pilot: Pilot[None]) -> None:
        text = seen(pilot)
        assert "half  training 50%" in text
        assert "quarter  training 25%" in text
        assert "done  finished " in text

    drive(monitor(paths, tmp_path, now=lambda: NOW - 2700), scenario, SIZE)
