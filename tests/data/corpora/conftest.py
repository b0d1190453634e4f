"""Small corpora that stand for the published ones."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.corpora import facts as corpora
from simsmoe_cli.data.corpora.facts import Member
from tests.data.corpora.small import TEXT, WHOLE, WIKI


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def small_enwik8(monkeypatch: pytest.MonkeyPatch, host: Any) -> bytes:
    """enwik8 with other facts: 50,000 bytes, its archive on a server of ours; the archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("enwik8", WHOLE)
    archive = packed.getvalue()
    member = Member(
        names=("enwik8",),
        size=len(WHOLE),
        sha256=hashlib.sha256(WHOLE).hexdigest(),
        begins=WHOLE[:40],
    )
    facts = dataclasses.replace(
        corpora.ENWIK8,
        urls=(f"{host.url}/enwik8.zip",),
        archive_hash="sha256:" + hashlib.sha256(archive).hexdigest(),
        members=(member,),
    )
    monkeypatch.setattr(corpora, "ENWIK8", facts)
    host.files["/enwik8.zip"] = archive
    return archive


@pytest.fixture
def small_wikitext(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """wikitext-2 with the facts of three small files, and the folder they lie in."""
    members = tuple(
        dataclasses.replace(
            member,
            size=0 if member.split == "train" else len(WIKI[member.split]),
            sha256=""
            if member.split == "train"
            else hashlib.sha256(WIKI[member.split].encode()).hexdigest(),
            lines=WIKI[member.split].count("\n"),
        )
        for member in corpora.WIKITEXT2.members
    )
    monkeypatch.setattr(
        corpora, "WIKITEXT2", dataclasses.replace(corpora.WIKITEXT2, members=members)
    )
    folder = tmp_path / "wikitext"
    folder.mkdir()
    for split, text in WIKI.items():
        (folder / f"wiki.{split}.tokens").write_text(text)
    return folder
