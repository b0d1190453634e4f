"""The panel of the router's load."""

from __future__ import annotations

import json
from pathlib import Path

from textual.pilot import Pilot

from tests.monitor.driving import dashboard, drive, monitor, text_of
from tests.monitor.made_run import write_run


def test_dead_experts_and_cv_stand_beside_the_loads(tmp_path: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        await pilot.press("3", "down", "down")
        await pilot.pause()
        load = text_of(screen.panels[2])
        row = next(line for line in load.split("\n") if line.strip().startswith("›5"))
        assert "×" in row
        assert row.endswith(" 3")
        assert "layer 5: CV 0.612, dead 3, " in load
        await pilot.press("home")
        await pilot.pause()
        assert "×" not in text_of(screen.panels[2])

    drive(monitor([write_run(tmp_path / "first")], tmp_path), scenario)


def test_loads_of_many_layers_keep_their_cv_and_dead(tmp_path: Path) -> None:
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
    folder = tmp_path / "deep"
    folder.mkdir()
    event = {"schema": 1, "kind": "router", "step": 5, "time": 1.0, "layers": layers}
    (folder / "events.jsonl").write_text(json.dumps(event) + "\n")

    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        await pilot.press("3")
        for layer in range(30):
            await pilot.pause()
            lines = text_of(screen.panels[2]).split("\n")
            assert "max CV" in lines[0]
            chosen = next(line for line in lines if line.strip().startswith(f"›{layer} "))
            assert ("0.70 1×" if layer in (16, 17) else "0.20") in chosen
            dead, cv = ("dead 2", "0.700") if layer == 17 else ("none dead", "")
            detail = next(line for line in lines if line.startswith(f"layer {layer}: CV {cv}"))
            assert dead in detail
            await pilot.press("down")

    drive(monitor([folder], tmp_path), scenario, size=(80, 30))


def test_a_heading_stands_apart_from_the_number_of_the_last_expert(tmp_path: Path) -> None:
    layers = [{"layer": n, "load": [1 / 64] * 64, "load_cv": 0.4, "dead": []} for n in range(30)]
    folder = tmp_path / "wide"
    folder.mkdir()
    event = {"schema": 1, "kind": "router", "step": 5, "time": 1.0, "layers": layers}
    (folder / "events.jsonl").write_text(json.dumps(event) + "\n")

    async def scenario(pilot: Pilot[None]) -> None:
        await pilot.press("3")
        await pilot.pause()
        head, first, *_ = text_of(dashboard(pilot).panels[2]).split("\n")
        assert head.split()[-4:] == ["60", "max", "CV", "dead"]
        assert head.index("CV") + len("CV") == first.index("0.40") + len("0.40")

    drive(monitor([folder], tmp_path), scenario, size=(80, 24))
