"""environment.json: one entry a session, and never a reason not to train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.environment import record_session, unreadable_sessions

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    return run


def sessions(run: RunDir) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run.environment.read_text())["sessions"]
    return found


def test_every_session_is_recorded(run: RunDir) -> None:
    record_session(run, CPU, None)
    record_session(run, CPU, run.checkpoints / "step-0000004")
    first, second = sessions(run)
    assert (first["resumed_from"], second["resumed_from"]) == (None, "step-0000004")
    assert first["torch"] == torch.__version__
    assert unreadable_sessions(run) == []


@pytest.mark.parametrize("content", ["", "[]", '{"sessions": 1}', "\0"])
def test_a_damaged_file_is_kept_aside(run: RunDir, content: str) -> None:
    run.environment.write_text(content)
    (note,) = unreadable_sessions(run)
    assert note.startswith("environment.json ")
    assert note.endswith("; it is renamed and kept, and training continues")
    record_session(run, CPU, run.checkpoints / "step-0000004")
    assert len(sessions(run)) == 1
    assert (run.path / "damaged-1-environment.json").read_text() == content
