"""What a run folder says of its run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from simsmoe_cli.compare.show import table
from simsmoe_cli.compare.statistics import Comparison, compare
from tests.compare.made_runs import made_run, rows


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
