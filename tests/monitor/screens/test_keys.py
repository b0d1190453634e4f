"""Every key of the monitor is pressed and does what its help says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from simsmoe_cli.monitor.panels import PANELS
from simsmoe_cli.monitor.panels.panel import Key
from simsmoe_cli.monitor.screens.dashboard import Dashboard
from simsmoe_cli.monitor.screens.help import Help
from simsmoe_cli.monitor.screens.picker import Filter, Picker
from tests.monitor.driving import dashboard, drive, keys_of, monitor, text_of, until

Step = tuple[str, Callable[[Dashboard], Any], Any]


def matrix(field: str) -> Callable[[Dashboard], Any]:
    return lambda screen: getattr(screen.selection.matrix, field)


def smooth(screen: Dashboard) -> object:
    return screen.selection.smooth


def layer(screen: Dashboard) -> int:
    return screen.selection.layer


def step(screen: Dashboard) -> int | None:
    return screen.selection.step


def pair(screen: Dashboard) -> tuple[int, int] | None:
    return screen.selection.pair


def at(screen: Dashboard) -> float | None:
    return screen.selection.at


def expert(screen: Dashboard) -> int | None:
    return screen.selection.expert


def playing(screen: Dashboard) -> bool:
    return screen.playing


def top_line(screen: Dashboard) -> str:
    """First line of the events."""
    return text_of(screen.panels[-1]).split("\n")[0].strip()


def last_line(screen: Dashboard) -> str:
    """The beginning of the last line that was printed."""
    return text_of(screen.panels[-2]).strip().split("\n")[-1][:20]


def first_plot(screen: Dashboard) -> str:
    """Name of the first small plot."""
    return text_of(screen.panels[3]).split("  ")[0].strip()


def ticks(screen: Dashboard) -> str:
    """Numbers beside the score's curves, with the lines they stand in."""
    lines = enumerate(text_of(screen.panels[0]).split("\n"))
    return " ".join(f"{y}:{line.split('┤')[0].strip()}" for y, line in lines if "┤" in line)


# What each panel does with its keys: key, what is looked at after it, and its value. Probes lie at
# steps 0, 250 ... 2000, logged steps at 50, 100 ... 2000.
PROBES: list[Step] = [
    ("down", layer, 1),
    ("down", layer, 2),
    ("up", layer, 1),
    ("left", step, 1750),
    ("left", step, 1500),
    ("right", step, 1750),
    ("right", step, None),
    ("home", step, 0),
    ("end", step, None),
    ("space", playing, True),
    ("space", playing, False),
    ("end", step, None),
]
# In layer 1 experts 2 and 5 stay copies.
PAIRS: list[Step] = [
    *PROBES,
    ("m", pair, (2, 5)),
    ("l", pair, (2, 6)),
    ("h", pair, (2, 5)),
    ("j", pair, (3, 5)),
    ("k", pair, (2, 5)),
    ("shift+right", pair, (2, 6)),
    ("shift+left", pair, (2, 5)),
    ("shift+down", pair, (3, 5)),
    ("shift+down", pair, (4, 5)),
    ("shift+down", pair, (6, 5)),  # over the diagonal
    ("shift+up", pair, (4, 5)),
]
CURSOR: list[Step] = [
    ("right", at, 50.0),
    ("right", at, 100.0),
    ("left", at, 50.0),
    ("shift+right", at, 550.0),
    ("shift+left", at, 50.0),
    ("end", at, 2000.0),
    ("home", at, 50.0),
]
SMOOTH: list[Step] = [("e", smooth, over) for over in (5, 20, 100, 0)]
OF_PANEL: dict[str, list[Step]] = {
    "score": [
        *CURSOR,
        *SMOOTH,
        ("y", ticks, "4:2.25 8:2.20 13:2.15"),
        ("y", ticks, "3:5 6:4 10:3"),
        ("y", ticks, "4:5 7:4 11:3"),
    ],
    "cka": [
        *PAIRS,
        ("c", matrix("clustered"), True),
        ("c", matrix("clustered"), False),
        ("f", matrix("above"), 0.3),
        ("v", matrix("compare"), "probe"),
        ("v", matrix("compare"), ""),
        ("b", matrix("base"), 2000),
        ("p", matrix("listed"), True),
        ("u", matrix("on_shared"), True),
    ],
    "load": [
        *PROBES,
        ("l", expert, 0),
        ("l", expert, 1),
        ("h", expert, 0),
        ("shift+right", expert, 1),
        ("shift+left", expert, 0),
    ],
    "signals": [
        *CURSOR,
        *SMOOTH,
        ("down", first_plot, "balance loss"),
        ("up", first_plot, "tokens/s"),
    ],
    "layers": PROBES,
    "shared": PAIRS,
    "log": [
        ("up", last_line, "step 1950/2000  loss"),
        ("down", last_line, "step 2000/2000  loss"),
        ("k", last_line, "step 1950/2000  loss"),
        ("j", last_line, "step 2000/2000  loss"),
        ("pageup", last_line, "step 1500/2000  loss"),
        ("pagedown", last_line, "step 2000/2000  loss"),
        ("home", last_line, "--- 2023-11-14 22:13"),
        ("end", last_line, "step 2000/2000  loss"),
    ],
    "events": [
        ("down", top_line, "2,000   test 2.250 BPC"),
        ("up", top_line, "2,000 ✓ finished: all steps done"),
        ("j", top_line, "2,000   test 2.250 BPC"),
        ("k", top_line, "2,000 ✓ finished: all steps done"),
        ("end", top_line, "0   training begins, 2,000 steps in all"),
        ("pageup", top_line, ""),
        ("home", top_line, "2,000 ✓ finished: all steps done"),
        ("pagedown", top_line, ""),
    ],
}
NUMBERS = "123456789"[: len(PANELS)]
DASHBOARD = {
    "tab", "shift+tab", *NUMBERS, "z", "enter", "escape", "t", "r", "o", "x",
}  # fmt: skip
PICKER = {"enter", "space", "escape", "slash", "o"}
HELP = {"escape", "f1", "q"}


def test_every_key_of_every_panel_is_pressed() -> None:
    pressed: set[Key] = set()
    for panel in PANELS:
        if panel.id in OF_PANEL:
            keys = {name for key in panel.keys for name in key.keys.split(",")}
            assert keys == {key for key, _, _ in OF_PANEL[panel.id]}, panel.id
            pressed.update(panel.keys)
    assert all(key in pressed for panel in PANELS for key in panel.keys)


@pytest.mark.parametrize("panel", OF_PANEL)
def test_the_keys_of_a_panel(panel: str, runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        number = [other.id for other in PANELS].index(panel)
        await pilot.press(str(number + 1))
        assert screen.focused is screen.panels[number]
        steps = OF_PANEL[panel]
        for position, (key, look, expected) in enumerate(steps):
            await pilot.press(key)
            await pilot.pause()
            if expected != "":
                assert look(screen) == expected, f"key {position}, {key}"

    drive(monitor([runs / "first"], runs), scenario)


def test_the_keys_of_the_dashboard(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pressed: set[str] = set()

    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)

        async def press(key: str) -> None:
            pressed.add(key)
            await pilot.press(key)
            await pilot.pause()

        for number in reversed(NUMBERS):
            await press(number)
            assert screen.focused is screen.panels[int(number) - 1]
            assert screen.focused.display
        await press("tab")
        assert screen.focused is screen.panels[1]
        await press("shift+tab")
        await press("shift+tab")
        assert screen.focused is screen.panels[-1]
        await press("2")
        for key in ("z", "enter"):
            await press(key)
            assert [panel for panel in screen.panels if panel.display] == [screen.panels[1]]
            await press(key)
            assert sum(bool(panel.display) for panel in screen.panels) > 1
        assert not screen.selection.by_time
        await press("t")
        assert screen.selection.by_time
        assert "minutes" in text_of(screen.panels[0])
        await press("r")
        assert screen.selection.run == 1
        await press("r")
        assert screen.selection.run == 0
        await press("x")
        assert screen.messages.told[""].text.startswith("CKA has no curves")
        await pilot.press("1", "x", "2", "escape")
        assert (tmp_path / "score-first-second.csv").read_text().startswith("run,series,step,")
        # escape undoes, one thing at a time
        await pilot.press("left", "m", "z")
        assert screen.selection.pair
        assert screen.selection.step == 1750
        assert screen.zoomed
        await press("escape")
        assert screen.selection.pair is None
        assert screen.selection.step == 1750
        assert screen.zoomed
        await press("escape")
        assert not screen.zoomed
        assert screen.selection.step == 1750
        await press("escape")
        assert screen.selection.step is None
        await press("o")
        assert isinstance(pilot.app.screen, Picker)

    drive(monitor([runs / "first", runs / "second"], runs), scenario, size=(120, 40))
    assert pressed == DASHBOARD == keys_of(Dashboard)


def test_the_keys_of_the_picker(runs: Path) -> None:
    pressed: set[str] = set()

    async def scenario(pilot: Pilot[None]) -> None:
        picker = pilot.app.screen
        assert isinstance(picker, Picker)
        await until(pilot, lambda: len(picker.runs) == 3)

        async def press(key: str) -> None:
            pressed.add(key)
            await pilot.press(key)
            await pilot.pause()

        await press("space")
        assert picker.marked == [picker.runs[0].path]
        await press("space")
        assert len(picker.marked) == 2
        await press("escape")
        assert picker.marked == []
        await press("o")
        assert picker.sorted_by == "name"
        await press("slash")
        assert isinstance(picker.focused, Filter)
        await pilot.press("down")
        assert not isinstance(picker.focused, Filter)
        await pilot.press("up", "space", "space")
        await press("enter")
        assert len(dashboard(pilot).followers) == 2

    drive(monitor([], runs), scenario)
    assert pressed == PICKER == keys_of(Picker)
    assert keys_of(Filter) == {"down", "tab"}


@pytest.mark.parametrize("key", sorted(HELP))
def test_the_keys_of_the_help(runs: Path, key: str) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        await pilot.press("f1")
        assert isinstance(pilot.app.screen, Help)
        await pilot.press(key)
        assert isinstance(pilot.app.screen, Dashboard)

    drive(monitor([runs / "first"], runs), scenario)
    assert keys_of(Help) == HELP
