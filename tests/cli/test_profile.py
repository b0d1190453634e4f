"""`--profile`: what a person and a program see of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_USAGE
from simsmoe_cli.recipe.load import dump_recipe
from tests.train.tiny import recipe

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus_dir: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(dump_recipe(recipe()))
    Path("data").symlink_to(corpus_dir)


def pretrain(*arguments: str) -> int:
    return main.run(["pretrain", "--recipe", "tiny.yaml", "--name", "mine", *arguments])


def test_the_summary_is_shown_as_it_is_kept(capsys: Capture) -> None:
    assert pretrain("--profile", "2") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert Path("runs/mine/profile/summary.txt").read_text() in printed.out
    assert "trace in runs/mine/profile/trace.json.gz; open it at ui.perfetto.dev" in printed.out


def test_json_stays_one_event_a_line(capsys: Capture) -> None:
    assert pretrain("--profile", "2", "--json") == 0
    kinds = [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()]
    assert kinds.count("profile") == 1


def test_too_many_steps_are_one_line_and_leave_no_run(capsys: Capture) -> None:
    assert pretrain("--profile", "50") == EXIT_USAGE
    printed = capsys.readouterr()
    assert "Use --profile 5." in printed.err
    assert "Traceback" not in printed.err
    assert not Path("runs/mine/events.jsonl").exists()


def test_a_negative_number_is_a_usage_error(capsys: Capture) -> None:
    assert pretrain("--profile", "-1") == EXIT_USAGE
    assert "--profile" in capsys.readouterr().err
