"""pystdlib-packages: snippets of whole characters, and files that stay in one split."""

from __future__ import annotations

import platform
import sysconfig
from pathlib import Path

import pytest

from simsmoe_cli.data.tasks.parsers import Row
from simsmoe_cli.data.tasks.prepare import prepare_task
from simsmoe_cli.data.tasks.stdlib_snippets import deal, snippets
from simsmoe_cli.errors import EXIT_DATA, UserError


def test_snippets_are_512_bytes_of_whole_characters_and_never_blank() -> None:
    text = "a\n" * 255 + "aé" + "b" * 510 + " " * 512 + "c" * 512 + "d" * 511
    rows = snippets(text.encode(), "package")
    assert [row.text for row in rows] == ["a\n" * 255 + "a", "é" + "b" * 510, "c" * 512]
    assert [(row.line, row.label) for row in rows] == [(n, "package") for n in (1, 256, 256)]


def test_a_file_shorter_than_a_snippet_has_none() -> None:
    assert snippets(b"x" * 511, "p") == []
    assert [row.text for row in snippets(b"x" * 512, "p")] == ["x" * 512]


@pytest.mark.parametrize("sizes", [[10] * 30, [100, 5, 5, 5, 5, 5, 5], [60, 30, 10], [90, 10]])
def test_files_are_dealt_whole_and_most_go_to_train(sizes: list[int]) -> None:
    files = {
        f"p/{name}.py": [Row(f"{name}", "p", line) for line in range(size)]
        for name, size in enumerate(sizes)
    }
    dealt = deal(files)
    names = {split: {row.text for row in rows} for split, rows in dealt.items()}
    assert sum(map(len, names.values())) == len(sizes)
    assert sum(map(len, dealt.values())) == sum(sizes)
    for split in ("valid", "test"):
        assert len(dealt[split]) <= 0.15 * sum(sizes)
    if len(sizes) == 30:
        assert len(dealt["valid"]) == len(dealt["test"]) == 30


def test_packages_of_this_pythons_library(tmp_path: Path) -> None:
    task = prepare_task("pystdlib-packages", tmp_path / "task")
    manifest = task.manifest
    assert manifest.given == f"Python {platform.python_version()}"
    assert {"asyncio", "email", "xml"} <= set(task.labels)
    root = Path(sysconfig.get_path("stdlib"))
    for label, counts in zip(
        task.labels, zip(*(s.per_label for s in manifest.splits.values()), strict=True), strict=True
    ):
        assert (root / label).is_dir()
        assert sum(counts) >= 200
        assert min(counts) > 0
        assert max(counts[1:]) <= 0.15 * sum(counts)
    email = {path.read_text() for path in (root / "email").rglob("*.py")}
    homes: set[tuple[str, str]] = set()
    for split in ("train", "valid", "test"):
        mine = [e.text for e in task.split(split) if task.labels[e.label] == "email"]
        assert mine
        for text in mine:
            assert len(text.encode()) in range(509, 513)
            sources = [source for source in email if text in source]
            assert sources
            if len(sources) == 1:
                homes.add((sources[0], split))
    assert len({source for source, _ in homes}) == len(homes)


def test_a_folder_may_be_named_and_must_hold_packages(tmp_path: Path) -> None:
    for package in ("one", "two"):
        for number in range(30):
            path = tmp_path / "lib" / package / f"{number}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{package} = {number}\n" * 400)
    (tmp_path / "lib/one/latin.py").write_bytes(b"# caf\xe9\n" * 100)
    task = prepare_task("pystdlib-packages", tmp_path / "t", source=str(tmp_path / "lib"))
    assert (task.labels, task.manifest.whole) == (["one", "two"], False)
    assert any("one/latin.py" in note for note in task.manifest.notes)
    with pytest.raises(UserError, match="0 packages with 200 snippets") as caught:
        prepare_task("pystdlib-packages", tmp_path / "u", source=str(tmp_path / "lib/one"))
    assert caught.value.code == EXIT_DATA
