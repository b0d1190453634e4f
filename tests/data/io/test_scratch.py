"""Preparing in a folder: scratch is removed, what the system refuses is one clear line."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from simsmoe_cli.data.io.scratch import clear_os_errors, locked, scratch
from simsmoe_cli.errors import EXIT_DATA, UserError


def quiet(stage: str, done: int, total: int | None) -> None:
    """Progress nobody looks at."""


@pytest.mark.parametrize("fails", [True, False])
def test_scratch_is_removed_however_it_ends(tmp_path: Path, fails: bool) -> None:
    try:
        with scratch(tmp_path / "out") as folder:
            (folder / "file").write_text("text")
            if fails:
                raise OSError
    except OSError:
        assert fails
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.scratch-1").mkdir()
    (tmp_path / ".other.scratch-1").mkdir()
    with locked(tmp_path / "out", quiet):
        names = {path.name for path in tmp_path.iterdir()}
    assert names == {".out.lock", ".other.scratch-1"}


@pytest.mark.parametrize("place", ["file/out", "file/deep/out"])
def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match="is a file, and a folder is needed there") as caught:
        locked(tmp_path / place, quiet).__enter__()
    assert caught.value.code == EXIT_DATA


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "no space left"), (errno.EACCES, "permission denied")]
)
def test_what_the_system_refuses_is_one_line(tmp_path: Path, number: int, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught, clear_os_errors(tmp_path):
        raise OSError(number, said.capitalize(), str(tmp_path / "x"))
    assert caught.value.code == EXIT_DATA
