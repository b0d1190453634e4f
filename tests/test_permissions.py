"""Files that this user may not read are not called damaged: nothing has to be made anew."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_DATA, NotPermitted
from simsmoe_cli.files.untrusted import read_bytes

Capture = pytest.CaptureFixture[str]
OLD = Path(__file__).parent / "runs_of_schema_1"
GO_ON = ["pretrain", "--resume", "auto", "--name", "base"]
# A file or folder that may not be read, and a command that needs it.
CASES = {
    "runs/base/best/state.json": ["eval", "base"],
    "runs/base/best/weights-*": ["generate", "base", "--prompt", "the"],
    "runs/base/checkpoints/step-0000008/training.safetensors": ["pretrain", "--resume", "base"],
    "runs/base/checkpoints/step-0000008/state.json": GO_ON,
    "runs/base/recipe.yaml": ["pretrain", "--resume", "base"],
    "runs/base/events.jsonl": ["compare", "base", "tuned"],
    "runs/tuned/tokenizer.json": ["eval", "tuned"],
    "data/letters/manifest.json": ["eval", "base"],
    "data/letters/tokenizer.json": ["export", "base", "exported"],
    "data/letters/test.bin": ["eval", "base"],
    "data/letters": ["generate", "base", "--prompt", "the"],
    "data/letters/valid.bin": ["collapse-report", "base", "--tokens", "64"],
    "data/animals/task.json": ["eval", "tuned"],
    "data/animals/test.jsonl": ["eval", "tuned"],
    "own.yaml": ["show", "own.yaml"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs and data, as their owner has them."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    (tmp_path / "own.yaml").write_text("name: own\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let the system refuse a file, or what is in a folder, as it does to all users but root."""

    def forbidden(path: Path) -> None:
        def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(given: Any, *args: Any, **kwargs: Any) -> Any:
                if not isinstance(given, int):
                    place = Path(os.path.abspath(os.fspath(given)))
                    inside = path in place.parents
                    if inside or (place == path and real is not os_stat):
                        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(given))
                return real(given, *args, **kwargs)

            return call

        os_stat = os.stat
        monkeypatch.setattr(os, "stat", guarded(os.stat))
        monkeypatch.setattr(os, "open", guarded(os.open))
        opening = guarded(io.open)
        monkeypatch.setattr(io, "open", opening)
        monkeypatch.setattr(builtins, "open", opening)

    return forbidden


@pytest.mark.parametrize("name", CASES)
def test_what_may_not_be_read_is_said(
    name: str, folder: Path, forbid: Callable[[Path], None], capsys: Capture
) -> None:
    (path,) = folder.glob(name)
    forbid(path)
    assert main.run(CASES[name]) == EXIT_DATA
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert path.name in said
    assert "ermission denied" in said
    for wrong in ("damaged", "--force", "Use another checkpoint", "not prepared"):
        assert wrong not in said


def test_a_newer_checkpoint_is_not_set_aside_for_its_permissions(
    folder: Path, forbid: Callable[[Path], None], capsys: Capture
) -> None:
    """Going on from an older one would throw away what is whole."""
    newest = folder / "runs/base/checkpoints/step-0000008"
    forbid(newest / "model.safetensors")
    assert main.run(GO_ON) == EXIT_DATA
    assert "chmod u+r" in capsys.readouterr().err
    assert newest.is_dir()


def test_a_sealed_environment_only_informs(
    folder: Path, forbid: Callable[[Path], None], capsys: Capture
) -> None:
    forbid(folder / "runs/base/environment.json")
    assert main.run([*GO_ON, "--set", "train.steps=10"]) == 0
    assert "environment.json: permission denied" in capsys.readouterr().out


def test_reading_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: object, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(NotPermitted, match="chmod u\\+r") as caught:
        read_bytes(tmp_path / "file")
    assert caught.value.code == EXIT_DATA
