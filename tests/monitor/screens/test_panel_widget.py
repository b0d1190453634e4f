"""A panel on the screen: its frame, its keys, clicks on it."""

from __future__ import annotations

from pathlib import Path

from textual.pilot import Pilot

from tests.monitor.driving import dashboard, drive, monitor, text_of
from tests.monitor.made_run import EXPERTS, cka_of


def test_a_click_chooses_a_cell(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        await pilot.press("2")
        await pilot.pause()
        lines = text_of(screen.panels[1]).split("\n")
        row = next(y for y, line in enumerate(lines) if line.strip().startswith("3"))
        column = lines[0].index("5")
        await pilot.click("#cka", offset=(column + 2, row + 1))
        await pilot.pause()
        assert screen.selection.pair == (3, 5)
        await pilot.press("3")
        await pilot.pause()
        load = screen.panels[2]
        lines = text_of(load).split("\n")
        row = next(y for y, line in enumerate(lines) if line.strip().startswith("5 "))
        await pilot.click("#load", offset=(lines[0].index("3") + 2, row + 1))
        await pilot.pause()
        assert (screen.selection.layer, screen.selection.expert) == (2, 3)
        assert "layer 5: expert 3 has 0.00% of the slots" in text_of(load)

    drive(monitor([runs / "first"], runs), scenario)


def test_the_cursor_on_a_pair_tells_its_exact_value(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        await pilot.press("2", "down", "m")
        await pilot.pause()
        assert "experts 2 and 5: CKA 0.991" in text_of(screen.panels[1])
        await pilot.press("left", "down", "k")
        await pilot.pause()
        row, column = screen.selection.pair or (0, 0)
        value = cka_of(2, row, column, 1750, 1.0)
        assert f"experts {row} and {column}: CKA {value:.3f}" in text_of(screen.panels[1])
        known = [cka_of(2, i, j, 1750, 1.0) or 0 for i in range(EXPERTS) for j in range(i)]
        mean = sum(known) / len(known)
        assert screen.panels[1].picture.note == f"layer 5 · step 1,750 · mean {mean:.3f}"

    drive(monitor([runs / "first"], runs), scenario)
