"""Files are dealt to splits by their paths, if there are enough."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from simsmoe_cli.data.corpora.parts import split_of
from tests.data.given import parts_of


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
