"""A search by optuna: ranges, trials that are given up, and a study that goes on."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from simsmoe_cli.cli.main import run
from simsmoe_cli.errors import EXIT_USAGE, UserError
from simsmoe_cli.sweep import search as searching
from simsmoe_cli.sweep import study as studies
from simsmoe_cli.sweep import timing
from simsmoe_cli.sweep.definition import definition_of
from simsmoe_cli.sweep.ranges import Range, parse_range
from simsmoe_cli.sweep.search import open_search
from simsmoe_cli.sweep.study import FAILED, begin, open_study, trials
from simsmoe_cli.sweep.training import Machine
from simsmoe_cli.sweep.watch_search import watch_search
from tests.sweep.test_sweep import DEFINITION
from tests.train.huggingface_folders import chosen_by

LR = "train.lr"
RANGES = {LR: Range(1e-9, 1e-2)}
TINY = definition_of(DEFINITION | {"grids": [{}], "baseline": {}}, "test")


def test_ranges() -> None:
    def parsed(text: str) -> Range | None:
        return parse_range(text, f"--grid train.lr={text}")

    small, whole, ends = parsed("0.001..0.1"), parsed("2..8"), parsed("2.0..8.0")
    assert small == Range(0.001, 0.1)
    assert whole == Range(2, 8)
    assert small.logarithmic
    assert (whole.whole, whole.logarithmic) == (True, False)
    assert ends is not None
    assert not whole.of_type("number or schedule", "similarity.threshold").whole
    assert ends.of_type("whole number", "moe.experts") == whole
    with pytest.raises(UserError, match="takes whole numbers"):
        Range(0.1, 2.0).of_type("whole number", "moe.experts")
    assert parsed("smoe,xmoe") is None
    assert parsed("a..b") is None
    for text, said in (("8..2", "lower end"), ("1e-4...1e-2", "two dots"), ("1..inf", "finite")):
        with pytest.raises(UserError, match=f"^--grid train.lr={text}: .*{said}"):
            parsed(text)


def test_a_hopeless_trial_is_given_up_and_the_study_goes_on(
    corpus_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(studies, "UNPRUNED", 1)
    study = open_study(tmp_path)
    begin(study, TINY, RANGES, 2)
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
    where = (2, tmp_path, corpus_dir, print)
    found = open_search(TINY, RANGES, *where)
    assert (found.finished, found.due) == (2, [])
    # The monitor shows them, and ends as the search did.
    capsys.readouterr()
    assert run(["monitor", str(tmp_path), "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "2 of 2 trials have ended" in lines[0]
    assert [line.split()[-1] for line in lines if "0.01" in line] == ["best"]
    assert any("1e-09" in line and "given up, step 4" in line for line in lines)
    for failures in (0, 1):
        study.set_user_attr(FAILED, failures)
        screen = Console(file=io.StringIO(), force_terminal=True)
        assert watch_search(tmp_path, screen, 0.1, once=False) == bool(failures)
    # They are not those of another search.
    other = TINY.model_copy(update={"settings": TINY.settings | {"moe.router": "xmoe"}})
    with pytest.raises(UserError, match=r"differs in settings.*--name"):
        open_search(other, RANGES, *where)
    with pytest.raises(UserError, match="differs in ranges"):
        open_search(TINY, {"similarity.weight": Range(0.1, 0.2)}, *where)


def fails_once(*given: Any) -> int:
    """The first trial of a folder fails."""
    mark = given[2] / "failed"
    if not mark.exists():
        mark.touch()
        raise UserError("no luck")
    return searching._try(*given)


def test_a_search_shows_its_plan_and_asks_and_says_which_trials_failed(
    corpus_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(searching, "_try", fails_once)
    monkeypatch.setattr(timing, "estimate_seconds", lambda *given: 60.0)
    tiny = [f"{field}={json.dumps(value)}" for field, value in TINY.settings.items()]
    given = ["sweep", "--search", "2", "--grid", "train.lr=1e-4..1e-2", *chosen_by(*tiny)]
    where = ["--data-dir", str(corpus_dir), "--runs-dir", str(tmp_path), "--device", "cpu"]
    assert run([*given, *where]) == EXIT_USAGE
    out, err = capsys.readouterr()
    assert "ranges     train.lr 0.0001 to 0.01" in out
    tokens = 2 * math.prod(TINY.settings[f"train.{name}"] for name in ("steps", "batch", "block"))
    assert f"due        2: at most {tokens:,} tokens" in out
    assert "Start it with --yes" in err
    assert run([*given, *where, "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert run([*given, *where, "--yes"]) == 1
    out = capsys.readouterr().out
    assert "a trial failed: no luck" in out
    assert "1 failed; the same command tries as many again" in out
    assert run([*given, *where, "--yes"]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--grid", "moe.router=smoe,xmoe"], "needs a range"),
        ([], "needs a range"),
        (["--grid", "train.lrr=0.1..0.2"], "Did you mean 'train.lr'"),
        (["--grid", "moe.router=1..2"], "moe.router"),
        (["--grid", "train.lr=0.1..0.2", "--results", "x"], "--results"),
        (["--grid", "train.lr=0.1..0.2", "--recipe", "finetune-sst2"], "fine-tunes"),
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
