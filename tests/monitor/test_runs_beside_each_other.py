"""What is shown of runs that were resumed, fine-tuned, have one name, or differ in kind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from textual.pilot import Pilot

from simsmoe_cli.cli.main import run
from simsmoe_cli.compare.read import read_run
from simsmoe_cli.monitor.panels import cka
from simsmoe_cli.monitor.panels.score_legend import _to_first
from simsmoe_cli.monitor.screens.picker import _fit
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.monitor.state.runs import find_runs
from simsmoe_cli.run.folder import RunDir
from tests.monitor.driving import dashboard, drive, monitor, text_of
from tests.monitor.made_run import event, train_event, write_run
from tests.monitor.views import key, view_of


def write(folder: Path, found: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found))
    return folder


def test_the_score_of_a_task_without_published_test_labels_is_its_test_score(
    tmp_path: Path,
) -> None:
    scored = event("eval", 10, split="dev", loss_nats=0.5, accuracy=0.875, examples=872)
    run_folder = write(
        tmp_path / "tuned",
        [
            event("run_started", 0, name="tuned", total_steps=10, unit="text"),
            event("train", 10, loss_nats=0.6, accuracy=0.8),
            scored,
            event("run_finished", 10, status="finished", test_accuracy=0.875),
        ],
    )
    history = RunHistory(run_folder)
    lines = (run_folder / "events.jsonl").read_text().splitlines()
    history.apply(json.loads(line) for line in lines)
    assert history.test_score == 0.875
    (row,) = find_runs(tmp_path)
    assert row.test_score == 0.875


def test_a_long_run_that_was_resumed_is_listed_with_its_new_length(tmp_path: Path) -> None:
    found = [event("run_started", 0, name="long", total_steps=1000)]
    found += [train_event(step, 1.0) for step in range(50, 1001, 50)]
    found += [event("run_started", 1000, name="long", total_steps=90_000)]
    found += [train_event(step, 1.0) for step in range(1050, 60_001, 50)]
    write(tmp_path / "long", found)
    assert (tmp_path / "long/events.jsonl").stat().st_size > 3 * (64 << 10)
    (row,) = find_runs(tmp_path)
    assert (row.step, row.total_steps) == (60_000, 90_000)


def test_every_tab_is_reached_by_a_click_beside_several_panels(runs: Path) -> None:
    async def scenario(pilot: Pilot[None]) -> None:
        screen = dashboard(pilot)
        for number, panel in enumerate(screen.panels, 1):
            place = text_of(screen.tabs).index(f" {number} ") + 2
            await pilot.click("#tabs", offset=(place, 0))
            await pilot.pause()
            assert screen.focused is panel
            assert sum(shown.display for shown in screen.panels) > 1

    drive(monitor([runs / "first"], runs), scenario, size=(100, 40))


def validated(*steps: int, bpc: bool = True) -> list[dict[str, Any]]:
    score = "bpc" if bpc else "accuracy"
    return [
        event("run_started", 0, name="r", total_steps=2000, unit="byte" if bpc else "text"),
        *(event("eval", s, split="valid", loss_nats=1.0, **{score: 1 + s / 1000}) for s in steps),
    ]


def test_the_difference_to_the_first_run_is_at_the_last_step_that_both_have(
    tmp_path: Path,
) -> None:
    first = write(tmp_path / "first", validated(500, 1000, 1500))
    second = write(tmp_path / "second", validated(500, 1200, 1600))
    third = write(tmp_path / "third", validated(700, 1400))
    tuned = write(tmp_path / "tuned", validated(500, 1000, bpc=False))
    view = view_of(first, second, third, tuned)
    assert _to_first(view, 1) == 0  # both at 500
    assert math.isnan(_to_first(view, 2))
    assert math.isnan(_to_first(view, 3))  # an accuracy


def test_a_matrix_is_compared_with_the_first_run_s_probe_of_that_time(tmp_path: Path) -> None:
    write_run(tmp_path / "first", until=2000)
    write_run(tmp_path / "second", until=500, separate=2.0)
    view = view_of(tmp_path / "first", tmp_path / "second", run=1, layer=0)
    title = ""
    for _ in range(2):
        view = key(cka.PANEL, view, "v")
        title = cka.PANEL.draw(view, 78, 20).title
    assert title.endswith("minus first")
    write_run(tmp_path / "short", until=250, separate=2.0, finished=False)
    view = view_of(tmp_path / "short", tmp_path / "second", run=1, layer=0)
    for _ in range(2):
        view = key(cka.PANEL, view, "v")
    assert cka.PANEL.draw(view, 78, 20).title.endswith("minus short at step 250")


def test_runs_of_one_name_are_shown_with_more_of_their_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for machine in ("a", "b"):
        write_run(tmp_path / machine / "plain")
    folders = [str(tmp_path / machine / "plain") for machine in ("a", "b")]
    again = str(tmp_path / "a" / ".." / "a" / "plain")
    assert run(["monitor", *folders, again, "--json"]) == 0
    names = [one["name"] for one in json.loads(capsys.readouterr().out)["runs"]]
    assert names == ["a/plain", "b/plain"]


def test_one_picture_names_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"run-{number:02}" for number in range(14)]
    for name in names:
        write_run(tmp_path / name, until=250, total=250)
    assert run(["monitor", *names, "--once", "--runs-dir", str(tmp_path)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "validation" not in line]
    for name in names:
        assert any(name in row and "–" not in row and "." in row for row in rows)


def test_names_in_wide_characters_keep_their_ends(tmp_path: Path) -> None:
    assert cell_len(_fit("实验一", 10)) == cell_len(_fit("plain", 10)) == 10
    assert cell_len(_fit("实验一和二", 6)) == 6
    for name in ("实验一", "实验二"):
        write_run(tmp_path / name, until=250, total=250)

    async def scenario(pilot: Pilot[None]) -> None:
        shown = text_of(dashboard(pilot).panels[0])
        assert "实验一" in shown
        assert "实验二" in shown

    drive(monitor([tmp_path / "实验一", tmp_path / "实验二"], tmp_path), scenario, size=(120, 40))


def test_a_resumed_attached_run_is_in_training_again(tmp_path: Path) -> None:
    found = [
        event("run_started", 0, name="own", total_steps=20, model="Own", recipe={}),
        event("train", 10, loss_nats=1.0),
        event("run_finished", 10, status="finished", reason="detached"),
    ]
    folder = write(tmp_path / "own", found)
    assert read_run(RunDir(folder), "own").status == "finished"
    with open(folder / "events.jsonl", "a") as file:
        file.write(json.dumps(event("train", 11, loss_nats=1.0)) + "\n")
    assert read_run(RunDir(folder), "own").status == "in training"


def test_an_attached_model_s_own_layer_numbers_are_shown(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    started = event("run_started", 0, name="own", recipe={}, layer_labels=["1", "2"])
    history.apply([started])  # type: ignore[list-item]
    assert [history.label(layer) for layer in range(3)] == ["1", "2", "2"]


def test_a_sweep_takes_no_thresholds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weight").mkdir()
    (tmp_path / "weight/sweep.json").write_text('{"schema": 1, "results": "results.json"}')
    for flag, value in (("--cka-above", "0.5"), ("--load-cv-above", "2"), ("--silent-after", "9")):
        given = ["monitor", "weight", "--runs-dir", str(tmp_path), "--once", flag, value]
        assert run(given) == 2
        assert f"{flag}: a sweep has no alerts" in capsys.readouterr().err
