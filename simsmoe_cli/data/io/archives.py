"""Opens the files that texts come in: plain, .gz, .bz2, .xz and .zst; .zip and .tar archives.

Nothing in a compressed file is trusted. The content is counted while it is unpacked, and more than
`LARGEST_RATIO` times the file's size (at least `LEAST_LIMIT`) is refused; for compressed files in
an archive, the archive's size counts. A member with an absolute path, a `..`, a drive letter, a
duplicate name, or that is a link or a device, refuses the whole archive. Damaged and truncated
files are UserErrors.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import IO, Any, cast

from simsmoe_cli.data.io.xz import XzFile
from simsmoe_cli.data.io.zst import ZstFile
from simsmoe_cli.errors import DataError, UserError, printable

CHUNK = 1 << 20
LEAST_LIMIT = 1 << 30
LARGEST_RATIO = 100
MOST_WHOLE = 1 << 31  # bytes of a file that is read whole
MEMBER_BYTES = 1 << 10  # what a member costs, however small: a million of them is an attack
COMPRESSED: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": XzFile,
    ".zst": ZstFile,
}
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
NOT_OPENED = (
    *(".tar.zst", ".tzst", ".7z", ".rar", ".lz4", ".lzma", ".br", ".z", ".tbz2", ".txz"),
    ".parquet",
)


def is_archive(path: Path) -> bool:
    """Whether the name says that the file holds other files."""
    return path.name.lower().endswith(ARCHIVES)


@contextlib.contextmanager
def clear_damage(path: Path) -> Iterator[None]:
    """Turn errors of the readers of compressed files into one UserError."""
    damage = (
        *(EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError),
        *(NotImplementedError, RuntimeError, ValueError, ArithmeticError, LookupError),
        *(struct.error, AttributeError, TypeError),  # of headers that fit no format
    )
    try:
        yield
    except damage as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if error.errno is not None:
            error.filename = error.filename or str(path)
            raise
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return DataError(
        f"cannot be unpacked, it may be damaged or truncated ({printable(reason)})",
        where=str(path),
        hint="Get the file again.",
    )


class _Budget:
    """The number of bytes that a file may still unpack to."""

    def __init__(self, path: Path, limit: int | None):
        self._path = path
        self._limit = limit or limit_for(path)
        self.left = self._limit

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise DataError(
                f"unpacks to more than {self._limit:,} bytes, far more than text of its size would",
                where=str(self._path),
                hint="Unpack it yourself if you trust it, and name what was in it.",
            )


class _Counted(io.RawIOBase):
    """A reader that counts the bytes it reads against a budget."""

    def __init__(self, file: IO[bytes], budget: _Budget):
        self._file, self._budget = file, budget

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        most = self._budget.left + 1
        content = self._file.read(min(size, most) if size >= 0 else most)
        self._budget.spend(len(content))
        return content


def limit_for(*paths: Path) -> int:
    """Most bytes that compressed files or archives may unpack to, together."""
    return max(LEAST_LIMIT, LARGEST_RATIO * sum(path.stat().st_size for path in paths))


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A file to read, unpacked if its name says so, and one whose `tell` is the position in the
    file itself."""
    opener = COMPRESSED.get(path.suffix.lower())
    if opener in (XzFile, ZstFile):
        with opener(path) as file:
            yield cast(IO[bytes], file), cast(IO[bytes], file)
        return
    with open(path, "rb") as raw:
        if opener is None:
            yield raw, raw
        else:
            with opener(raw, "rb") as file:
                yield cast(IO[bytes], file), raw


def read_chunks(path: Path, limit: int | None = None) -> Iterator[bytes]:
    """The content of a file in chunks of a megabyte, decompressed if its name says so.

    Args:
        path: the file.
        limit: most bytes of a compressed one; None: by its size.
    """
    for chunk, _ in read_at(path, limit):
        yield chunk


def read_at(path: Path, limit: int | None = None) -> Iterator[tuple[bytes, int]]:
    """As `read_chunks`, with how many bytes of the file itself were read so far, about."""
    require_opened(path)
    if not path.is_file():  # a FIFO would wait for ever
        raise DataError("is not a regular file", where=str(path))
    packed = path.suffix.lower() in COMPRESSED
    with clear_damage(path), _open(path) as (file, raw):
        budget = _Budget(path, limit)
        while chunk := file.read(CHUNK):
            if packed:
                budget.spend(len(chunk))
            yield chunk, raw.tell()


def read_whole(path: Path, limit: int | None = None) -> bytes:
    """The whole content of a file, decompressed if its name says so.

    Args:
        path: the file.
        limit: as for `read_chunks`.

    Returns:
        Its content; DataError if it is larger than MOST_WHOLE.
    """
    content = bytearray()
    for chunk in read_chunks(path, limit):
        content += chunk
        if len(content) > MOST_WHOLE:
            raise DataError(
                f"has more than {MOST_WHOLE >> 30:,} GiB, and it would be read whole into memory",
                where=str(path),
                hint="Prepare a part of it, or text of this size as a corpus.",
            )
    return bytes(content)


def is_opened(path: Path) -> bool:
    """Whether a file can be opened here, judging by its name."""
    return not path.name.lower().endswith(NOT_OPENED)


def require_opened(path: Path) -> None:
    """Raise a UserError for a file that is packed in a way not known here, judging by its name."""
    if not is_opened(path):
        raise DataError(
            f"files that end in {path.suffix.lower()} are not opened here",
            where=str(path),
            hint=f"Unpack it yourself; {', '.join((*COMPRESSED, '.zip', '.tar'))} are opened.",
        )


def extract(archive: Path, into: Path, limit: int | None = None) -> None:
    """Write every file of an archive below `into`, or refuse the archive.

    Args:
        archive: a .zip or .tar file, the latter compressed or not.
        into: an empty folder.
        limit: most bytes written in all; None: a hundred times the archive's size, at least 1 GiB.
    """
    with clear_damage(archive):
        for name, chunks in _members(archive, limit):
            target = into / _safe_name(name, archive)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "xb") as out:
                    out.writelines(chunks)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise _unsafe(name, "there twice, or a file and a folder", archive) from None


def read_members(
    archive: Path, wanted: Callable[[str], bool], limit: int | None = None
) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files of an archive that are wanted, without writing any.

    Args:
        archive: as for `extract`, and refused for the same reasons.
        wanted: told a name.
        limit: as for `extract`.
    """
    with clear_damage(archive):
        for name, chunks in _members(archive, limit):
            if wanted(name):
                yield name, b"".join(chunks)


def some_names(archive: Path) -> list[str]:
    """Names of files in an archive, by which to judge what it holds; none if it cannot be read.

    Of a tape it is the first file that is no note (.md, or no suffix), since the names of the
    others are found by unpacking all.
    """
    with contextlib.suppress(UserError, OSError), clear_damage(archive):
        if archive.suffix.lower() == ".zip":
            with zipfile.ZipFile(archive) as bundle:
                return [info.filename for info in bundle.infolist() if not info.is_dir()]
        for name, _ in _members(archive, None):
            if PurePath(name).suffix.lower() not in ("", ".md"):
                return [name]
    return []


def _members(archive: Path, limit: int | None) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Name and content of every file of an archive; folders are passed over."""
    budget = _Budget(archive, limit)
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                budget.spend(MEMBER_BYTES)
                if (info.external_attr >> 16) & 0o170000 == 0o120000:
                    raise _unsafe(info.filename, "a link", archive)
                if info.compress_type == zipfile.ZIP_LZMA:  # its reader's memory has no bound
                    raise _unsafe(info.filename, "compressed by LZMA", archive)
                _safe_name(info.filename, archive)
                if not info.is_dir():
                    with bundle.open(info) as file:
                        yield info.filename, _counted(file, budget)
        return
    with _open(archive) as (packed, _):
        # All that is unpacked is counted, the tape's own headers and what follows its end too.
        file = cast(IO[bytes], _Counted(packed, budget))
        with tarfile.open(fileobj=file, mode="r|", errorlevel=2) as tape:
            for member in tape:
                budget.spend(MEMBER_BYTES)
                _safe_name(member.name, archive)
                if member.isreg():
                    with cast(IO[bytes], tape.extractfile(member)) as content:
                        sparse = member.sparse is not None
                        yield member.name, _counted(content, budget if sparse else None)
                elif not member.isdir():
                    raise _unsafe(member.name, "a link or a device", archive)
                tape.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
        while file.read(CHUNK):
            pass  # to the end, where the checksum of a compressed file stands


def _counted(file: IO[bytes], budget: _Budget | None) -> Iterator[bytes]:
    """The content of a member, counted against a budget unless the archive's reader counts it."""
    while chunk := file.read(CHUNK):
        if budget:
            budget.spend(len(chunk))
        yield chunk


def _safe_name(name: str, archive: Path) -> Path:
    """The member's path below the folder it is extracted to."""
    parts = name.replace("\\", "/").rstrip("/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or re.match("[A-Za-z]:", name):
        raise _unsafe(name, "a path that leaves the folder", archive)
    if not any(parts) or "\0" in name:
        raise _unsafe(name, "a name that no file can have", archive)
    return Path(*parts)


def _unsafe(name: str, what: str, archive: Path) -> UserError:
    return DataError(
        f"member '{printable(name)}' is {what}; nothing was extracted from it",
        where=str(archive),
        hint="Unpack it yourself if you trust it, and name the folder.",
    )
