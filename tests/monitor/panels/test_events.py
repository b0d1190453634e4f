"""The panel of events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simsmoe_cli.monitor.panels.events import PANEL
from tests.monitor.views import drawn, key, view_of


def test_the_newest_comes_first(runs: Path) -> None:
    view = view_of(runs / "first")
    lines = drawn(PANEL, view)
    assert lines[0] == "2,000 ✓ finished: all steps done"
    assert lines[1] == "2,000   test 2.250 BPC"
    assert lines[-1] == "    0   training begins, 2,000 steps in all"
    assert any("▲ layer 5: expert 3 is dead" in line for line in lines)
    assert PANEL.draw(view, 78, 20).note == "14 events, alerts: 1"


def test_keys_scroll_and_stop_at_the_oldest(runs: Path) -> None:
    view = key(PANEL, view_of(runs / "first"), "pagedown")
    assert drawn(PANEL, view)[0] == drawn(PANEL, view_of(runs / "first"))[10]
    assert PANEL.draw(key(PANEL, view, "end"), 78, 20).scroll == 13
    assert key(PANEL, view, "home").scroll == 0


def test_a_long_line_is_wrapped_under_its_words(runs: Path) -> None:
    lines = drawn(PANEL, replace(view_of(runs / "first"), scroll=6), 30)
    at = next(number for number, line in enumerate(lines) if "▲" in line)
    assert lines[at : at + 3] == [
        "1,250 ▲ layer 5: expert 3 is",
        "        dead (under 1% of a",
        "        fair share)",
    ]


def test_events_of_several_runs_are_in_the_order_of_time(runs: Path) -> None:
    lines = drawn(PANEL, view_of(runs / "first", runs / "second"), 78, 40)
    assert all(line.startswith("● ") for line in lines)
    steps = [int(line.split()[1].replace(",", "")) for line in lines]
    assert steps == sorted(steps, reverse=True)
