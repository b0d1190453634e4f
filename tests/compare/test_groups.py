"""Runs that differ in their seed alone, and how they are compared with the first group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.compare.statistics import Comparison, compare
from simsmoe_cli.run.event_log import EventLog
from simsmoe_cli.run.folder import RunDir
from tests.compare.made_runs import made_run, rows

# Test BPC by seed; the paired differences are -0.1, -0.1 and -0.13.
PLAIN, SIM = {1: 2.5, 2: 2.6, 3: 2.7}, {1: 2.4, 2: 2.5, 3: 2.57}


@pytest.fixture
def seeds(tmp_path: Path) -> list[RunDir]:
    """Runs plain-s1 to -s3 and sim-s1 to -s3 in runs/; one logs more often, which changes
    nothing."""
    made = []
    for name, scores in (("plain", PLAIN), ("sim", SIM)):
        for seed, bpc in scores.items():
            changes: dict[str, Any] = {"train": {"seed": seed, "log_every": seed}}
            if name == "sim":
                changes["similarity"] = {"preset": "calibrated"}
            made.append(made_run(tmp_path / "runs" / f"{name}-s{seed}", bpc=bpc, **changes))
    return made


def titled(comparison: Comparison) -> list[str]:
    return list(rows(comparison))


def test_seeds_of_one_setting_are_one_column(seeds: list[RunDir]) -> None:
    comparison = compare(seeds)
    assert [group.label for group in comparison.groups] == ["plain-s*", "sim-s*"]
    difference = comparison.groups[1].difference(comparison.groups[0], "test_bpc")
    assert difference is not None
    assert (difference.mean, difference.n) == (pytest.approx(-0.11), 3)
    assert difference.t is not None
    # Student's t with 2 degrees of freedom: 4.3027 * 0.017321 / sqrt(3).
    assert difference.t.high - difference.mean == pytest.approx(0.04303, abs=1e-4)
    assert difference.shown
    report = comparison.to_json()["groups"]
    assert report[0]["differences"] == {}
    assert report[1]["runs"] == ["sim-s1", "sim-s2", "sim-s3"]
    assert report[1]["means"]["test_bpc"]["mean"] == pytest.approx(2.49)


def test_on_the_command_line_patterns_name_the_groups(
    seeds: list[RunDir], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ["--runs-dir", str(tmp_path / "runs")]
    assert main.run(["compare", "plain-s*", "sim-s*", *there]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "plain-s* sim-s*" in lines
    assert "seeds 1, 2, 3 1, 2, 3" in lines
    assert "test BPC 2.6000 ± 0.0577 2.4900 ± 0.0493*" in lines
    assert "minus plain-s* -0.1100 (-0.1530 to -0.0670)" in lines
    assert any(line.endswith("no difference shown") for line in lines)  # of the load
    assert main.run(["compare", "none-*", "sim-s*", *there]) == 3
    assert "no run fits the pattern 'none-*'" in capsys.readouterr().err


def test_scores_come_first_and_settings_without_effect_apart(tmp_path: Path) -> None:
    runs = [
        made_run(tmp_path / "a"),
        made_run(tmp_path / "b", 1.9, train={"lr": 0.01, "log_every": 5}),
    ]
    order = titled(compare(runs))
    expected = ["test BPC", "minus a", "settings that change results", "train.lr"]
    expected += ["settings that change no results", "train.log_every"]
    assert sorted(expected, key=order.index) == expected
    assert rows(compare(runs))["test BPC"] == ["2.0000", "1.9000*"]


def test_no_run_is_the_best_of_different_budgets(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / "a"), made_run(tmp_path / "b", 1.9, train={"batch": 8})]
    comparison = compare(runs)
    assert rows(comparison)["test BPC"] == ["2.0000", "1.9000"]
    assert any("different numbers of tokens (12,800 and 25,600)" in n for n in comparison.notes)


def test_a_setting_that_was_changed_is_shown_with_both_values(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, train={"lr": 0.01}) for name in "ab"]
    log = EventLog(runs[1].events, keep_bytes=runs[1].events.stat().st_size)
    change = {"setting": "train.lr", "before": 0.001, "after": 0.01}
    log.emit({"kind": "run_started", "step": 98, "changes": [change], "total_steps": 100})  # type: ignore[list-item]
    log.emit({"kind": "run_finished", "step": 100, "status": "finished", "test_bpc": 2.0})
    log.close()
    comparison = compare(runs)
    assert rows(comparison)["train.lr"] == ["0.01", "0.001 -> 0.01 from step 98"]
    assert comparison.to_json()["runs"][1]["changes"] == [change | {"step": 98}]
    assert not comparison.seeded
