"""Hostile and damaged sources: prepare-data makes a store of them or says why not, in one line.

Compressed files, archives, folders and tables, some sound, most broken. Nothing may be written
outside the store's place, and nothing half-written may stay.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from simsmoe_cli.data.io import archives
from simsmoe_cli.data.store import TokenStore, is_store
from simsmoe_cli.data.tasks.store import Task
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE
from tests.fuzz.driving import (
    cases,
    contents,
    damaged,
    require_clear,
    require_nothing_half_written,
    simsmoe,
)

TEXT = "".join(f"line {number} of a text\n" for number in range(300)).encode()
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
NAMES = (
    *("a.txt", "b/c.txt", "d.md", "é.txt", "../evil.txt", "/tmp/evil.txt", "a/../../evil.txt"),
    *("C:\\evil.txt", "..\\evil", "x" * 300, "y/" * 200 + "z", "a.txt/b", "a\x1b[31m.txt", "."),
    *("", "nested.zip", "nested.gz", ".hidden", "a\nb.txt", "\udce9.txt"),
)
LIMIT = 1 << 20
GZIP_BOMB = gzip.compress(bytes(2 * LIMIT))
ZIP = b"PK\x05\x06" + bytes(18)  # of nothing


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts as a bomb, small enough to be tried often."""
    monkeypatch.setattr(archives, "LEAST_LIMIT", LIMIT)


def _content(rng: random.Random) -> bytes:
    odd = [b"", b"\0" * 100, b"\xff\xfe" + TEXT, rng.randbytes(500), b"x" * 3000, GZIP_BOMB, ZIP]
    return rng.choice([TEXT, TEXT, TEXT, *odd])


def _zip(rng: random.Random, names: list[str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename = name.encode(errors="replace").decode()
            if rng.random() < 0.05:
                info.external_attr = 0o120777 << 16
            content = bytes(2 * LIMIT) if rng.random() < 0.05 else _content(rng)
            bundle.NameToInfo.clear()  # it warns of a name that comes twice
            bundle.writestr(info, content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _tar(rng: random.Random, names: list[str]) -> bytes:
    packed = io.BytesIO()
    form = rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    with tarfile.open(fileobj=packed, mode="w", format=form) as tape:
        for name in names:
            info = tarfile.TarInfo(name)
            if rng.random() < 0.1:
                info.type = rng.choice(
                    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
                )
                info.linkname = "/etc/passwd"
                tape.addfile(info)
                continue
            content = bytes(2 * LIMIT) if rng.random() < 0.05 else _content(rng)
            info.size = len(content)
            tape.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def make_source(folder: Path, rng: random.Random) -> Path:
    """A file or folder to be prepared, rarely a sound one."""
    folder.mkdir()
    kind = rng.choice(["zip", "tar", "tar.gz", "gz", "bz2", "xz", "folder", "plain", "odd"])
    names = rng.sample(NAMES, rng.randrange(1, 4)) if rng.random() < 0.6 else ["a.txt", "b/c.txt"]
    if rng.random() < 0.1:
        names = names * 2
    path = folder / f"own.{kind}"
    if kind in ("zip", "tar", "tar.gz"):
        content = (_zip if kind == "zip" else _tar)(rng, names)
        if kind == "tar.gz":
            content = gzip.compress(content)
    elif f".{kind}" in COMPRESS:
        bomb = rng.random() < 0.2
        content = COMPRESS[f".{kind}"](bytes(2 * LIMIT) if bomb else _content(rng))
    elif kind == "plain":
        path, content = folder / rng.choice(["own.txt", "own", "own.zst", "own.tgz"]), _content(rng)
    elif kind == "folder":
        path.mkdir()
        for name in ("a.txt", "b/c.txt", "d.txt.gz"):
            target = path / name
            target.parent.mkdir(exist_ok=True)
            text = _content(rng)
            target.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        if rng.random() < 0.5:
            os.mkfifo(path / "fifo.txt")
            (path / "loop").symlink_to(path)
            (path / "gone.txt").symlink_to("nothing")
        return path / "**" / "*.txt" if rng.random() < 0.3 else path
    else:
        os.mkfifo(folder / "fifo")
        (folder / "loop").symlink_to("loop")
        odd = ["fifo", "loop", "x" * 5000, "nothing", "own.zip/below", "*[", "nul\0", "\x1b[31m"]
        return folder / rng.choice(odd)
    path.write_bytes(damaged(content, rng) if rng.random() < 0.3 else content)
    return path


def test_a_source_is_prepared_or_refused_and_nothing_else_happens(tmp_path: Path) -> None:
    made = 0
    for case, rng in enumerate(cases(160, seed=1)):
        here = tmp_path / f"{case}"
        here.mkdir()
        source = make_source(here / "source", rng)
        before = contents(here / "source") if not _has_pipes(source) else {}
        asked = rng.choice([[], [], ["--tokenizer", "chars"], ["--tokenizer", "words"]])
        out = here / "data" / "own"
        outcome = simsmoe("prepare-data", str(source), "--out", str(out), *asked)
        require_clear(outcome, (0, EXIT_DATA, EXIT_USAGE))
        require_nothing_half_written(here)
        assert sorted(os.listdir(here)) in (["source"], ["data", "source"])
        assert not before or contents(here / "source") == before
        if outcome.code == 0:
            made += 1
            TokenStore.open(out).verify()
        else:
            assert not is_store(out)
            assert not out.exists()
        shutil.rmtree(here)
    assert not Path("/tmp/evil.txt").exists()
    assert made > 12


def _has_pipes(source: Path) -> bool:
    return any(path.is_fifo() for path in source.parent.rglob("*")) or "**" in str(source)


def make_table(path: Path, rng: random.Random) -> Path:
    """A table of texts and labels, about one in five a sound one."""
    kind = rng.choice([".csv", ".tsv", ".jsonl", ".csv.gz", ".jsonl.xz", ".txt", ".json"])
    rows = [(f"text {n}", "ab"[n % 2]) for n in range(30)]
    if ".json" in kind:
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    else:
        mark = "\t" if kind == ".tsv" else ","
        lines = [f"text{mark}label", *(f"{text}{mark}{label}" for text, label in rows)]
    if rng.random() < 0.8:
        place = rng.randrange(len(lines))
        odd = [
            "",
            "\0",
            '"',
            "a,b,c,d",
            "[" * 5000,
            "null",
            '{"text": 1}',
            "x" * 100_000,
            "\x1b[2J",
        ]
        odd += ["text,text", '{"text": "a", "label": [1]}', '"a\nb",a', ",", "\t", "label,x" * 9000]
        lines[place] = rng.choice(odd)
    content = "\n".join(lines).encode()
    if rng.random() < 0.3:
        content = damaged(content, rng)
    if rng.random() < 0.1:
        content = bytes(2 * LIMIT)
    ending = "." + kind.rpartition(".")[2]
    file = path / f"own{kind}"
    file.write_bytes(COMPRESS[ending](content) if ending in COMPRESS else content)
    return file


def test_a_table_is_prepared_or_refused_and_nothing_else_happens(tmp_path: Path) -> None:
    made = 0
    for case, rng in enumerate(cases(100, seed=2)):
        here = tmp_path / f"{case}"
        here.mkdir()
        table = make_table(here, rng)
        before = contents(here)
        column = rng.choice(["label", "label", "label", "lable", "\x1b[31m", "x" * 5000, "text"])
        out = here / "data" / "own"
        outcome = simsmoe("prepare-data", str(table), "--label-column", column, "--out", str(out))
        require_clear(outcome, (0, EXIT_DATA, EXIT_USAGE))
        require_nothing_half_written(here)
        if outcome.code == 0:
            made += 1
            Task.open(out).verify()
        else:
            assert contents(here) == before
        shutil.rmtree(here)
    assert made > 6
