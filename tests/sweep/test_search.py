"""A search by optuna: ranges, trials that are given up, and a study that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.cli.main import run
from simsmoe_cli.errors import EXIT_USAGE, UserError
from simsmoe_cli.sweep import search as searching
from simsmoe_cli.sweep.definition import definition_of
from simsmoe_cli.sweep.search import Range, open_study, parse_range, search, trials
from simsmoe_cli.sweep.training import Machine
from tests.sweep.test_sweep import DEFINITION
from tests.train.huggingface_folders import chosen_by

LR = "train.lr"
RANGES = {LR: Range(1e-9, 1e-2)}
TINY = definition_of(DEFINITION | {"grids": [{}], "baseline": {}}, "test")


def test_ranges() -> None:
    assert parse_range("0.001..0.1") == Range(0.001, 0.1)
    assert parse_range("0.001..0.1").logarithmic  # type: ignore[union-attr]
    whole = parse_range("2..8")
    assert whole == Range(2, 8)
    assert (whole.whole, whole.logarithmic) == (True, False)
    number, whole_ends = parse_range("0..1"), parse_range("2.0..8.0")
    assert number is not None
    assert not number.of_type("number or schedule", "similarity.threshold").whole
    assert whole_ends is not None
    assert whole_ends.of_type("whole number", "moe.experts") == Range(2, 8)
    with pytest.raises(UserError, match="takes whole numbers"):
        Range(0.1, 2.0).of_type("whole number", "moe.experts")
    assert parse_range("smoe,xmoe") is None
    assert parse_range("a..b") is None
    with pytest.raises(UserError, match="lower end first"):
        parse_range("8..2")


def test_a_hopeless_trial_is_given_up_and_the_study_goes_on(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "UNPRUNED", 1)
    study = open_study(tmp_path)
    for lr in (1e-2, 1e-9):
        study.enqueue_trial({LR: lr})
        searching._try(TINY, RANGES, tmp_path, corpus_dir, Machine("cpu", 1))
    good, bad = trials(open_study(tmp_path))
    assert (good.number, good.state, good.settings) == (0, "complete", {LR: 1e-2})
    assert (bad.number, bad.state) == (1, "pruned")
    assert good.valid_bpc is not None
    assert bad.valid_bpc is not None
    assert good.valid_bpc < bad.valid_bpc
    assert not (tmp_path / "trial0" / "best").exists()
    stopped = (tmp_path / "trial1" / "events.jsonl").read_text().splitlines()[-1]
    assert "given up at step 4" in stopped
    # Both count, so a search for two trials has nothing left to do.
    where = (2, tmp_path, corpus_dir, [Machine("cpu", 1)], print, print)
    assert [trial.number for trial in search(TINY, RANGES, *where)] == [0, 1]
    # They are not those of another search.
    other = TINY.model_copy(update={"settings": TINY.settings | {"moe.router": "xmoe"}})
    with pytest.raises(UserError, match=r"differs in settings.*--name"):
        search(other, RANGES, *where)
    with pytest.raises(UserError, match="differs in ranges"):
        search(TINY, {"similarity.weight": Range(0.1, 0.2)}, *where)


def fails_once(*given: Any) -> int:
    """The first trial of a folder fails."""
    mark = given[2] / "failed"
    if not mark.exists():
        mark.touch()
        raise UserError("no luck")
    return searching._try(*given)


def test_a_trial_that_fails_is_said(
    corpus_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(searching, "_try", fails_once)
    tiny = [f"{field}={json.dumps(value)}" for field, value in TINY.settings.items()]
    given = ["sweep", "--search", "2", "--grid", "train.lr=1e-4..1e-2", *chosen_by(*tiny)]
    where = ["--data-dir", str(corpus_dir), "--runs-dir", str(tmp_path), "--device", "cpu"]
    assert run([*given, *where]) == 1
    out = capsys.readouterr().out
    assert "a trial failed: no luck" in out
    assert "1 failed; the same command tries as many again" in out
    assert run([*given, *where]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--grid", "moe.router=smoe,xmoe"], "needs a range"),
        ([], "needs a range"),
        (["--grid", "train.lrr=0.1..0.2"], "Did you mean 'train.lr'"),
        (["--grid", "moe.router=1..2"], "moe.router"),
        (["--grid", "train.lr=0.1..0.2", "--dry-run"], "--dry-run"),
        (["--grid", "train.lr=0.1..0.2", "--seeds", "0-2"], "one seed"),
        (["--grid", "train.lr=0.1..0.2", "--seeds", "x"], "--seeds: expected seeds"),
    ],
)
def test_what_cannot_be_searched(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["sweep", "--search", "2", "--runs-dir", str(tmp_path), *options]
    assert run(given) == EXIT_USAGE
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
