"""Compressed files and archives: read whole, refused when damaged, unsafe or endless."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from simsmoe_cli.data.io.archives import extract, read_chunks, read_whole
from simsmoe_cli.errors import EXIT_DATA, UserError

CONTENT = random.Random(0).randbytes(100_000)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tape:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tape.addfile(info, io.BytesIO(content))
    return path


WRITE = {".zip": write_zip, ".tar.gz": write_tar}


def refusal(archive: Path, into: Path, limit: int | None = None) -> str:
    """What extracting an archive is refused with; nothing may lie outside `into` after it."""
    into.mkdir()
    beside = set(into.parent.iterdir())
    with pytest.raises(UserError) as caught:
        extract(archive, into, limit)
    assert caught.value.code == EXIT_DATA
    assert caught.value.where == str(archive)
    assert set(into.parent.iterdir()) == beside
    return caught.value.what


@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_files_are_read_by_their_name(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"text{ending}"
    path.write_bytes(COMPRESS[ending](CONTENT))
    assert b"".join(read_chunks(path)) == CONTENT


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("damage", ["truncated", "not compressed"])
def test_damaged_compressed_files_are_errors(tmp_path: Path, ending: str, damage: str) -> None:
    path = tmp_path / f"text{ending}"
    whole = COMPRESS[ending](CONTENT)
    path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else CONTENT)
    with pytest.raises(UserError) as caught:
        list(read_chunks(path))
    assert (caught.value.code, caught.value.where) == (EXIT_DATA, str(path))
    assert "damaged or truncated" in caught.value.what


@pytest.mark.parametrize("ending", WRITE)
def test_archives_are_extracted_whole(tmp_path: Path, ending: str) -> None:
    members = {"a.txt": b"one", "deep/er/b.txt": CONTENT, "empty": b""}
    archive = WRITE[ending](tmp_path / f"some{ending}", members)
    into = tmp_path / "into"
    into.mkdir()
    extract(archive, into)
    files = {p.relative_to(into).as_posix(): p for p in into.rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in files.items()} == members


@pytest.mark.parametrize("ending", WRITE)
@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "\\evil"]
)
def test_a_path_that_escapes_refuses_the_archive(tmp_path: Path, ending: str, name: str) -> None:
    archive = WRITE[ending](tmp_path / f"some{ending}", {name: b"evil"})
    assert "leaves the folder" in refusal(archive, tmp_path / "into")


def test_a_link_in_a_zip_refuses_it(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    archive = tmp_path / "some.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr(info, "/etc/passwd")
    assert "a link" in refusal(archive, tmp_path / "into")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_in_a_tar_refuses_it(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "/etc/passwd"
    archive = tmp_path / "some.tar"
    with tarfile.open(archive, "w") as tape:
        tape.addfile(info)
    assert "a link or a device" in refusal(archive, tmp_path / "into")


@pytest.mark.parametrize("ending", WRITE)
def test_more_content_than_the_limit_is_refused(tmp_path: Path, ending: str) -> None:
    archive = WRITE[ending](tmp_path / f"bomb{ending}", {str(i): bytes(1 << 20) for i in range(9)})
    assert archive.stat().st_size < 1 << 16
    assert "far more" in refusal(archive, tmp_path / "into", limit=8 << 20)
    written = sum(p.stat().st_size for p in (tmp_path / "into").iterdir())
    assert written <= 8 << 20


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "liar.zip", {"a": bytes(1 << 20)})
    content = archive.read_bytes()
    archive.write_bytes(
        content.replace((1 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    )
    assert "damaged" in refusal(archive, tmp_path / "into")


@pytest.mark.parametrize("ending", WRITE)
@pytest.mark.parametrize("damage", ["truncated", "not an archive", "flipped byte"])
def test_damaged_archives_are_refused(tmp_path: Path, ending: str, damage: str) -> None:
    archive = WRITE[ending](tmp_path / f"some{ending}", {"a.txt": CONTENT})
    whole = archive.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    contents = {"truncated": whole[:middle], "not an archive": CONTENT, "flipped byte": flipped}
    archive.write_bytes(contents[damage])
    assert "damaged or truncated" in refusal(archive, tmp_path / "into")


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> int:
    """The least limit, small enough to be tried."""
    monkeypatch.setattr("simsmoe_cli.data.io.archives.LEAST_LIMIT", 4 << 20)
    return 4 << 20


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_compressed_file_has_the_bound_of_an_archive(
    tmp_path: Path, ending: str, small_limits: int
) -> None:
    path = tmp_path / f"bomb{ending}"
    path.write_bytes(COMPRESS[ending](bytes(5 << 20)))
    read: list[int] = []
    with pytest.raises(UserError, match="unpacks to more than 4,194,304 bytes") as caught:
        read.extend(map(len, read_chunks(path)))
    assert (caught.value.code, caught.value.where) == (EXIT_DATA, str(path))
    assert sum(read) <= small_limits
    path.write_bytes(COMPRESS[ending](bytes(3 << 20)))
    assert sum(map(len, read_chunks(path))) == 3 << 20


def test_a_plain_file_has_no_bound(tmp_path: Path, small_limits: int) -> None:
    path = tmp_path / "large.txt"
    path.write_bytes(bytes(5 << 20))
    assert sum(map(len, read_chunks(path))) == 5 << 20


def test_what_follows_the_end_of_a_tape_counts_too(tmp_path: Path, small_limits: int) -> None:
    tape = tmp_path / "some.tar"
    with tarfile.open(tape, "w") as made:
        made.addfile(tarfile.TarInfo("a"))
    archive = tmp_path / "bomb.tar.gz"
    archive.write_bytes(gzip.compress(tape.read_bytes() + bytes(5 << 20)))
    assert "far more" in refusal(archive, tmp_path / "into")


@pytest.mark.parametrize("ending", WRITE)
def test_very_many_members_are_refused(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simsmoe_cli.data.io.archives.LEAST_LIMIT", 1 << 16)
    monkeypatch.setattr("simsmoe_cli.data.io.archives.LARGEST_RATIO", 1)
    archive = WRITE[ending](tmp_path / f"many{ending}", {str(i): b"" for i in range(2000)})
    assert "far more" in refusal(archive, tmp_path / "into")


def test_a_sparse_member_counts_as_what_it_unpacks_to(tmp_path: Path) -> None:
    archive = tmp_path / "sparse.tar"
    header = bytearray(tarfile.TarInfo("hole").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"  # GNU's sparse member, of which all is a hole
    header[483:495] = b"%011o\0" % (1 << 30)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    archive.write_bytes(bytes(header) + bytes(1024))
    assert "far more" in refusal(archive, tmp_path / "into", limit=1 << 20)


@pytest.mark.parametrize("ending", WRITE)
def test_a_member_that_comes_twice_refuses_the_archive(tmp_path: Path, ending: str) -> None:
    archive = tmp_path / f"some{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(archive, "w") as bundle:
            for content in ("one", "two"):
                bundle.NameToInfo.clear()
                bundle.writestr("a.txt", content)
    else:
        with tarfile.open(archive, "w:gz") as tape:
            for _ in range(2):
                tape.addfile(tarfile.TarInfo("a.txt"))
    assert "'a.txt' is there twice" in refusal(archive, tmp_path / "into")


@pytest.mark.parametrize("ending", WRITE)
def test_a_file_that_is_also_a_folder_refuses_the_archive(tmp_path: Path, ending: str) -> None:
    archive = WRITE[ending](tmp_path / f"some{ending}", {"a": b"one", "a/b": b"two"})
    assert "a file and a folder" in refusal(archive, tmp_path / "into")


def test_a_name_that_no_terminal_can_show_is_shown_escaped(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "some.tar.gz", {"../\x1b[31m": b""})
    assert r"'../\x1b[31m'" in refusal(archive, tmp_path / "into")


@pytest.mark.parametrize("name", ["text.tar.zst", "text.7z", "text.rar", "text.LZ4"])
def test_what_is_packed_in_an_unknown_way_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENT)
    with pytest.raises(UserError, match="are not opened here") as caught:
        list(read_chunks(path))
    assert "Unpack it yourself" in caught.value.hint


def test_a_zip_packed_by_lzma_is_refused(tmp_path: Path) -> None:
    """Its reader would take as much memory as the member says."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as bundle:
        bundle.writestr("a.txt", "text")
    assert "'a.txt' is compressed by LZMA" in refusal(path, tmp_path / "out")


def test_a_file_that_is_read_whole_has_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simsmoe_cli.data.io.archives.MOST_WHOLE", 1 << 30)
    path = tmp_path / "table.csv"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="has more than 1 GiB") as caught:
        read_whole(path)
    assert caught.value.code == EXIT_DATA


def test_a_fifo_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.csv")
    with pytest.raises(UserError, match="is not a regular file"):
        next(read_chunks(tmp_path / "train.csv"))
