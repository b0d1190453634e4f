"""Files and folders are replaced whole or not at all, and kills leave nothing for long."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from simsmoe_cli.errors import UserError
from simsmoe_cli.files import atomic

ROOT = Path(__file__).resolve().parents[2]

# Does something in `folder` and dies by SIGKILL at a call of os, the `at`th of its name.
KILLED = """
import os, signal, sys
from pathlib import Path
from simsmoe_cli.files import atomic

folder, name, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
real, calls = getattr(os, name), 0
def deadly(*args, **kwargs):
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(os, name, deadly)
with atomic.whole_folder(folder / "here", replace=True) as partial:
    (partial / "a").write_text("new")
    (partial / "d").mkdir()
    (partial / "b").write_text("new")
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic.write(path, "old ä")
    assert path.read_bytes() == "old ä".encode()
    with pytest.raises(ZeroDivisionError), atomic.whole_file(path) as partial:
        partial.write_text(f"ne{1 / 0}")
    assert texts(tmp_path) == {"file": "old ä"}
    atomic.write(path, b"new")
    assert texts(tmp_path) == {"file": "new"}


def test_a_folder_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep/folder"
    for content in ("old", "new"):
        with atomic.whole_folder(path, replace=True) as partial:
            (partial / content).write_text(content)
    with pytest.raises(ValueError), atomic.whole_folder(path, replace=True):
        raise ValueError
    assert names(path.parent) == ["folder"]
    assert texts(path) == {"new": "new"}


def test_a_folder_in_use_is_replaced_only_where_that_is_meant(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine").write_text("mine")
    with pytest.raises(OSError), atomic.whole_folder(tmp_path / "folder") as partial:
        (partial / "new").write_text("new")
    assert names(tmp_path) == ["folder"]
    assert texts(tmp_path / "folder") == {"mine": "mine"}


def test_what_a_link_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    atomic.write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


@pytest.mark.parametrize("call", [*(("rename", n) for n in (1, 2, 3)), ("mkdir", 2), ("rmdir", 1)])
def test_killed_while_it_replaces_a_folder(tmp_path: Path, call: tuple[str, int]) -> None:
    """The next one to write there finds the old content or the new, and nothing else is left."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here/a").write_text("old")
    (tmp_path / "here/c").write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), call[0], str(call[1])],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert done.returncode == -9
    atomic.clean(tmp_path, "here")
    assert names(tmp_path) == ["here"]
    old, new = {"a": "old", "c": "old"}, {"a": "new", "b": "new"}
    assert texts(tmp_path / "here") in (old, new)


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with (
        atomic.whole_folder(tmp_path / "folder") as partial,
        atomic.whole_file(tmp_path / "file") as file,
    ):
        atomic.clean(tmp_path)
        assert partial.is_dir()
        assert file.is_file()
    assert names(tmp_path) == ["file", "folder"]


def test_only_leftovers_of_the_name_are_deleted(tmp_path: Path) -> None:
    for name in (".a.partial-12ab", ".a.partial", ".b.partial-12ab", "a.partial-1", ".ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    atomic.clean(tmp_path, "a")
    assert names(tmp_path) == [".ab", ".b.partial-12ab", "a.partial-1"]
    atomic.clean(tmp_path)
    assert names(tmp_path) == [".ab", "a.partial-1"]


def test_a_folder_is_removed_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder/deep").mkdir(parents=True)
    atomic.remove(tmp_path / "folder")
    assert names(tmp_path) == []


def test_files_can_be_read_by_those_who_may_read_their_folder(tmp_path: Path) -> None:
    """Whatever mode a library gives them, such as 600."""
    before = os.umask(0o027)
    try:
        with atomic.whole_folder(tmp_path / "folder") as partial:
            (partial / "weights").touch(0o600)
            (partial / "weights").chmod(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "folder/weights").stat().st_mode & 0o777 == 0o640


def test_where_a_new_folder_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for path in ("empty", "new", "some/new"):
        atomic.require_new(tmp_path / path)
    for path, said in (
        ("", "not an empty folder"),
        ("file", "not an empty"),
        ("file/a", "file: is not a folder"),
    ):
        with pytest.raises(UserError, match=said):
            atomic.require_new(tmp_path / path)
    monkeypatch.chdir(tmp_path / "empty")
    for path in (".", tmp_path / "empty"):
        with pytest.raises(UserError, match="current folder"):
            atomic.require_new(Path(path))


def test_a_partial_has_the_name_that_a_user_knows(tmp_path: Path) -> None:
    with atomic.whole_folder(tmp_path / "re.port") as partial:
        assert atomic.as_named(f"{partial}/a.png") == f"{tmp_path}/re.port/a.png"
        assert atomic.as_named(f"{tmp_path}/.hidden/x") == f"{tmp_path}/.hidden/x"


def other_file_system(here: Path) -> Path:
    """A new folder in another file system than `here`; its parent is to be deleted."""
    there = Path("/dev/shm")
    if not there.is_dir() or there.stat().st_dev == here.stat().st_dev:
        pytest.skip("there is no second file system here")
    return Path(tempfile.mkdtemp(dir=there))


def test_a_file_is_moved_into_another_file_system(tmp_path: Path) -> None:
    there = other_file_system(tmp_path)
    try:
        (tmp_path / "a").write_text("new")
        (there / "b").write_text("old")
        atomic.move(tmp_path / "a", there / "b")
        assert (there / "b").read_text() == "new"
        assert names(there) == ["b"]
        assert names(tmp_path) == []
    finally:
        shutil.rmtree(there)


def test_a_folder_that_cannot_be_placed_leaves_the_old_one(tmp_path: Path) -> None:
    there = other_file_system(tmp_path)
    try:
        (there / "old").mkdir()
        (there / "old/a").write_text("old")
        (tmp_path / "new").mkdir()
        (tmp_path / "new/a").write_text("new")
        with pytest.raises(OSError, match="cross-device"):
            atomic.place_folder(tmp_path / "new", there / "old")
        assert names(there) == ["old"]
        assert (there / "old/a").read_text() == "old"
        assert (tmp_path / "new/a").read_text() == "new"
    finally:
        shutil.rmtree(there)
