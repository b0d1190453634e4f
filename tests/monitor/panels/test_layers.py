"""The panel of similarity by layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simsmoe_cli.monitor.panels.layers import PANEL
from simsmoe_cli.monitor.state.alerts import Thresholds
from tests.monitor.made_run import event, write_run
from tests.monitor.views import drawn, view_of


def test_each_layer_has_a_bar_as_long_as_its_mean(runs: Path) -> None:
    lines = drawn(PANEL, view_of(runs / "first", layer=1))[1:5]
    assert [line[:9] for line in lines] == [" layer 1 ", "›layer 3 ", " layer 5 ", " layer 7 "]
    means = [float(line.split()[-2]) for line in lines]
    assert means == [0.67, 0.21, 0.05, 0.01]
    room = lines[0].count("█") / 0.67
    assert [line.count("█") for line in lines] == pytest.approx([m * room for m in means], abs=1)


def test_what_is_below_is_the_chosen_layer_at_the_chosen_probe(runs: Path) -> None:
    picture = PANEL.draw(view_of(runs / "first", layer=1, step=250), 78, 20)
    assert picture.note.startswith("step 250 · layer 3: 0.5")


def test_a_mean_above_its_threshold_is_marked(tmp_path: Path) -> None:
    view = view_of(write_run(tmp_path / "run"))
    view.chosen.thresholds = Thresholds(cka_above=0.5)
    first, second = PANEL.draw(view, 78, 20).lines[1:3]
    assert " 0.67▲" in first.plain
    assert "▲" not in second.plain
    # The bar keeps the colour of its run, and the threshold is a line across it.
    room = second.plain.index("  0.21") - second.plain.index("█")
    for line in (first, second):
        at = line.plain.index("│")
        assert at - line.plain.index("█") == round(0.5 * room)
        assert not any(
            str(span.style) == view.palette.error for span in line.spans if span.start < at
        )


def test_many_layers_are_a_curve(tmp_path: Path) -> None:
    layers = [{"layer": n, "cka": [[1, 0.5], [0.5, 1]], "mean": 0.5} for n in range(40)]
    (tmp_path / "events.jsonl").write_text(json.dumps(event("similarity", 5, layers=layers)) + "\n")
    lines = drawn(PANEL, view_of(tmp_path))
    assert lines[0] == "mean CKA"
    assert lines[-1].endswith("layer")
