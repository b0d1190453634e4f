"""What a user names is found, or why not is said in one line."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.io.locate import default_name, require_exists
from simsmoe_cli.errors import EXIT_DATA, UserError
from tests.data.given import parts_of


@pytest.mark.parametrize(
    ("given", "what", "hint"),
    [
        ("texts/c.txt", "no such file or folder", "texts/b.txt"),
        ("texts/*.rst", "no files there", ""),
        ("texts/*.png", "none of the 1 files there is text", ""),
        ("texts/.hidden/none", "no such file or folder", "Check the path"),
    ],
)
def test_a_source_that_is_not_there_is_an_error(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    what: str,
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        parts_of(given, tmp_path / "scratch")
    error = caught.value
    assert (error.code, error.where, error.what) == (EXIT_DATA, given, what)
    assert hint in error.hint


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("some/where/wiki 2014.txt.xz", "wiki-2014"),
        ("http://127.0.0.1/a/text.zip?x=1", "text"),
        ("some/book", "book"),
        ("some/v1.5/*.md", "v1.5"),
        ("x/input.txt", "input"),
    ],
)
def test_a_store_is_named_after_its_text(given: str, name: str) -> None:
    assert default_name(given) == name


def test_what_is_neither_file_nor_folder_is_never_opened(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "fifo.txt")
    (folder / "loop").symlink_to(folder)
    (folder / "self").symlink_to("self")
    (folder / "gone.txt").symlink_to("nothing")
    with socket.socket(socket.AF_UNIX) as listening:
        # The path of a socket must be short, wherever tmp_path lies.
        place = os.open(folder, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{place}/socket.txt")
        os.close(place)
    source = parts_of(folder, tmp_path / "scratch")
    assert [part.name for part in source.parts] == ["b.txt", "deep/er/a.md"]
    for name in ("fifo.txt", "socket.txt", "/dev/null"):
        with pytest.raises(UserError, match="neither a file nor a folder") as caught:
            parts_of(folder / name, tmp_path / f"scratch-{len(name)}")
        assert caught.value.code == EXIT_DATA


def test_a_glob_enters_no_linked_folder_and_finds_a_file_once(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):  # each level of these would double what is found
        (folder / "deep" / name).symlink_to(folder)
    source = parts_of(f"{folder}/**/*.[mt]*", tmp_path / "scratch")
    assert [part.name for part in source.parts] == ["b.txt", "deep/er/a.md"]
    everything = parts_of(f"{folder}/**", tmp_path / "again")
    assert [part.name for part in everything.parts] == ["b.txt", "deep/er/a.md"]


def test_a_folder_that_cannot_be_read_is_an_error_and_not_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("er"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"deep/er: permission denied") as caught:
        prepare(str(folder), tmp_path / "data" / "own")
    assert caught.value.code == EXIT_DATA


@pytest.mark.parametrize(
    "given",
    ["x" * 5000, "/".join(["x" * 200] * 30), "nul\0", "~nobody-of-this-name/x", "[" * 5000, "*["],
    ids=["long", "deep", "nul", "home", "long pattern", "pattern"],
)
def test_a_name_that_no_file_has_is_one_clear_line(tmp_path: Path, given: str) -> None:
    for corpus, source in ((given, None), ("enwik8", given)):
        with pytest.raises(UserError) as caught:
            prepare(corpus, tmp_path / "data" / "own", source=source)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 2500
    assert default_name_or_error(given)
    assert not (tmp_path / "data" / "own").exists()


def default_name_or_error(given: str) -> str:
    try:
        return default_name(given)
    except UserError as error:
        return error.what


def test_a_file_whose_name_no_terminal_can_show_is_prepared(tmp_path: Path) -> None:
    folder = tmp_path / "odd\n\x1b[31m"
    folder.mkdir()
    for number in range(3):
        name = os.fsdecode(b"caf\xe9 \x1b %d.txt" % number)
        (folder / name).write_text(f"line of text {number}\n" * 50)
    store = prepare(str(folder), tmp_path / "data" / "own")
    assert store.manifest.source.files == 3
    assert store.manifest.source.given.isprintable()
    with pytest.raises(UserError, match="no terminal can show"):
        prepare(str(folder), tmp_path / "data" / "own\n")


def test_a_link_to_nothing_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "gone.txt").symlink_to("nowhere")
    with pytest.raises(UserError, match="is a link to a file that is not there"):
        require_exists(str(tmp_path / "gone.txt"))
