"""The panel of the router's load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from simsmoe_cli.monitor.draw.palette import PRINTED
from simsmoe_cli.monitor.panels.load import PANEL
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.monitor.view import Selection, ShownRun, View
from tests.monitor.made_run import event
from tests.monitor.views import drawn, key, view_of


def loaded(layers: list[dict[str, Any]], **selection: Any) -> View:
    """A view of a run with one probe of its router."""
    history = RunHistory(Path("run"))
    history.apply([event("router", 5, layers=layers)])
    return View((ShownRun(history),), Selection(**selection), PRINTED, 0.0)


def test_dead_experts_and_cv_are_beside_the_loads(runs: Path) -> None:
    lines = drawn(PANEL, view_of(runs / "first", layer=2))
    row = next(line for line in lines if line.strip().startswith("›5"))
    assert "×" in row
    assert row.endswith(" 3")
    assert "layer 5: CV 0.612, entropy 1.90 nats, 1 dead: 3" in lines
    before = drawn(PANEL, view_of(runs / "first", layer=2, step=0))
    assert not any("×" in line for line in before)


def test_the_cursor_shows_the_load_of_an_expert(runs: Path) -> None:
    view = view_of(runs / "first", layer=2)
    for name in ("l", "l", "shift+right", "l", "h", "l"):
        view = key(PANEL, view, name)
    assert view.selection.expert == 3
    assert "layer 5: expert 3 has 0.00% of the slots, 0.000 of a fair share" in drawn(PANEL, view)
    for _ in range(9):
        view = key(PANEL, view, "l")
    assert view.selection.expert == 7


def test_a_click_chooses_a_layer_and_an_expert(runs: Path) -> None:
    assert PANEL.click is not None
    chosen = PANEL.click(view_of(runs / "first"), 0, 2, 3).selection
    assert (chosen.layer, chosen.expert) == (2, 3)


def test_loads_of_many_layers_keep_their_cv_and_dead() -> None:
    """Two layers share a line, which tells the worse CV; the detail is of the chosen layer."""
    layers = [
        {
            "layer": layer,
            "load": [0.5, 0.5, 0.0] if layer == 17 else [0.4, 0.3, 0.3],
            "load_cv": 0.7 if layer == 17 else 0.2 if layer % 2 else 0.1,
            "dead": [2] if layer == 17 else [],
            "entropy_nats": 1.0,
            "entropy_of_mean_nats": 1.0,
        }
        for layer in range(30)
    ]
    view = loaded(layers)
    for layer in range(30):
        lines = drawn(PANEL, view.choose(layer=layer), 76, 24)
        assert "max CV" in lines[0]
        chosen = next(line for line in lines if line.strip().startswith(f"›{layer} "))
        assert ("0.70 1×" if layer in (16, 17) else "0.20") in chosen
        dead, cv = ("1 dead: 2", "0.700") if layer == 17 else ("none dead", "")
        detail = next(line for line in lines if line.startswith(f"layer {layer}: CV {cv}"))
        assert dead in detail


def test_without_colours_no_two_layers_share_a_line() -> None:
    layers = [{"layer": n, "load": [0.5, 0.5], "load_cv": n / 100, "dead": []} for n in range(20)]
    view = replace(loaded(layers), color=False)
    lines = drawn(PANEL, view, 76, PANEL.height(view, 76))
    assert [line.split()[-1] for line in lines[1:21]] == [f"{n / 100:.2f}" for n in range(20)]


def test_a_heading_is_apart_from_the_number_of_the_last_expert() -> None:
    layers = [{"layer": n, "load": [1 / 64] * 64, "load_cv": 0.4, "dead": []} for n in range(30)]
    head, first, *_ = drawn(PANEL, loaded(layers), 76, 18)
    *_, last, max_, cv, dead = head.split()
    assert (int(last) < 64, max_, cv, dead) == (True, "max", "CV", "dead")
    assert head.index("CV") + len("CV") == first.index("0.40") + len("0.40")
