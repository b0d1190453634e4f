"""Finds the files of a text from the source that a user names.

A source is a known corpus, a file, a folder, a glob, an archive of these, or a URL of any of them.
A folder gives its text files (first 8 KiB without a zero byte and valid UTF-8) in the order of
their relative paths, without hidden ones. Linked folders are not entered, and a folder that cannot
be read is an error. A single file named as the source of a corpus of several files stands for its
folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from simsmoe_cli.data.corpora import pystdlib
from simsmoe_cli.data.corpora.facts import Corpus, Member
from simsmoe_cli.data.corpora.parts import Part, Source, deal
from simsmoe_cli.data.io.archives import COMPRESSED, is_opened, read_chunks, require_opened
from simsmoe_cli.data.io.download import Progress, fetch_once
from simsmoe_cli.data.io.locate import Located, is_glob, locate, matches, unpack, walk
from simsmoe_cli.data.tokenizers.base import character_cut
from simsmoe_cli.errors import DataError, counted, listed

LOOK_BYTES = 8192
MOST_SHOWN = 3  # names of files that were left out


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
    if corpus and not given:
        if not corpus.urls:
            return pystdlib.of_this_python(scratch)
        archive = fetch_once(
            corpus.name, corpus.urls, corpus.archive_hash, scratch, downloads, report
        )
        return _in_located(corpus, unpack(corpus.urls[0], archive, scratch))
    if is_glob(given):
        base, files = matches(given)
        return _from_files(corpus, Located(given, base, scratch), files)
    return _in_located(corpus, locate(given, scratch, report))


def _in_located(corpus: Corpus | None, located: Located) -> Source:
    """The files behind a path that is not an archive."""
    path = located.path
    if path.is_file():
        if corpus and len(corpus.members) > 1:
            located = Located(located.given, path.parent, located.scratch, located.limit)
        elif not corpus or corpus.members:
            require_opened(path)
            member = corpus.members[0] if corpus else None
            source = Source(located, [Part(path, path.name, member=member)])
            if member is None and path.stat().st_size and not _is_text(path):
                source.warnings.append(f"{path.name} does not begin as text does")
            return source
    if corpus and not corpus.members:
        return pystdlib.in_folder(located)
    return _from_files(corpus, located, list(walk(located.path)))


def _from_files(corpus: Corpus | None, located: Located, files: list[Path]) -> Source:
    """A source made of several files: the members of a corpus, or all that are text."""
    given, base = located.given, located.path
    if not files:
        raise DataError("no files there", where=given, hint="Check the path.")
    if corpus and corpus.members:
        return Source(located, [_member_file(member, files, given) for member in corpus.members])
    texts = [path for path in files if _is_text(path)]
    if not texts:
        raise DataError(
            f"none of the {len(files)} files there is text",
            where=given,
            hint="Text is UTF-8; a single file of any content can be named itself.",
        )
    source = Source(located, deal(base, texts))
    taken = set(texts)
    left_out = [path.relative_to(base).as_posix() for path in files if path not in taken]
    if left_out:
        names = listed(left_out, MOST_SHOWN)
        source.warnings.append(f"{counted(len(left_out), 'file')} without text left out: {names}")
    return source


def _member_file(member: Member, files: list[Path], given: str) -> Part:
    """The file among these that is this member, by its name, compressed or not."""
    for name in member.names:
        for path in files:
            if path.name == name or (path.suffix in COMPRESSED and path.stem == name):
                return Part(path, path.name, member.split, member)
    if not member.split and len(files) == 1:
        return Part(files[0], files[0].name, member=member)
    raise DataError(
        f"there is no {member.names[0]}" + (f" (the {member.split} split)" if member.split else ""),
        where=given,
        hint=f"A file of that name is needed; {' or '.join(member.names[1:])} will do as well."
        if member.names[1:]
        else "Name the file itself with --source.",
    )


def _is_text(path: Path) -> bool:
    """Whether a file begins as UTF-8 text does; an empty file, or a FIFO, does not."""
    if not os.path.isfile(path) or not is_opened(path):
        return False
    begin = next(read_chunks(path), b"")[:LOOK_BYTES]
    try:
        begin[: character_cut(begin)].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return bool(begin) and b"\0" not in begin
