"""`simsmoe export`: the files it names, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from simsmoe_cli.cli import main, silence, stage_progress
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE

OLD = Path(__file__).parents[1] / "runs_of_schema_1"


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert main.run(["export", "base", "a/b"]) == 0
    assert capsys.readouterr().out == (
        "a/b: README.md, config.json, model.safetensors, tokenizer.json\n"
    )
    assert main.run(["export", "base", "a/b"]) == EXIT_USAGE
    assert capsys.readouterr().err == (
        "simsmoe: error: a/b: is not an empty folder. Choose a new or empty one.\n"
    )
    (tmp_path / "here").mkdir()
    with monkeypatch.context() as inside:
        inside.chdir(tmp_path / "here")
        assert main.run(["export", "../runs/base", ".", "--data-dir", "../data"]) == EXIT_USAGE
        assert capsys.readouterr().err == (
            "simsmoe: error: .: is the current folder, which cannot be replaced. Choose a new one, "
            "as ./NAME.\n"
        )
        (tmp_path / "here").rmdir()
        assert main.run(["export", "../runs/base", "new"]) == EXIT_USAGE
        assert capsys.readouterr().err == (
            "simsmoe: error: the current folder has been deleted. Change to another one.\n"
        )
    monkeypatch.setattr(stage_progress, "SILENT_S", 0.0)  # as where it takes long
    monkeypatch.setattr(silence, "LOOK_S", 0.001)
    assert main.run(["export", "base", "again"]) == 0
    assert capsys.readouterr().err.startswith("exporting: 0:00 so far\n")
    assert main.run(["export", "base", "c", "--checkpoint", "9"]) == EXIT_DATA
    assert "no checkpoint '9' in this run. Available: 4, 8, last, best" in capsys.readouterr().err
