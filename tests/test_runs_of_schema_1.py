"""Run folders that the version before events of schema 2 wrote open in every command.

The folders lie in `tests/runs_of_schema_1` and are copied for each test.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.run.folder import RunDir
from tests.train.tiny import events

Capture = pytest.CaptureFixture[str]
OLD = Path(__file__).parent / "runs_of_schema_1"
RUNS = ("base", "tuned")


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the folders data/ and runs/, as their owner has them."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def printed(capsys: Capture, *arguments: str) -> str:
    """What a command prints that succeeds."""
    capsys.readouterr()
    assert main.run([*arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def as_json(capsys: Capture, *arguments: str) -> Any:
    return json.loads(printed(capsys, *arguments, "--json"))


def test_the_fixture_is_of_schema_1() -> None:
    for name in RUNS:
        lines = Path("runs", name, "events.jsonl").read_text().splitlines()
        written = [json.loads(line) for line in lines]
        assert {event["schema"] for event in written} == {1}
        matrices = [event["layers"][0]["cka"] for event in written if event["kind"] == "similarity"]
        assert matrices
        assert all(len(matrix) == 3 for matrix in matrices)


def test_the_monitor_shows_both(capsys: Capture) -> None:
    picture = printed(capsys, "monitor", *RUNS, "--once")
    assert "base" in picture
    assert "tuned" in picture
    base, tuned = as_json(capsys, "monitor", *RUNS)["runs"]
    assert (base["step"], tuned["step"]) == (8, 6)
    assert base["status"] == tuned["status"] == "finished"


def test_the_monitor_has_the_similarities_of_the_events(capsys: Capture) -> None:
    (run,) = as_json(capsys, "monitor", "base")["runs"]
    written = events_as_written("base", "similarity")[-1]
    assert run["cka"]["step"] == written["step"]
    assert [layer["mean"] for layer in run["cka"]["layers"]] == pytest.approx(
        [layer["mean"] for layer in written["layers"]]
    )


def test_eval_scores_the_best_weights(capsys: Capture) -> None:
    report = as_json(capsys, "eval", "base", "--split", "valid")
    assert report["step"] == 8
    assert report["corpus"] == "letters"
    best = next(e for e in events_as_written("base", "eval") if e["step"] == 8)
    assert report["loss_nats"] == pytest.approx(best["loss_nats"], rel=0.01)


def test_eval_scores_a_fine_tuned_run_as_it_was_scored_then(capsys: Capture) -> None:
    report = as_json(capsys, "eval", "tuned")
    (finished,) = events_as_written("tuned", "run_finished")
    assert report["task"] == "animals"
    assert report["accuracy"] == pytest.approx(finished["test_accuracy"])
    assert report["loss_nats"] == pytest.approx(finished["test_loss_nats"], rel=1e-3)


@pytest.mark.parametrize(("name", "checkpoint"), [("base", "all"), ("tuned", "best")])
def test_reports(name: str, checkpoint: str, capsys: Capture) -> None:
    words = ["--checkpoint", checkpoint, "--tokens", "64", "--no-ablation", "--format", "html,json"]
    report = as_json(capsys, "collapse-report", name, *words)
    assert report["findings"][-1]["subject"]["name"] == name
    assert len(report["findings"][-1]["layers"]) == 2
    assert (Path("runs") / name / "report/report.html").is_file()


def test_compare_sets_them_side_by_side(capsys: Capture) -> None:
    first, second = as_json(capsys, "compare", *RUNS)["runs"]
    assert (first["name"], second["name"]) == RUNS
    assert len(first["curves"]["cka"]["steps"]) == 3


def test_generate_and_export(capsys: Capture) -> None:
    text = printed(capsys, "generate", "base", "--prompt", "the fox", "--tokens", "20")
    assert text.startswith("the fox")
    assert "config.json" in printed(capsys, "export", "base", "exported")


@pytest.mark.parametrize("step", [4, 8])
def test_pretraining_goes_on_from_either_checkpoint(step: int, capsys: Capture) -> None:
    before = events_as_written("base", "train", "eval")
    words = ["--resume", f"runs/base/checkpoints/step-{step:07d}", "--set", "train.steps=8"]
    printed(capsys, "pretrain", *words)
    after = events(RunDir(Path("runs/base")), "train", "eval")
    assert [(e["kind"], e["step"]) for e in after[: len(before)]] == [
        (e["kind"], e["step"]) for e in before
    ]
    for old, new in zip(before, after, strict=False):
        assert new["loss_nats"] == pytest.approx(old["loss_nats"], rel=1e-3)
    assert sum(e["kind"] == "run_finished" for e in events(RunDir(Path("runs/base")))) >= 1


def test_pretraining_goes_on_for_longer(capsys: Capture) -> None:
    printed(capsys, "pretrain", "--resume", "base", "--set", "train.steps=12")
    (report,) = as_json(capsys, "monitor", "base")["runs"]
    assert (report["step"], report["status"]) == (12, "finished")
    assert as_json(capsys, "eval", "base")["corpus"] == "letters"


def test_fine_tuning_goes_on_and_starts_from_an_old_run(capsys: Capture) -> None:
    printed(capsys, "finetune", "--resume", "tuned", "--set", "finetune.epochs=3")
    assert as_json(capsys, "eval", "tuned")["task"] == "animals"
    words = ["train.batch=8", "train.block=16", "finetune.epochs=1"]
    words += ["finetune.drop_last_layer=false"]
    settings = [word for setting in words for word in ("--set", setting)]
    printed(capsys, "finetune", "--from", "base", "--task", "animals", *settings)
    assert as_json(capsys, "eval", "base-animals")["task"] == "animals"


def events_as_written(name: str, *kinds: str) -> list[dict[str, Any]]:
    """The events of the fixture, parsed as plain JSON."""
    lines = (OLD / "runs" / name / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] in kinds]
