"""Which folder a training goes to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from simsmoe_cli.errors import UserError
from simsmoe_cli.train.run_place import find_place, resumed

OLD = Path(__file__).parents[1] / "runs_of_schema_1"


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Runs "base" and "base-2", with checkpoints of steps 4 and 8, and "base-notes", a folder."""
    for name in ("base", "base-2"):
        shutil.copytree(OLD / "runs/base", tmp_path / "runs" / name)
    (tmp_path / "runs/base-notes").mkdir()
    return tmp_path / "runs"


def test_a_new_run_gets_the_next_number(runs_dir: Path) -> None:
    run, start, notes = find_place(runs_dir, "base", None, None)
    assert (run.name, start, notes) == ("base-3", None, [])
    assert find_place(runs_dir, "other", None, None)[0].name == "other"


def test_a_name_that_is_taken_is_refused(runs_dir: Path) -> None:
    with pytest.raises(UserError, match="already holds a run"):
        find_place(runs_dir, "base", "base", None)
    assert find_place(runs_dir, "free", "free", None)[0].path == runs_dir / "free"


def test_auto_takes_the_newest_number_and_checkpoint(runs_dir: Path) -> None:
    run, start, notes = find_place(runs_dir, "base", None, "auto")
    assert start is not None
    assert (run.name, start.name, notes) == ("base-2", "step-0000008", [])
    run, start, _ = find_place(runs_dir, "base", "base", "auto")
    assert (run.name, start is None) == ("base", False)
    run, start, _ = find_place(runs_dir, "none", None, "auto")
    assert (run.name, start) == ("none", None)


def test_auto_skips_a_damaged_checkpoint_and_says_so(runs_dir: Path) -> None:
    (runs_dir / "base/checkpoints/step-0000008/model.safetensors").write_bytes(b"")
    _, start, notes = find_place(runs_dir, "base", "base", "auto")
    assert start is not None
    assert start.name == "step-0000004"
    assert "checkpoint 8 is skipped and kept aside" in notes[0]


def test_a_run_is_resumed_from_its_last_checkpoint_or_the_one_given(runs_dir: Path) -> None:
    run, start = resumed("base", None, runs_dir)
    assert (run.path, start.name) == (runs_dir / "base", "step-0000008")
    given = runs_dir / "base/checkpoints/step-0000004"
    assert resumed(str(given), None, runs_dir)[1] == given
    with pytest.raises(UserError, match="--name"):
        resumed("base", "base", runs_dir)
