"""What the shell is offered at the tab key."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.recipe.load import list_recipes
from tests.compare.made_runs import made_run

Offered = Callable[[str], list[str]]


@pytest.fixture
def offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Offered:
    """The completions of a command line, asked for as zsh does."""
    made_run(tmp_path / "runs" / "plain-1")
    made_run(tmp_path / "runs" / "plain-2")
    (tmp_path / "data" / "mine").mkdir(parents=True)
    (tmp_path / "data" / "mine" / "manifest.json").touch()
    monkeypatch.chdir(tmp_path)

    def complete(line: str) -> list[str]:
        monkeypatch.setenv("_SIMSMOE_COMPLETE", "complete_zsh")
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        with pytest.raises(SystemExit):
            main.run([])
        return re.findall(r'^(?:.*\(\()?"([^"]*)"', capsys.readouterr().out, re.MULTILINE)

    return complete


def test_names_are_completed(offered: Offered) -> None:
    assert offered("simsmoe compare pl") == ["plain-1", "plain-2"]
    assert offered("simsmoe runs rm plain-2 plain-1") == ["plain-1"]
    assert offered("simsmoe pretrain --resume p") == ["plain-1", "plain-2"]
    recipes = [name for name, _ in list_recipes() if name.startswith("mistral")]
    assert offered("simsmoe show mistral") == recipes
    assert offered("simsmoe pretrain --recipe mistral") == recipes
    assert offered("simsmoe prepare-data enw") == ["enwik8"]
    assert offered("simsmoe pretrain --set data.corpus=m") == ["data.corpus=mine"]


def test_settings_are_completed_by_name_and_value(offered: Offered) -> None:
    assert offered("simsmoe pretrain --set train.lo") == ["train.log_every="]
    assert offered("simsmoe finetune --set finetune.pooling=") == [
        "finetune.pooling=last",
        "finetune.pooling=mean",
    ]
    assert offered("simsmoe pretrain --set model.bias=t") == ["model.bias=true"]
    assert offered("simsmoe pretrain --set no.such=") == []
