"""Curves as CSV."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from simsmoe_cli.monitor.csv_file import csv_text, save, saved
from simsmoe_cli.monitor.panels import PANELS
from tests.monitor.made_run import STEP_S, score
from tests.monitor.views import view_of


def test_a_line_for_each_point_of_each_run(runs: Path) -> None:
    view = view_of(runs / "first", runs / "second")
    rows = list(csv.DictReader(csv_text(view, ["train", "valid"]).splitlines()))
    trained = [row for row in rows if (row["run"], row["series"]) == ("second", "train")]
    assert [int(row["step"]) for row in trained] == list(range(50, 2001, 50))
    for row in trained:
        step = int(row["step"])
        assert float(row["value"]) == pytest.approx(score(step, 0.2), abs=1e-4)
        assert float(row["seconds"]) == (step - 50) * STEP_S
    assert {row["series"] for row in rows} == {"train", "valid"}


def test_every_panel_of_curves_has_series_that_exist(runs: Path) -> None:
    view = view_of(runs / "first")
    of_panel = {panel.id: panel.series(view) for panel in PANELS if panel.series is not None}
    assert of_panel["layers"] == ["cka", "cka.0", "cka.1", "cka.2", "cka.3"]
    assert set(of_panel) == {"score", "load", "signals", "layers"}
    for series in of_panel.values():
        assert set(series) <= set(view.chosen.series)


def test_a_file_that_is_there_is_kept(runs: Path, tmp_path: Path) -> None:
    view = view_of(runs / "first")
    first, second = (save(view, ["train"], "score", tmp_path) for _ in range(2))
    assert (first.name, second.name) == ("score-first.csv", "score-first-2.csv")
    assert first.read_text() == second.read_text()


def test_what_cannot_be_saved_is_told(runs: Path, tmp_path: Path) -> None:
    view = view_of(runs / "first")
    panels = {panel.id: panel for panel in PANELS}
    assert saved(view, panels["cka"], tmp_path) == ("warning", "CKA has no curves to save")
    severity, words = saved(view, panels["score"], tmp_path / "nowhere")
    assert severity == "error"
    assert words == "the curves were not saved: No such file or directory"
