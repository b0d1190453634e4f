"""The panel of pairwise CKA."""

from __future__ import annotations

from pathlib import Path

import pytest

from simsmoe_cli.monitor.panels.cka import PANEL
from tests.monitor.made_run import EXPERTS, cka_of
from tests.monitor.views import drawn, view_of


def test_the_cursor_shows_the_exact_value_of_a_pair(runs: Path) -> None:
    view = view_of(runs / "first", layer=1, pair=(2, 5))
    assert drawn(PANEL, view)[-2] == "experts 2 and 5: CKA 0.991, 8.69% of tokens shared"
    view = view_of(runs / "first", layer=2, step=1800, pair=(1, 5))
    assert f"experts 1 and 5: CKA {cka_of(2, 1, 5, 1750, 1.0):.3f}" in drawn(PANEL, view)[-2]
    known = [cka_of(2, i, j, 1750, 1.0) or 0 for i in range(EXPERTS) for j in range(i)]
    mean = sum(known) / len(known)
    assert PANEL.draw(view, 78, 20).note == f"layer 5 · step 1,750 · mean {mean:.3f}"


def test_without_a_cursor_the_most_similar_pair_is_told(runs: Path) -> None:
    assert drawn(PANEL, view_of(runs / "first", layer=1))[-2] == "most similar 2 and 5: 0.991"
    assert "newest" in PANEL.draw(view_of(runs / "first"), 78, 20).note


def test_an_undefined_value_is_called_undefined(runs: Path) -> None:
    lines = drawn(PANEL, view_of(runs / "first", layer=3, pair=(6, 1)))
    assert lines[-2].startswith("experts 6 and 1: CKA undefined, ")
    row = next(line for line in lines if line.strip().startswith("6"))
    assert row.count("–") == EXPERTS - 1


def test_every_value_is_printed_where_there_is_room(runs: Path) -> None:
    lines = drawn(PANEL, view_of(runs / "first", layer=2))
    for i in range(EXPERTS):
        row = next(line for line in lines[1:] if line.split()[:1] == [str(i)])
        values = [cka_of(2, i, j, 2000, 1.0) or 0 for j in range(EXPERTS) if j != i]
        assert [float(word) for word in row.replace("·", "").split()[1:]] == pytest.approx(
            values, abs=0.005
        )


def test_several_runs_show_the_same_pair(runs: Path) -> None:
    folders = [runs / name for name in ("first", "second", "third")]
    lines = drawn(PANEL, view_of(*folders, pair=(0, 1)), 100)
    assert all(f"● {folder.name}  step 2,000" in lines[0] for folder in folders)
    values = [cka_of(0, 0, 1, 2000, separate) for separate in (1, 0.2, 0.5)]
    told = lines[-2].split("CKA")[1].split()
    assert told == [part for value in values for part in ("●", f"{value:.3f}")]


def test_a_click_chooses_a_pair_of_a_run_but_no_expert_with_itself(runs: Path) -> None:
    view = view_of(runs / "first", runs / "second")
    assert PANEL.click is not None
    chosen = PANEL.click(view, 1, 3, 5).selection
    assert (chosen.run, chosen.pair) == (1, (3, 5))
    assert PANEL.click(view, 1, 3, 3) == view
    second = PANEL.draw(view, 78, 20).maps[1]
    assert second.run == 1
    x, y = second.layout.position_of(3, 5)
    assert second.layout.cell_at(x, y) == (3, 5)
