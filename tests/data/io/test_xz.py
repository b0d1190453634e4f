"""Files of .xz: several streams and padding, damage, and a bound on memory."""

from __future__ import annotations

import lzma
import random
from pathlib import Path

import pytest

from simsmoe_cli.data.io.archives import extract, read_chunks
from simsmoe_cli.data.io.xz import MEMORY, XzFile
from simsmoe_cli.errors import EXIT_DATA, UserError

CONTENT = random.Random(0).randbytes(50_000) + b"a" * 3_000_000


def needs(memory: int) -> bytes:
    """A small file that says it needs so large a dictionary."""
    return lzma.compress(b"text", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": memory}])


def test_streams_follow_one_another_with_padding_between(tmp_path: Path) -> None:
    path = tmp_path / "a.xz"
    first, second = lzma.compress(CONTENT[:10]), lzma.compress(CONTENT[10:])
    path.write_bytes(first + b"\0" * 8 + second + b"\0" * (1 << 21))
    assert b"".join(read_chunks(path)) == CONTENT
    with XzFile(path) as file:
        assert file.read() == CONTENT


@pytest.mark.parametrize("end", [b"", b"junk, not a stream"])
def test_a_stream_without_its_end_is_damaged(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "a.xz"
    whole = lzma.compress(CONTENT)
    path.write_bytes(whole + end if end else whole[:-4])
    with pytest.raises(UserError, match="damaged or truncated"):
        list(read_chunks(path))


@pytest.mark.parametrize("name", ["a.xz", "a.tar.xz"])
def test_a_file_that_asks_for_much_memory_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(needs(2 * MEMORY))
    with pytest.raises(UserError) as caught:
        extract(path, tmp_path) if ".tar" in name else list(read_chunks(path))
    assert caught.value.code == EXIT_DATA
    assert caught.value.what == "needs more than 512 MiB of memory to be unpacked"
    path.write_bytes(needs(MEMORY // 4))
    if name == "a.xz":
        assert list(read_chunks(path)) == [b"text"]
