"""The panel of small plots. The made run has twelve signals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simsmoe_cli.monitor.panels.signals import PANEL
from tests.monitor.views import drawn, key, view_of


def test_the_newest_value_is_beside_each_name(runs: Path) -> None:
    view = view_of(runs / "first")
    text = "\n".join(drawn(PANEL, view, 98, PANEL.height(view, 98)))
    for words in (
        "tokens/s  8,931",
        "learning rate  1.2e-04",
        "gradient norm  0.5633",
        "balance loss  1.201",
        "z loss  0.1200",
        "mean CKA  0.2344",
        "load CV  0.4576",
        "similarity of due",
        "pairs due per step",
        "ms per step  214.3",
        "CPU, % of a core  198.0",
        "memory, MB  832.0",
    ):
        assert words in text, words
    assert PANEL.draw(view, 98, PANEL.height(view, 98)).note == ""


def test_with_a_cursor_it_is_the_value_there(runs: Path) -> None:
    assert "balance loss  1.389" in "\n".join(drawn(PANEL, view_of(runs / "first", at=500.0)))


def test_keys_scroll_to_the_signals_that_do_not_fit(runs: Path) -> None:
    view = view_of(runs / "first")
    assert PANEL.draw(view, 46, 14).note == "1–4 of 12"
    view = key(PANEL, view, "down")
    assert PANEL.draw(view, 46, 14).note == "3–6 of 12"
    assert drawn(PANEL, view, 46, 14)[0].startswith("gradient norm")
    assert key(PANEL, key(PANEL, view, "up"), "up").scroll == 0
    assert PANEL.draw(replace(view, scroll=99), 46, 14).scroll == 4


def test_several_runs_have_their_values_in_order(runs: Path) -> None:
    view = view_of(runs / "first", runs / "second")
    first, second = (run.history.last("cka") for run in view.runs)
    lines = drawn(PANEL, view, 98, 30)
    assert any(f"mean CKA  {first:.3f} {second:.3f}" in line for line in lines)


def test_values_that_do_not_fit_go_on_in_another_line(runs: Path) -> None:
    view = view_of(*[runs / name for name in ("first", "second", "third")] * 2)
    lines = "\n".join(drawn(PANEL, view, 22, 80)).split("\n")
    at = next(row for row, line in enumerate(lines) if line.startswith("tokens/s"))
    assert " ".join(lines[at : at + 3]).split()[:7] == ["tokens/s"] + ["8,931"] * 6
