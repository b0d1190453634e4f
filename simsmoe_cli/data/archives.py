"""Opening what text travels in: plain, .gz, .bz2 and .xz files; .zip and .tar archives.

Extraction trusts nothing an archive says: a member with an absolute path, a `..`, a drive letter,
or that is a link or a device refuses the whole archive, and so does more content than `limit`
allows, counted as it is written. Damaged and truncated files are UserErrors.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from simsmoe_cli.errors import EXIT_DATA, UserError

CHUNK = 1 << 20
LEAST_LIMIT = 1 << 30
LARGEST_RATIO = 100
COMPRESSED: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


def is_archive(path: Path) -> bool:
    """Whether the name says that the file holds other files."""
    return path.name.lower().endswith(ARCHIVES)


@contextlib.contextmanager
def clear_damage(path: Path) -> Iterator[None]:
    """Turn what the readers of compressed files raise into one UserError."""
    damage = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)
    try:
        yield
    except (*damage, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return UserError(
        f"cannot be unpacked, it may be damaged or truncated ({reason})",
        where=str(path),
        hint="Get the file again.",
        code=EXIT_DATA,
    )


def _open(path: Path) -> IO[bytes]:
    opener = COMPRESSED.get(path.suffix.lower(), open)
    return cast(IO[bytes], opener(path, "rb"))


def read_chunks(path: Path) -> Iterator[bytes]:
    """The content of a file in chunks of a megabyte, decompressed if its name says so."""
    with clear_damage(path), _open(path) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def extract(archive: Path, into: Path, limit: int | None = None) -> None:
    """Write every file of an archive below `into`, or refuse the archive.

    Args:
        archive: a .zip or .tar file, the latter compressed or not.
        into: an empty folder.
        limit: most bytes written in all; None: a hundred times the archive's size, at least 1 GiB.
    """
    budget = limit or _budget(archive)
    with clear_damage(archive):
        for name, file in _members(archive):
            target = into / _safe_name(name, archive)
            target.parent.mkdir(parents=True, exist_ok=True)
            with file, open(target, "wb") as out:
                while chunk := file.read(CHUNK):
                    budget -= len(chunk)
                    if budget < 0:
                        raise _too_much(archive)
                    out.write(chunk)


def read_members(
    archive: Path, wanted: Callable[[str], bool], limit: int | None = None
) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files of an archive that are wanted, without writing any.

    Args:
        archive: as for `extract`, and refused for the same reasons.
        wanted: told a name.
        limit: as for `extract`.
    """
    budget = limit or _budget(archive)
    with clear_damage(archive):
        for name, file in _members(archive):
            if wanted(name):
                with file:
                    content = file.read(budget + 1)
                budget -= len(content)
                if budget < 0:
                    raise _too_much(archive)
                yield name, content


def _budget(archive: Path) -> int:
    return max(LEAST_LIMIT, LARGEST_RATIO * archive.stat().st_size)


def _too_much(archive: Path) -> UserError:
    return UserError(
        "holds far more than a corpus of its size would",
        where=str(archive),
        hint="Unpack it yourself if you trust it, and name the folder.",
        code=EXIT_DATA,
    )


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and open content of every file of an archive; folders are passed over."""
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                if (info.external_attr >> 16) & 0o170000 == 0o120000:
                    raise _unsafe(info.filename, "a link", archive)
                _safe_name(info.filename, archive)
                if not info.is_dir():
                    yield info.filename, bundle.open(info)
        return
    with _open(archive) as file:
        with tarfile.open(fileobj=file, mode="r|", errorlevel=2) as tape:
            for member in tape:
                _safe_name(member.name, archive)
                if member.isreg():
                    yield member.name, cast(IO[bytes], tape.extractfile(member))
                elif not member.isdir():
                    raise _unsafe(member.name, "a link or a device", archive)
        while file.read(CHUNK):
            pass  # to the end, where the checksum of a compressed file stands


def _safe_name(name: str, archive: Path) -> Path:
    """The member's path below the folder it is extracted to."""
    parts = name.replace("\\", "/").rstrip("/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or re.match("[A-Za-z]:", name):
        raise _unsafe(name, "a path that leaves the folder", archive)
    return Path(*parts)


def _unsafe(name: str, what: str, archive: Path) -> UserError:
    return UserError(
        f"member {name!r} is {what}; nothing was extracted from it",
        where=str(archive),
        hint="Unpack it yourself if you trust it, and name the folder.",
        code=EXIT_DATA,
    )
