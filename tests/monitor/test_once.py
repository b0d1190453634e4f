"""The static picture has all panels, at any width, in colour and without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.text import Text

from simsmoe_cli.monitor import once
from simsmoe_cli.monitor.json_snapshot import read
from simsmoe_cli.monitor.once import picture
from simsmoe_cli.monitor.panels import PANELS
from simsmoe_cli.monitor.panels.panel import Panel, Picture
from simsmoe_cli.monitor.view import View
from tests.monitor.made_run import BEGAN, STEP_S, event, write_run

NOW = BEGAN + STEP_S * 2000


def text(path: Path, width: int = 100, *more: Path, now: float = NOW) -> str:
    lines = picture([read(p, now=now) for p in (path, *more)], width, color=False, now=now)
    return "\n".join(line.plain for line in lines)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "made")


def test_the_picture_has_every_panel(made: Path) -> None:
    seen = text(made)
    for words in (
        "made  finished",
        "100% · step 2,000/2,000",
        "quickstart · smoe · similarity calibrated · 3.21 M parameters · cpu fp32",
        "BPC: train 2.150  valid 2.208  best 2.208",
        "test 2.250",
        "tokens/s  8,931",
        "learning rate  1.2e-04",
        "gradient norm  0.5633",
        "balance loss  1.201",
        "z loss  0.1200",
        "mean CKA  0.2344",
        "layer 1 ",
        "layer 3, experts 2 and 5: CKA 0.99",
        "28 of 28 pairs defined",
        "✓ finished: all steps done",
        *(panel.title for panel in PANELS),
    ):
        assert words in seen, words
    load = seen[seen.index("Router load") :].split("\n")
    assert any(line.rstrip().endswith("0.61 3") for line in load)


def test_a_new_panel_is_printed_too(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(view: View, width: int, height: int) -> Picture:
        return Picture([Text(f"{view.chosen.name} has a new panel")])

    new = Panel("new", "A new panel", "New", "It is new.", draw)
    monkeypatch.setattr(once, "PANELS", (*PANELS, new))
    assert "── A new panel ─" in text(made)
    assert "made has a new panel" in text(made)


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_no_line_is_wider_than_asked_for(made: Path, width: int) -> None:
    for color in (True, False):
        lines = picture([read(made)], width, color=color, now=NOW)
        assert max(line.cell_len for line in lines) <= width


def test_the_layer_shown_has_the_most_similar_experts(made: Path) -> None:
    assert "── Pairwise CKA · layer 1 " in text(made)


def test_undefined_values_are_shown_as_undefined(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    layers = [{"layer": 0, "cka": [[1, None], [None, 1]], "mean": None, "shared": [[0, 0], [0, 0]]}]
    probe = event("similarity", 1, layers=layers) | {"schema": 1}
    events = [event("train", 1, loss_nats=None), probe]
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    seen = text(folder)
    assert "nan" not in seen
    assert "mean CKA  –" in seen
    assert "r undefined  rho undefined" in seen
    assert "the loss is not finite" in seen


def test_several_runs_share_the_curves(made: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", until=1000, finished=False, separate=0.1)
    seen = text(made, 120, other, now=NOW + 3600)
    assert seen.count("bits per byte") == 1
    assert "to first" in seen
    assert "*  other" in seen
    assert "other  stale, no event for 1 h 33 min" in seen
    assert "50% · step 1,000/2,000" in seen


def test_layers_of_a_run_without_a_pattern_have_their_places(made: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(made, tmp_path / "old"))
    lines = (made / "events.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    del first["recipe"]["model"]
    (old / "events.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    seen = text(old)
    assert "── Pairwise CKA · layer 0 " in seen
    assert "layer 1, experts 2 and 5: CKA 0.99" in seen


def test_a_run_without_events_says_so(tmp_path: Path) -> None:
    (tmp_path / "soon").mkdir()
    assert "soon  waiting" in text(tmp_path / "soon")
    assert "Waiting for soon: there are no events in" in text(tmp_path / "soon")


def test_events_that_cannot_be_read_are_not_taken_for_none_yet(tmp_path: Path) -> None:
    (tmp_path / "run" / "events.jsonl").mkdir(parents=True)
    assert "events.jsonl cannot be read: it is not a regular file" in text(tmp_path / "run")
