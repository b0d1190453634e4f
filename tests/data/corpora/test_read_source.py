"""A source is read once: joined, checked against the facts of its corpus, or refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.errors import EXIT_DATA
from tests.data.corpora.small import SPLITS, TEXT, WHOLE, WIKI, failure


def test_a_prefix_is_accepted_with_a_plain_warning(
    small_enwik8: bytes, host: Any, tmp_path: Path
) -> None:
    prefix = tmp_path / "prefix"
    prefix.write_bytes(WHOLE[:1_111])
    out = tmp_path / "data" / "enwik8"
    store = prepare("enwik8", out, source=str(prefix))
    assert not store.manifest.whole
    assert len(store.manifest.warnings) == 1
    assert "1,111 of the 50,000 bytes of enwik8" in store.manifest.warnings[0]
    assert "not the whole corpus" in store.manifest.warnings[0]
    assert [store.manifest.splits[name].tokens for name in SPLITS] == [999, 56, 56]
    assert "made of 1,111 bytes" in failure(EXIT_DATA, "enwik8", out)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (WHOLE[:-1] + b"x", "wrong sha256"),
        (WHOLE + b"x", "more bytes than the 50,000 of enwik8"),
        (b"x" + WHOLE[:1000], "does not begin as enwik8 does"),
        (b"", "empty"),
    ],
    ids=["changed", "longer", "another beginning", "empty"],
)
def test_what_is_not_the_corpus_is_refused(
    small_enwik8: bytes, tmp_path: Path, content: bytes, named: str
) -> None:
    source = tmp_path / "enwik8"
    source.write_bytes(content)
    out = tmp_path / "data" / "enwik8"
    assert named in failure(EXIT_DATA, "enwik8", out, source=str(source))


@pytest.mark.parametrize("kind", ["truncated", "escaping"])
def test_a_bad_zip_is_refused(small_enwik8: bytes, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "enwik8.zip"
    if kind == "truncated":
        source.write_bytes(small_enwik8[: len(small_enwik8) // 2])
    else:
        with zipfile.ZipFile(source, "w") as bundle:
            bundle.writestr("../../enwik8", WHOLE)
    what = failure(EXIT_DATA, "enwik8", tmp_path / "data" / "enwik8", source=str(source))
    assert {"truncated": "truncated", "escaping": "leaves the folder"}[kind] in what


def test_what_was_unpacked_is_named_as_the_user_knows_it(
    small_enwik8: bytes, tmp_path: Path
) -> None:
    source = tmp_path / "my.zip"
    with zipfile.ZipFile(source, "w") as bundle:
        bundle.writestr("prefix", WHOLE[:1_111])
    store = prepare("enwik8", tmp_path / "data" / "enwik8", source=str(source))
    assert store.manifest.warnings[0].startswith(f"{source} (prefix) holds 1,111 of")


@pytest.mark.parametrize(
    ("split", "text", "named"),
    [
        ("valid", WIKI["valid"].replace("dog", "cow"), "wrong sha256"),
        ("train", WIKI["train"] + "more\n", "more lines than the 120 of wikitext-2"),
        ("test", None, r"no wiki.test.tokens (the test split)"),
    ],
    ids=["changed", "longer", "missing"],
)
def test_what_is_not_wikitext_is_refused(
    small_wikitext: Path, tmp_path: Path, split: str, text: str | None, named: str
) -> None:
    file = small_wikitext / f"wiki.{split}.tokens"
    file.unlink()
    if text is not None:
        file.write_text(text)
    out = tmp_path / "data" / "w"
    assert named in failure(EXIT_DATA, "wikitext-2", out, source=str(small_wikitext))


def test_a_part_of_wikitext_is_accepted_with_a_warning(
    small_wikitext: Path, tmp_path: Path
) -> None:
    (small_wikitext / "wiki.train.tokens").write_text("a b\nc d\n")
    store = prepare("wikitext-2", tmp_path / "data" / "w", source=str(small_wikitext))
    assert not store.manifest.whole
    assert "2 of the 120 lines" in store.manifest.warnings[0]


@pytest.mark.parametrize(
    ("ending", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed_text_is_the_same_text(
    own: Path, tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]
) -> None:
    packed = tmp_path / f"own.txt{ending}"
    packed.write_bytes(compress(own.read_bytes()))
    plain = prepare(str(own), tmp_path / "data" / "plain")
    assert prepare(str(packed), tmp_path / "data" / "packed").manifest.splits == (
        plain.manifest.splits
    )


@pytest.mark.parametrize(
    ("content", "options", "named"),
    [
        (b"", {}, "empty"),
        (b"abcd", {}, "too few"),
        (b"a b c\n", {"tokenizer": "words"}, "too few"),
        (TEXT.encode() + b"\xff\n", {"tokenizer": "chars"}, f"offset {len(TEXT.encode())}"),
        (TEXT.encode() + b"\xc3", {"tokenizer": "words"}, f"offset {len(TEXT.encode())}"),
        (TEXT.encode(), {"tokenizer": "sentencepiece", "vocab_size": 99_999}, "--vocab-size"),
    ],
    ids=["empty", "short", "few words", "not utf-8", "torn character", "too many pieces"],
)
def test_text_that_will_not_do_is_refused(
    tmp_path: Path, content: bytes, options: dict[str, Any], named: str
) -> None:
    own = tmp_path / "own.txt"
    own.write_bytes(content)
    assert named in failure(EXIT_DATA, str(own), tmp_path / "data" / "own", **options)


def test_an_offset_counts_from_the_start_of_the_file_it_names(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "a.txt").write_text("fine\n" * 100)
    (folder / "b.txt").write_bytes(b"x" * 1_048_575 + "é".encode() + b"\xfe")
    what = failure(EXIT_DATA, str(folder), tmp_path / "data" / "two", tokenizer="chars")
    assert f"{folder / 'b.txt'}: byte 0xfe at offset 1048577" in what


def test_a_plain_file_is_not_copied(own: Path, tmp_path: Path) -> None:
    sizes = []

    def measure(stage: str, done: int, total: int | None) -> None:
        if stage == "fit the tokenizer":
            sizes.append(
                sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file() and p != own)
            )

    prepare(str(own), tmp_path / "own", on_progress=measure)
    assert sizes[0] < own.stat().st_size // 100


def test_a_file_far_larger_than_the_corpus_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A terabyte of zeros, which no disk holds."""
    with open(tmp_path / "zeros", "wb") as file:
        file.truncate(1 << 40)
    said = failure(EXIT_DATA, "enwik8", tmp_path / "out", source=str(tmp_path / "zeros"))
    assert "more bytes than the 100,000,000 of enwik8" in said
