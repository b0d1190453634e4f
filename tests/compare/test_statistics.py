"""Runs side by side: what differs, and what to know before comparing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.compare.statistics import Comparison, compare
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError
from simsmoe_cli.run.event_log import EventLog
from simsmoe_cli.run.folder import RunDir
from tests.compare.made_runs import made_run, rows


def test_the_settings_that_differ_and_no_others(two: Comparison) -> None:
    assert {"moe.router", "train.lr", "xmoe.tau"} <= set(two.differing)
    assert not {"name", "train.seed", "model.width"} & set(two.differing)
    shown = rows(two)
    assert shown["moe.router"] == ["smoe", "xmoe"]
    assert shown["train.lr"][1] == "0.005"
    assert shown["xmoe.tau"][0] == "–"


def test_what_must_be_known_before_comparing(tmp_path: Path) -> None:
    same = compare([made_run(tmp_path / name) for name in "ab"])
    assert same.differing == ()
    assert any("the same seed" in note for note in same.notes)
    other = compare(
        [
            made_run(tmp_path / "c"),
            made_run(tmp_path / "d", data={"corpus": "another"}, train={"seed": 1}),
        ]
    )
    assert any("corpora" in note for note in other.notes)
    assert not any("the same seed" in note for note in other.notes)


@pytest.mark.parametrize("split", ["test", "valid"])
def test_scores_of_different_amounts_of_text_have_no_best(tmp_path: Path, split: str) -> None:
    """A quarter of the test split may be easier than all of it."""
    runs = [made_run(tmp_path / name, bpc) for name, bpc in (("a", 2.0), ("b", 1.9))]
    measure = {"test": "test BPC", "valid": "best validation BPC"}[split]

    def scored_on(run: RunDir, tokens: int) -> None:
        log = EventLog(run.events, keep_bytes=run.events.stat().st_size)
        log.emit({"kind": "eval", "step": 100, "split": split, "bpc": 9.0, "tokens": tokens})
        log.close()

    scored_on(runs[0], 204_800)
    scored_on(runs[1], 204_900)  # another block length leaves out another end
    same = compare(runs)
    assert rows(same)[measure][1].endswith("*")
    assert not any("amounts" in note for note in same.notes)
    scored_on(runs[1], 793_778)
    other = compare(runs)
    assert any("(204,800 and 793,778 tokens), so none is called" in note for note in other.notes)
    assert not any("*" in cell for cell in rows(other)[measure])
    assert rows(other)["tokens/s, median"] == rows(same)["tokens/s, median"]
    assert other.to_json()["runs"][1]["scored"] == {split: 793_778}


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
