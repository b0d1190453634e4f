"""Runs side by side, from what their folders say."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from simsmoe_cli.collapse.show.html import write_comparison
from simsmoe_cli.compare.runs import Comparison, check_suffix, compare, table
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run.events import EventLog
from simsmoe_cli.run.folder import RunDir
from tests.train.tiny import recipe


def made_run(folder: Path, bpc: float = 2.0, cka: float = 0.5, **changes: Any) -> RunDir:
    """A run folder of 100 steps as a training would leave it."""
    run = RunDir(folder)
    folder.mkdir(parents=True)
    run.recipe.write_text(dump_recipe(recipe(**changes)), encoding="utf-8")
    log = EventLog(run.events)
    log.emit({"kind": "run_started", "step": 0, "name": folder.name, "total_steps": 100})
    for step in range(10, 101, 10):
        log.emit(
            {
                "kind": "train",
                "step": step,
                "bpc": bpc + 10 / step,
                "loss_nats": 1.0,
                "tokens_per_s": 1000.0 + step,
            }
        )
    log.emit({"kind": "eval", "step": 50, "split": "valid", "bpc": bpc + 0.1, "perplexity": 5.0})
    log.emit({"kind": "eval", "step": 100, "split": "valid", "bpc": bpc + 0.2, "perplexity": 6.0})
    for step in (0, 100):
        layers = [{"layer": 0, "mean": cka + 0.2}, {"layer": 1, "mean": cka - 0.2}]
        log.emit({"kind": "similarity", "step": step, "layers": layers})
        log.emit(
            {
                "kind": "router",
                "step": step,
                "layers": [{"layer": 0, "load_cv": 0.25, "dead": [1, 2]}],
            }
        )
    log.emit(
        {
            "kind": "run_finished",
            "step": 100,
            "status": "finished",
            "test_bpc": bpc,
            "test_loss_nats": 1.0,
        }
    )
    log.close()
    return run


@pytest.fixture
def two(tmp_path: Path) -> Comparison:
    return compare(
        [
            made_run(tmp_path / "a"),
            made_run(tmp_path / "b", 1.9, 0.3, moe={"router": "xmoe"}, train={"lr": 5e-3}),
        ]
    )


def rows(comparison: Comparison) -> dict[str, list[str]]:
    header, *others = table(comparison)
    assert header == ["", *(run.label for run in comparison.runs)]
    return {row[0]: row[1:] for row in others}


def test_the_settings_that_differ_and_no_others(two: Comparison) -> None:
    assert {"moe.router", "train.lr", "xmoe.tau"} <= set(two.differing)
    assert not {"name", "train.seed", "model.width"} & set(two.differing)
    shown = rows(two)
    assert shown["moe.router"] == ["smoe", "xmoe"]
    assert shown["train.lr"][1] == "0.005"
    assert shown["xmoe.tau"][0] == "–"


def test_scores_are_those_of_the_events(two: Comparison) -> None:
    measures = two.runs[0].measures
    assert measures["test_bpc"] == 2.0
    assert measures["valid_bpc"] == 2.1  # the best, not the last
    assert measures["cka"] == pytest.approx(0.5)
    assert measures["cka_worst_layer"] == 0.7
    assert measures["load_cv"] == 0.25
    assert measures["dead_experts"] == 2
    assert measures["tokens_per_s"] == 1055.0
    shown = rows(two)
    assert shown["test BPC"] == ["2.0000", "1.9000*"]
    assert shown["mean CKA, last probe"] == ["0.500", "0.300*"]
    assert shown["dead experts"] == ["2", "2"]
    assert shown["status"] == ["finished, step 100 of 100"] * 2


def test_json_has_what_the_table_shows(two: Comparison) -> None:
    written = json.loads(json.dumps(two.to_json(), allow_nan=False))
    first, second = written["runs"]
    assert first["measures"] == two.runs[0].measures
    assert set(second["settings"]) == set(written["differing_settings"]) == set(two.differing)
    assert first["curves"]["train_bpc"]["steps"] == list(range(10, 101, 10))
    assert first["curves"]["cka"]["values"] == [pytest.approx(0.5)] * 2


def test_a_run_in_training_has_what_it_has(tmp_path: Path) -> None:
    young = made_run(tmp_path / "young")
    lines = young.events.read_bytes().splitlines(keepends=True)
    young.events.write_bytes(b"".join(lines[:4]) + b'{"kind": "tra')
    shown = rows(compare([young, made_run(tmp_path / "old")]))
    assert shown["status"][0] == "in training, step 30 of 100"
    assert shown["test BPC"] == ["–", "2.0000"]
    assert shown["mean CKA, last probe"] == ["–", "0.500"]


def test_events_of_other_shapes_are_no_trouble(tmp_path: Path) -> None:
    odd = made_run(tmp_path / "odd")
    with open(odd.events, "a") as file:
        for event in (
            {"kind": "train", "step": 100, "bpc": None, "tokens_per_s": "fast"},
            {"kind": "similarity", "step": 101, "layers": None},
            {"kind": "router", "step": "x", "layers": [3, {"dead": 4, "load_cv": True}]},
            {"kind": "of the future", "step": 102},
            {"kind": "eval", "split": "valid", "step": 103, "bpc": None},
        ):
            file.write(json.dumps(event) + "\n")
    found = compare([odd, made_run(tmp_path / "plain")]).runs[0]
    assert found.measures["valid_bpc"] == 2.1
    assert found.curves["train_bpc"].values[-1] is None
    assert found.measures["cka"] is None
    assert found.step == 103


def test_tokens_that_are_no_characters_have_a_perplexity(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name) for name in "ab"]
    for run in runs:
        events = [json.loads(line) for line in run.events.read_text().splitlines()]
        for event in events:
            for name in ("bpc", "test_bpc"):
                if name in event:
                    event[name] = None
        run.events.write_text("".join(json.dumps(event) + "\n" for event in events))
    shown = rows(compare(runs))
    assert "test BPC" not in shown
    assert shown["best validation perplexity"] == ["5.00", "5.00"]
    assert shown["test perplexity"] == [f"{math.e:.2f}"] * 2


def test_what_must_be_known_before_comparing(tmp_path: Path) -> None:
    same = compare([made_run(tmp_path / name) for name in "ab"])
    assert same.differing == ()
    assert any("one seed each" in note for note in same.notes)
    other = compare(
        [
            made_run(tmp_path / "c"),
            made_run(tmp_path / "d", data={"corpus": "another"}, train={"seed": 1}),
        ]
    )
    assert any("corpora" in note for note in other.notes)
    assert not any("one seed" in note for note in other.notes)


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / place / "run") for place in ("here", "there")]
    assert [run.label for run in compare(runs).runs] == ["here/run", "there/run"]


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    run = made_run(tmp_path / "a")
    with pytest.raises(UserError, match="two or more") as caught:
        compare([run])
    assert caught.value.code == EXIT_USAGE
    with pytest.raises(UserError, match="given twice"):
        compare([run, RunDir(tmp_path / "." / "a")])
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"it has no recipe.yaml") as caught:
        compare([run, RunDir(tmp_path / "none")])
    assert caught.value.code == EXIT_DATA


def test_as_a_page_and_as_curves(two: Comparison, tmp_path: Path) -> None:
    class Words(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def handle_data(self, data: str) -> None:
            self.found.append(data.strip())

    write_comparison(two, tmp_path / "out" / "page.html")
    words = Words()
    words.feed((tmp_path / "out" / "page.html").read_text())
    for row in table(two):
        for cell in filter(None, row):
            assert cell in words.found
    write_comparison(two, tmp_path / "curves.svg")
    ElementTree.fromstring((tmp_path / "curves.svg").read_bytes())
    write_comparison(two, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".report-*"))
    with pytest.raises(UserError, match=r"unknown suffix '.htm'. Did you mean '.html'"):
        check_suffix(Path("page.htm"))


def test_runs_without_curves_have_a_page_all_the_same(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name) for name in "ab"]
    for run in runs:
        run.events.write_text("")
    nothing = compare(runs)
    assert rows(nothing)["status"] == ["in training, step 0"] * 2
    write_comparison(nothing, tmp_path / "page.html")
    assert "<svg" not in (tmp_path / "page.html").read_text()
    with pytest.raises(UserError, match="no curves yet"):
        write_comparison(nothing, tmp_path / "curves.svg")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: run.recipe.write_bytes(b"\x00" * 100), "not valid YAML"),
        (lambda run: run.recipe.write_text("[" * 5000), "nested too deeply"),
        (lambda run: run.recipe.write_text("nonsense: 1\nmore: 2\n"), "2 problems in recipe"),
        (lambda run: run.recipe.unlink(), "it has no recipe.yaml"),
        (lambda run: run.events.unlink(), "it has no events.jsonl"),
    ],
)
def test_a_run_that_cannot_be_read_is_left_out(tmp_path: Path, damage: Any, said: str) -> None:
    whole = [made_run(tmp_path / "a"), made_run(tmp_path / "b", 1.9)]
    broken = made_run(tmp_path / "broken")
    damage(broken)
    comparison = compare([whole[0], broken, whole[1]])
    assert [run.label for run in comparison.runs] == ["a", "b"]
    assert comparison.notes[0].startswith("left out: ")
    assert str(tmp_path) not in comparison.notes[0]
    assert said in comparison.notes[0]
    with pytest.raises(UserError, match=said) as caught:
        compare([whole[0], broken])
    assert caught.value.code == EXIT_DATA
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"kind": "train", "step": 1' + "0" * 400 + ', "bpc": 1' + "0" * 400 + "}",
        '{"kind": "train", "step": true, "bpc": true}',
        '{"kind": ["train"], "step": 5}',
        '{"kind": "similarity", "step": 7, "layers": [{"mean": 1e308}, {"mean": 1e308}]}',
        '{"kind": "similarity", "step": 7, "layers": 3}',
        '{"kind": "router", "step": 7, "layers": [{"dead": 3, "load_cv": "x"}]}',
        '{"kind": "run_finished", "step": 100, "status": "\\u001b[31m", "test_bpc": "x"}',
        '{"kind": "run_started", "step": 100, "total_steps": 1' + "0" * 400 + "}",
        "\x00\xff",
    ],
)
def test_events_that_make_no_sense_are_unknown(tmp_path: Path, line: str) -> None:
    runs = [made_run(tmp_path / "a"), made_run(tmp_path / "b", 1.9)]
    with open(runs[0].events, "a", encoding="latin-1") as file:
        file.write(f"{line}\n")
    comparison = compare(runs)
    assert comparison.runs[0].step in (5, 7, 100)
    json.dumps(comparison.to_json(), allow_nan=False)
    assert all(len(cell) < 100 for row in table(comparison) for cell in row)
