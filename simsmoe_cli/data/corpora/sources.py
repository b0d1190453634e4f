"""From what a user names to the files to be read, each with the split it belongs to.

A source is a known corpus, a file, a folder, a glob, an archive of these, or a URL of any of
them. Choices made here:

* A folder gives its text files (first 8 KiB without a zero byte and valid UTF-8), hidden ones
  left out, in the order of their relative paths. Linked folders are not entered, and a folder that
  cannot be read is an error.
* Files are dealt to splits 90/5/5 by a fixed hash of the relative path, so that a file stays in
  its split when others come and go. With fewer than 100 files, or when a split would stay empty,
  they are joined in order and cut as one text instead.
* pystdlib is every *.py file of the running Python's standard library but for tests,
  site-packages, and the two places where an installation writes down its own machine
  (`_sysconfigdata*`, `config-*`).
* A single file named as the source of a corpus of several files stands for its folder.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import platform
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from simsmoe_cli.data.corpora.facts import SPLITS, Corpus, Member
from simsmoe_cli.data.io.archives import (
    COMPRESSED,
    extract,
    is_archive,
    is_opened,
    limit_for,
    read_chunks,
    require_opened,
)
from simsmoe_cli.data.io.download import Progress, fetch, holds, is_url, url_name
from simsmoe_cli.data.store import names_in
from simsmoe_cli.data.tokenizers.base import character_cut
from simsmoe_cli.errors import EXIT_DATA, UserError, printable
from simsmoe_cli.files import atomic

FEWEST_FILES = 100
LOOK_BYTES = 8192
LONGEST_NAME = 255
ENDINGS = {*COMPRESSED, ".txt", ".zip", ".tar", ".tgz"}
NOT_STDLIB = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


@dataclass(frozen=True)
class Part:
    """One file to read: its path, its name within the source, and its split if that is fixed."""

    path: Path
    name: str
    split: str = ""
    member: Member | None = None


@dataclass
class Source:
    """All files of a text in reading order; either every one has a split or none has.

    `limit` is the most bytes that compressed ones unpack to, together; None: by their own sizes.
    """

    given: str
    parts: list[Part]
    python: str = ""
    whole: bool = True
    scratch: Path | None = None
    limit: int | None = None
    warnings: list[str] = field(default_factory=list)

    def where(self, part: Part) -> str:
        """The part as a user knows it, who never sees what is downloaded or unpacked."""
        hidden = self.scratch is not None and part.path.is_relative_to(self.scratch)
        return f"{self.given} ({part.name})" if hidden else str(part.path)


def resolve(
    corpus: Corpus | None, given: str, scratch: Path, downloads: Path, report: Progress
) -> Source:
    """The files behind a corpus or a path.

    Args:
        corpus: the known corpus to be read, or None for the user's own text.
        given: path, glob or URL; empty for where the corpus officially is.
        scratch: a folder of the caller's for what is downloaded from a given URL or unpacked.
        downloads: where the official archives are kept.
        report: told about progress.
    """
    source = _resolve(corpus, given, scratch, downloads, report)
    source.scratch = scratch
    return source


def _resolve(
    corpus: Corpus | None, given: str, scratch: Path, downloads: Path, report: Progress
) -> Source:
    if corpus and not given:
        if not corpus.urls:
            return _standard_library(Path(sysconfig.get_path("stdlib")), "")
        path = official(corpus.name, corpus.urls, corpus.archive_hash, scratch, downloads, report)
        given = corpus.urls[0]
    elif _is_glob(given):
        return _from_files(corpus, given, *_glob(given))
    else:
        path = reach(given, scratch, report)
    limit = limit_for(path) if is_archive(path) else None
    source = _opened(corpus, given, unpacked(path, scratch))
    source.limit = limit
    return source


def _opened(corpus: Corpus | None, given: str, path: Path) -> Source:
    """The files behind a path that is no archive."""
    if path.is_file():
        if corpus and len(corpus.members) > 1:
            path = path.parent
        elif not corpus or corpus.members:
            require_opened(path)
            member = corpus.members[0] if corpus else None
            source = Source(given, [Part(path, path.name, member=member)])
            if member is None and path.stat().st_size and not _is_text(path):
                source.warnings.append(f"{path.name} does not begin as text does")
            return source
    if corpus and not corpus.members:
        return _standard_library(path, given)
    return _from_files(corpus, given, path, list(walk(path)))


def official(
    name: str,
    urls: Sequence[str],
    known_hash: str,
    scratch: Path,
    downloads: Path,
    report: Progress,
) -> Path:
    """A file of the corpus or task `name` from its official host, downloaded once and kept."""
    kept = downloads / url_name(urls[0])
    if not holds(kept, known_hash):
        hint = (
            f"If you have the file, use: simsmoe prepare-data {name} --source PATH. "
            "pystdlib and pystdlib-packages need no network."
        )
        fresh = fetch(urls, scratch, report, known_hash=known_hash, hint=hint)
        downloads.mkdir(parents=True, exist_ok=True)
        atomic.move(fresh, kept)
    return kept


def reach(given: str, scratch: Path, report: Progress) -> Path:
    """The file or folder behind a path or a URL, downloaded if need be."""
    if is_url(given):
        hint = "Check the address and the network, or download it and name the file."
        return fetch([given], scratch, report, hint=hint)
    return require_exists(given)


def unpacked(path: Path, scratch: Path) -> Path:
    """A folder with what is in an archive; any other path as it is."""
    if not is_archive(path):
        return path
    folder = scratch / "unpacked"
    folder.mkdir()
    extract(path, folder)
    return folder


def require_exists(given: str) -> Path:
    """The path that is given; a UserError (EXIT_DATA) if no file or folder is there."""
    path = user_path(given)
    if not given or is_url(given) or _is_glob(given):
        return path
    if not os.path.exists(path):
        close = difflib.get_close_matches(path.name[:LONGEST_NAME], names_in(path.parent), n=1)
        hint = f"Did you mean '{path.parent / close[0]}'?" if close else "Check the path."
        raise UserError("no such file or folder", where=given, hint=hint, code=EXIT_DATA)
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(
            "is neither a file nor a folder",
            where=given,
            hint="Write the text to a file first.",
            code=EXIT_DATA,
        )
    return path


def user_path(given: str) -> Path:
    """A path as a user writes it, with `~` for the home folder."""
    if "\0" in given:
        raise UserError("no file can have such a name", where=given, code=EXIT_DATA)
    return Path(os.path.expanduser(given))


def default_name(given: str) -> str:
    """A name for the store of a path, glob or URL: its last fixed part without its endings."""
    if is_url(given):
        name = url_name(given)
    else:
        path = _glob_base(given) if _is_glob(given) else user_path(given)
        name = os.path.basename(os.path.realpath(path))
    while (ending := Path(name).suffix.lower()) in ENDINGS:
        name = name[: -len(ending)]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "text"


def _is_glob(given: str) -> bool:
    magic = any(sign in given for sign in "*?[")
    return magic and not is_url(given) and not os.path.exists(given)


def _glob_base(pattern: str) -> Path:
    """The folder that a pattern begins in."""
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    return user_path(fixed.rpartition("/")[0] or ("/" if fixed.startswith("/") else "."))


def _glob(pattern: str) -> tuple[Path, list[Path]]:
    """The folder a pattern begins in, and the files it matches.

    `**` stands for folders, however deep, but enters no linked ones; hidden files and folders are
    matched only where the pattern names them.
    """
    base = _glob_base(pattern)
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    wanted = pattern[len(fixed.rpartition("/")[0]) :].strip("/").split("/")
    parts = [part if part == "**" else re.sub(r"\*\*+", "*", part) for part in wanted]
    if parts[-1] == "**":
        parts.append("*")
    try:
        matches = set(base.glob("/".join(parts)))
    except (ValueError, NotImplementedError, IndexError) as error:
        raise UserError(f"is no pattern: {error}", where=pattern, code=EXIT_DATA) from None
    named = any(part.startswith(".") for part in parts)
    return base, sorted(
        match
        for match in matches
        if os.path.isfile(match) and (named or not _is_hidden(match.relative_to(base)))
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, hidden ones and linked folders left out; OSError for a folder that
    cannot be read."""
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(place, name)


def _raise(error: OSError) -> None:
    raise error


def _from_files(corpus: Corpus | None, given: str, base: Path, files: list[Path]) -> Source:
    """A source made of several files: the members of a corpus, or all that are text."""
    if not files:
        raise UserError("no files there", where=given, code=EXIT_DATA, hint="Check the path.")
    if corpus and corpus.members:
        return Source(given, [_member_file(member, files, given) for member in corpus.members])
    texts = [path for path in files if _is_text(path)]
    if not texts:
        raise UserError(
            f"none of the {len(files)} files there is text",
            where=given,
            hint="Text is UTF-8; a single file of any content can be named itself.",
            code=EXIT_DATA,
        )
    source = Source(given, _dealt(base, texts))
    left_out = [path.relative_to(base).as_posix() for path in files if path not in set(texts)]
    if left_out:
        shown = ", ".join(map(printable, left_out[:3])) + (", ..." if len(left_out) > 3 else "")
        source.warnings.append(f"{len(left_out)} files without text were left out: {shown}")
    return source


def _member_file(member: Member, files: list[Path], given: str) -> Part:
    """The file among these that is this member, by its name, compressed or not."""
    for name in member.names:
        for path in files:
            if path.name == name or (path.suffix in COMPRESSED and path.stem == name):
                return Part(path, path.name, member.split, member)
    if not member.split and len(files) == 1:
        return Part(files[0], files[0].name, member=member)
    raise UserError(
        f"there is no {member.names[0]}" + (f" (the {member.split} split)" if member.split else ""),
        where=given,
        hint=f"A file of that name is needed; {' or '.join(member.names[1:])} will do as well."
        if member.names[1:]
        else "Name the file itself with --source.",
        code=EXIT_DATA,
    )


def _is_text(path: Path) -> bool:
    """Whether a file begins as UTF-8 text does; an empty one is none, and what is no file."""
    if not os.path.isfile(path) or not is_opened(path):
        return False
    begin = next(read_chunks(path), b"")[:LOOK_BYTES]
    try:
        begin[: character_cut(begin)].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return bool(begin) and b"\0" not in begin


def _dealt(base: Path, files: list[Path]) -> list[Part]:
    """The files in reading order, with splits if there are enough to go by file."""
    parts = [Part(path, path.relative_to(base).as_posix()) for path in files]
    parts.sort(key=lambda part: part.name)
    dealt = [replace(part, split=split_of(part.name)) for part in parts]
    if len(parts) < FEWEST_FILES or {part.split for part in dealt} != set(SPLITS):
        return parts
    return sorted(dealt, key=lambda part: SPLITS.index(part.split))


def split_of(name: str) -> str:
    """The split of a file: 90/5/5 by the SHA-256 of its relative path."""
    share = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64
    return "train" if share < 0.90 else "valid" if share < 0.95 else "test"


def _standard_library(folder: Path, given: str) -> Source:
    """Python's own source, or a folder said to be one."""
    files = [path for path in walk(folder) if path.suffix == ".py" and _in_stdlib(path, folder)]
    files = [path for path in files if os.path.isfile(path) and path.stat().st_size]
    if not files:
        raise UserError(
            "no Python source there",
            where=given or str(folder),
            hint="Name the standard library's folder with --source, or prepare other text.",
            code=EXIT_DATA,
        )
    source = Source(given or f"Python {platform.python_version()}", _dealt(folder, files))
    if given:
        source.whole = False
        source.warnings.append(f"{given} was taken for a standard library; its version is unknown")
    else:
        source.python = platform.python_version()
    return source


def _in_stdlib(path: Path, folder: Path) -> bool:
    *above, name = path.relative_to(folder).parts
    generated = name.startswith("_sysconfigdata") or any(p.startswith("config-") for p in above)
    return not generated and not NOT_STDLIB.intersection(above)
