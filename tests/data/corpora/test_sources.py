"""From what a user names to the files of a text."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from simsmoe_cli.data.corpora.facts import ENWIK8, WIKITEXT2
from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.corpora.sources import resolve
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, UserError
from tests.data.given import parts_of


def test_a_folder_gives_its_texts_in_order_and_names_what_it_left_out(
    folder: Path, tmp_path: Path
) -> None:
    source = parts_of(folder, tmp_path / "scratch")
    assert [part.name for part in source.parts] == ["b.txt", "deep/er/a.md"]
    assert len(source.warnings) == 1
    for name in ("3 files", "empty.txt", "latin1.txt", "picture.png"):
        assert name in source.warnings[0]


def test_a_glob_gives_the_texts_it_matches(folder: Path, tmp_path: Path) -> None:
    source = parts_of(f"{folder}/**/*.md", tmp_path / "scratch")
    assert [part.name for part in source.parts] == ["deep/er/a.md"]


@pytest.mark.parametrize("ending", [".zip", ".tar.xz"])
def test_an_archive_gives_the_texts_in_it(folder: Path, tmp_path: Path, ending: str) -> None:
    archive = tmp_path / f"texts{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(archive, "w") as bundle:
            bundle.write(folder / "b.txt", "inside/b.txt")
    else:
        with tarfile.open(archive, "w:xz") as tape:
            tape.add(folder / "b.txt", "inside/b.txt")
    source = parts_of(archive, tmp_path / "scratch")
    assert [part.name for part in source.parts] == ["inside/b.txt"]


def test_one_file_may_hold_anything(folder: Path, tmp_path: Path) -> None:
    source = parts_of(folder / "latin1.txt", tmp_path / "scratch")
    assert [part.path for part in source.parts] == [folder / "latin1.txt"]


@pytest.mark.parametrize(
    "names",
    [
        ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
        ("train.txt", "valid.txt", "test.txt"),
        ("wiki.train.tokens.gz", "valid.txt.xz", "test.tokens"),
    ],
)
def test_members_of_a_corpus_are_found_by_name(tmp_path: Path, names: tuple[str, ...]) -> None:
    base = tmp_path / "wikitext" / "inner"
    base.mkdir(parents=True)
    for name in (*names, "README.txt"):
        (base / name).write_bytes(b"x")
    for given in (base.parent, base / names[1], f"{base}/*t*"):
        source = resolve(WIKITEXT2, str(given), tmp_path, tmp_path, lambda *told: None)
        assert tuple(part.path.name for part in source.parts) == names
        assert [part.split for part in source.parts] == ["train", "valid", "test"]


def test_a_missing_member_is_named(tmp_path: Path) -> None:
    base = tmp_path / "wikitext"
    base.mkdir()
    (base / "wiki.valid.tokens").write_text("x")
    (base / "wiki.test.tokens").write_text("x")
    (base / "wiki.train.raw").write_text("x")
    with pytest.raises(UserError, match=r"no wiki\.train\.tokens \(the train split\)") as caught:
        resolve(WIKITEXT2, str(base), tmp_path, tmp_path, lambda *told: None)
    assert (caught.value.code, caught.value.where) == (EXIT_DATA, str(base))


def test_the_only_file_of_an_archive_is_the_corpus_whatever_its_name(tmp_path: Path) -> None:
    archive = tmp_path / "my.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("enwik8_prefix", "x")
    source = resolve(ENWIK8, str(archive), tmp_path, tmp_path, lambda *told: None)
    assert [part.member for part in source.parts] == [ENWIK8.members[0]]


def test_what_lies_compressed_in_an_archive_counts_against_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simsmoe_cli.data.io.archives.LEAST_LIMIT", 1 << 20)
    archive = tmp_path / "texts.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        for number in range(3):  # each of them is below the limit
            line = f"line {number}\n".encode()
            bundle.writestr(f"{number}.txt.gz", gzip.compress(line * (400_000 // len(line))))
    with pytest.raises(UserError, match="unpacks to more than") as caught:
        prepare(str(archive), tmp_path / "data" / "own")
    assert caught.value.code == EXIT_DATA
    assert [path.suffix for path in (tmp_path / "data").iterdir()] == [".lock"]


def test_a_file_that_is_no_text_is_prepared_with_a_warning(tmp_path: Path) -> None:
    own = tmp_path / "own.bin"
    own.write_bytes(bytes(range(256)) * 50)
    store = prepare(str(own), tmp_path / "data" / "own")
    assert store.manifest.warnings == ["own.bin does not begin as text does"]


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of a user without privileges, who this process is meanwhile."""
    folder = Path(tempfile.mkdtemp())
    (folder / "own.txt").write_text("a line of text\n" * 50)
    prepare(str(folder / "own.txt"), folder / "first")  # whatever is imported late is imported now
    privileged = os.geteuid() == 0
    if privileged:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if privileged:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_what_may_not_be_read_or_written_is_one_clear_line(nobody: Path) -> None:
    locked = nobody / "locked"
    (locked / "inside").mkdir(parents=True)
    (locked / "inside" / "a.txt").write_text("a line of text\n" * 50)
    (locked / "b.txt").write_text("a line of text\n" * 50)
    for path, given in (
        (locked / "inside" / "a.txt", locked / "inside" / "a.txt"),
        (locked / "b.txt", locked),
        (locked / "inside", locked),
    ):
        mode = path.stat().st_mode
        path.chmod(0)
        with pytest.raises(UserError, match="permission denied") as caught:
            prepare(str(given), nobody / "data" / "own")
        assert (caught.value.code, caught.value.where) == (EXIT_DATA, str(path))
        path.chmod(mode)
    assert prepare(str(locked), nobody / "data" / "own").built
    (nobody / "data").chmod(0o500)
    with pytest.raises(UserError, match="permission denied") as caught:
        prepare(str(locked), nobody / "data" / "other")
    assert caught.value.code == EXIT_DATA
    (nobody / "data" / "own" / "train.bin").chmod(0)
    with pytest.raises(UserError, match=r"train\.bin: permission denied") as caught:
        TokenStore.open(nobody / "data" / "own").split("train")
    assert caught.value.code == EXIT_DATA
    (nobody / "data").chmod(0o700)
