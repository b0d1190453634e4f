"""Which files a name, path, folder, glob or archive stands for, and how they are split."""

from __future__ import annotations

import gzip
import os
import platform
import shutil
import socket
import sysconfig
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.corpora.facts import ENWIK8, PYSTDLIB, WIKITEXT2
from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.corpora.sources import Source, default_name, resolve, split_of
from simsmoe_cli.data.io.download import url_name
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, UserError


def parts_of(given: Path | str, scratch: Path) -> Source:
    scratch.mkdir()
    return resolve(None, str(given), scratch, scratch, lambda stage, done, total: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two texts, one of them deep, and much that is none."""
    base = tmp_path / "texts"
    (base / "deep" / "er").mkdir(parents=True)
    (base / ".hidden").mkdir()
    (base / "b.txt").write_text("b")
    (base / "deep" / "er" / "a.md").write_text("é" * 5000)  # 8 KiB end inside a character
    (base / "empty.txt").write_text("")
    (base / "picture.png").write_bytes(b"\x89PNG\0\0")
    (base / "latin1.txt").write_bytes(b"caf\xe9 au lait")
    (base / ".hidden" / "c.txt").write_text("c")
    (base / ".d.txt").write_text("d")
    return base


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


def test_files_are_dealt_by_a_hash_of_their_path_that_never_changes() -> None:
    # SHA-256 of the path, first 64 bits as a fraction: below 0.90 train, below 0.95 valid.
    assert [split_of(name) for name in ("os.py", "getpass.py", "pdb.py")] == [
        "train",
        "valid",
        "test",
    ]
    shares = Counter(split_of(f"folder/{number}.txt") for number in range(20_000))
    assert shares["train"] == pytest.approx(18_000, rel=0.02)
    assert shares["valid"] == pytest.approx(1_000, rel=0.15)
    assert shares["test"] == pytest.approx(1_000, rel=0.15)


def test_many_files_keep_their_split_when_others_come(tmp_path: Path) -> None:
    base = tmp_path / "many"
    base.mkdir()
    for number in range(200):
        (base / f"{number}.txt").write_text(str(number))
    before = {part.name: part.split for part in parts_of(base, tmp_path / "one").parts}
    (base / "another.txt").write_text("another")
    after = {part.name: part.split for part in parts_of(base, tmp_path / "two").parts}
    assert set(before.values()) == {"train", "valid", "test"}
    assert {name: after[name] for name in before} == before
    order = [part.split for part in parts_of(base, tmp_path / "three").parts]
    assert order == sorted(order, key=["train", "valid", "test"].index)


def test_few_files_are_not_dealt(tmp_path: Path) -> None:
    base = tmp_path / "few"
    base.mkdir()
    for number in range(99):
        (base / f"{number}.txt").write_text(str(number))
    assert {part.split for part in parts_of(base, tmp_path / "scratch").parts} == {""}


def test_pystdlib_is_the_library_without_tests_and_packages(tmp_path: Path) -> None:
    source = resolve(PYSTDLIB, "", tmp_path, tmp_path, lambda stage, done, total: None)
    names = {part.name for part in source.parts}
    assert {"os.py", "json/decoder.py", "email/mime/text.py"} <= names
    assert source.python == platform.python_version()
    assert {part.split for part in source.parts} == {"train", "valid", "test"}
    for name in names:
        assert name.endswith(".py")
        above = name.split("/")[:-1]
        assert not {"test", "tests", "idle_test", "site-packages", "dist-packages"} & set(above)
    root = Path(sysconfig.get_path("stdlib"))
    assert all(part.path == root / part.name for part in source.parts)


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


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://host/%2e%2e", "download"),
        ("http://host/a/%2e%2e%2f%2e%2e%2fevil.zip", "evil.zip"),
        ("http://host/a%00b%0a.txt", "a-b-.txt"),
        ("http://host/" + "x" * 5000 + ".tar.gz", "x" * 93 + ".tar.gz"),
        ("http://[", "download"),
        ("http://host/.hidden", "hidden"),
    ],
)
def test_a_download_is_given_a_plain_name(url: str, name: str) -> None:
    assert url_name(url) == name


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
    with pytest.raises(UserError, match=r"train\.bin cannot be read") as caught:
        TokenStore.open(nobody / "data" / "own").split("train")
    assert caught.value.code == EXIT_DATA
    (nobody / "data").chmod(0o700)
