"""Preparing a corpus: exact splits, facts checked, nothing half-written, nothing done twice."""

from __future__ import annotations

import bz2
import dataclasses
import errno
import gzip
import hashlib
import io
import lzma
import os
import platform
import random
import shutil
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simsmoe_cli.data.corpora import encode
from simsmoe_cli.data.corpora import facts as corpora
from simsmoe_cli.data.corpora.facts import Corpus, Member
from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError

SPLITS = ("train", "valid", "test")


def _text() -> str:
    """Lines of words, a character of two bytes among them, the same every time."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdeé", k=draw.randint(1, 7))) for _ in range(300)]
    return "".join(" ".join(draw.choices(words, k=draw.randint(0, 9))) + "\n" for _ in range(2500))


TEXT = _text()
WHOLE = TEXT.encode()[:50_000]


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


def decoded(store: TokenStore) -> dict[str, str]:
    return {name: store.tokenizer.decode(store.split(name)) for name in SPLITS}


def failure(code: int, *arguments: Any, **options: Any) -> str:
    """The error of a `prepare` that must fail, and leave its place as it found it."""
    out: Path = arguments[1]
    before = snapshot(out.parent)
    with pytest.raises(UserError) as caught:
        prepare(*arguments, **options)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert snapshot(out.parent) == before
    return str(caught.value)


def snapshot(folder: Path) -> dict[str, int]:
    """Every file below a folder with its time of change, but for locks."""
    files = folder.rglob("*") if folder.is_dir() else []
    return {str(path): path.stat().st_mtime_ns for path in files if path.suffix != ".lock"}


# The published corpora.


def test_a_corpus_is_downloaded_once_checked_and_split_by_bytes(
    small_enwik8: bytes, host: Any, tmp_path: Path
) -> None:
    out = tmp_path / "data" / "enwik8"
    store = prepare("enwik8", out)
    assert store.built
    assert store.manifest.whole
    assert store.manifest.warnings == []
    assert store.manifest.source.sha256 == hashlib.sha256(WHOLE).hexdigest()
    sizes = {name: info.bytes for name, info in store.manifest.splits.items()}
    assert sizes == {"train": 45_000, "valid": 2_500, "test": 2_500}
    alphabet = sorted(set(WHOLE))
    assert store.manifest.vocab_size == len(alphabet)
    ids = np.concatenate([store.split(name) for name in SPLITS])
    assert np.array(alphabet, np.uint8)[ids].tobytes() == WHOLE

    again = prepare("enwik8", out)
    assert not again.built
    other = prepare("enwik8", out.parent / "chars", tokenizer="chars")
    assert "".join(decoded(other).values()).encode() == WHOLE
    assert host.asked == ["/enwik8.zip"]


def test_a_wrong_archive_is_not_used(small_enwik8: bytes, host: Any, tmp_path: Path) -> None:
    host.files["/enwik8.zip"] = small_enwik8[:-1]
    what = failure(EXIT_DATA, "enwik8", tmp_path / "data" / "enwik8")
    assert "wrong sha256" in what
    assert "--source PATH" in what


@pytest.mark.parametrize("form", ["plain", "zip", "xz", "folder", "url"])
def test_a_corpus_is_read_from_where_the_user_has_it(
    small_enwik8: bytes, host: Any, tmp_path: Path, form: str
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "enwik8").write_bytes(WHOLE)
    (tmp_path / "e.zip").write_bytes(small_enwik8)
    (tmp_path / "e.xz").write_bytes(lzma.compress(WHOLE))
    host.files["/other/place.zip"] = small_enwik8
    source = {
        "plain": folder / "enwik8",
        "zip": tmp_path / "e.zip",
        "xz": tmp_path / "e.xz",
        "folder": folder,
        "url": f"{host.url}/other/place.zip",
    }[form]
    store = prepare("enwik8", tmp_path / "data" / "enwik8", source=str(source))
    assert store.manifest.whole
    assert store.manifest.corpus == "enwik8"
    assert [store.manifest.splits[name].tokens for name in SPLITS] == [45_000, 2_500, 2_500]
    assert not prepare("enwik8", store.path).built


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
        (WHOLE + b"x", "more than the 50,000"),
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


def test_byte_splits_move_on_to_a_character_for_tokenizers_of_characters(
    small_enwik8: bytes, tmp_path: Path
) -> None:
    prefix = tmp_path / "prefix"
    content = WHOLE[:40] + "é".encode() * 2000
    prefix.write_bytes(content)
    store = prepare("enwik8", tmp_path / "data" / "e", source=str(prefix), tokenizer="chars")
    assert "".join(decoded(store).values()).encode() == content
    exact = len(content) * 90 // 100
    assert 0 <= store.manifest.splits["train"].bytes - exact <= 3


WIKI = {
    "train": " \n = Title = \n \n the cat <unk> the mat . \n" * 30,
    "valid": " \n = Other = \n a dog . \n" * 3,
    "test": " \n = Third = \n the end",
}


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


def test_wikitext_keeps_its_splits_with_one_eos_a_line(
    small_wikitext: Path, tmp_path: Path
) -> None:
    store = prepare("wikitext-2", tmp_path / "data" / "w", source=str(small_wikitext))
    assert (store.manifest.tokenizer, store.manifest.unit) == ("words", "word")
    assert store.manifest.whole
    words = {
        split: [w for line in text.splitlines() for w in [*line.split(), "<eos>"]]
        for split, text in WIKI.items()
    }
    vocabulary = {word for split in words.values() for word in split}
    assert store.manifest.vocab_size == len(vocabulary)
    for split, expected in words.items():
        info = store.manifest.splits[split]
        assert info.tokens == info.words == len(expected)
        decoded = store.tokenizer.decode(store.split(split)).replace("\n", " <eos> ").split()
        assert decoded == expected


def test_sub_word_stores_count_the_words_of_the_word_level_file(
    small_wikitext: Path, tmp_path: Path
) -> None:
    words = prepare("wikitext-2", tmp_path / "data" / "w", source=str(small_wikitext))
    others = prepare(
        "wikitext-2", tmp_path / "data" / "b", source=str(small_wikitext), tokenizer="bytes"
    )
    for split in SPLITS:
        assert others.manifest.splits[split].words == words.manifest.splits[split].tokens


@pytest.mark.parametrize(
    ("split", "text", "named"),
    [
        ("valid", WIKI["valid"].replace("dog", "cow"), "wrong sha256"),
        ("train", WIKI["train"] + "more\n", "121 lines, more than the 120"),
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


def test_pystdlib_needs_nothing_and_says_which_python(tmp_path: Path) -> None:
    store = prepare("pystdlib", tmp_path / "data" / "pystdlib")
    source = store.manifest.source
    assert source.python == platform.python_version()
    assert source.files > 300
    assert store.manifest.splits["train"].tokens > 5_000_000
    assert min(info.tokens for info in store.manifest.splits.values()) > 100_000
    assert not prepare("pystdlib", store.path).built


# Text of the user's own.


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "words", "sentencepiece"])
def test_own_text_is_cut_at_line_ends_and_comes_back(
    own: Path, tmp_path: Path, tokenizer: str
) -> None:
    size = 400 if tokenizer == "sentencepiece" else None
    store = prepare(str(own), tmp_path / "data" / "own", tokenizer=tokenizer, vocab_size=size)
    texts = decoded(store)
    assert "".join(texts.values()) == TEXT
    assert texts["train"].endswith("\n")
    assert texts["valid"].endswith("\n")
    for split, text in texts.items():
        info = store.manifest.splits[split]
        assert info.bytes == len(text.encode())
        assert info.characters == len(text)
        assert info.lines == text.count("\n")
        assert info.words == len(text.split()) + info.lines
        assert info.tokens == len(store.tokenizer.encode(text))
    share = store.manifest.splits["train"].bytes / len(TEXT.encode())
    assert share == pytest.approx(0.9, abs=0.01)


def test_text_without_line_ends_is_cut_between_characters(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("é" * 999)
    store = prepare(str(own), tmp_path / "data" / "own", tokenizer="chars")
    assert sum(info.tokens for info in store.manifest.splits.values()) == 999


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


def test_many_files_are_split_whole_and_end_with_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(150):
        (folder / f"{number:03}.txt").write_text(f"file {number:03}")
    store = prepare(str(folder), tmp_path / "data" / "many")
    texts = decoded(store)
    lines = [line for text in texts.values() for line in text.splitlines()]
    assert sorted(lines) == [f"file {number:03}" for number in range(150)]
    for text in texts.values():
        assert text.splitlines() == sorted(text.splitlines())


def test_few_files_are_joined_in_order_and_cut(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for letter in "cab":
        (folder / f"{letter}.txt").write_text(f"{letter}\n" * 100)
    store = prepare(str(folder), tmp_path / "data" / "few")
    assert "".join(decoded(store).values()) == "a\n" * 100 + "b\n" * 100 + "c\n" * 100


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    own = tmp_path / "big.txt"
    own.write_text(TEXT * (24_000_000 // len(TEXT.encode())))
    tracemalloc.start()
    prepare(str(own), tmp_path / "data" / "big")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


def test_the_training_sample_of_pieces_is_bounded(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"tokenizer": "sentencepiece", "vocab_size": 320}
    everything = prepare(str(own), tmp_path / "data" / "all", **options)
    monkeypatch.setattr(encode, "SAMPLE_BYTES", 20_000)
    part = prepare(str(own), tmp_path / "data" / "part", **options)
    assert part.manifest.vocabulary != everything.manifest.vocabulary
    assert "".join(decoded(part).values()) == TEXT


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


@pytest.mark.parametrize(
    ("corpus", "options", "code", "named"),
    [
        ("enwik9", {}, EXIT_USAGE, "Did you mean 'enwik8'?"),
        ("wikitext2", {}, EXIT_USAGE, "Did you mean 'wikitext-2'?"),
        ("enwik8", {"source": "nowhere/enwik8"}, EXIT_DATA, "no such file"),
        ("nowhere/text.txt", {}, EXIT_DATA, "no such file"),
        ("nowhere/text.txt", {"source": "x"}, EXIT_USAGE, "--source"),
        ("pystdlib", {"tokenizer": "byte"}, EXIT_USAGE, "Did you mean 'bytes'?"),
        ("pystdlib", {"vocab": "bytes255"}, EXIT_USAGE, "Did you mean 'bytes256'?"),
        ("pystdlib", {"vocab_size": 100}, EXIT_USAGE, "--vocab-size"),
        ("pystdlib", {"tokenizer": "words", "vocab_size": 2}, EXIT_USAGE, "--vocab-size"),
        ("pystdlib", {"tokenizer": "chars", "vocab": "bytes256"}, EXIT_USAGE, "--vocab"),
        ("pystdlib", {"sp_model": "bpe"}, EXIT_USAGE, "--sp-model"),
    ],
)
def test_wrong_requests_touch_nothing(
    tmp_path: Path, corpus: str, options: dict[str, Any], code: int, named: str
) -> None:
    assert named in failure(code, corpus, tmp_path / "data" / "new", **options)
    assert not (tmp_path / "data").exists()


# What is there already.


def test_preparing_again_changes_nothing(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "own"
    prepare(str(own), out, tokenizer="words", vocab_size=100)
    before = snapshot(out)
    moved = own.rename(tmp_path / "moved.txt")
    store = prepare(str(moved), out, tokenizer="words", vocab_size=100)
    assert not store.built
    assert snapshot(out) == before


def test_another_request_for_the_same_place_says_what_differs(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "own"
    prepare(str(own), out)
    assert "tokenizer is bytes, not chars" in failure(EXIT_DATA, str(own), out, tokenizer="chars")
    assert "vocab is corpus, not bytes256" in failure(EXIT_DATA, str(own), out, vocab="bytes256")
    assert "corpus is none, not pystdlib" in failure(EXIT_DATA, "pystdlib", out)
    own.write_text(TEXT[::-1])
    assert "the source now has" in failure(EXIT_DATA, str(own), out)
    store = prepare(str(own), out, tokenizer="chars", force=True)
    assert store.built
    assert "".join(decoded(store).values()) == TEXT[::-1]
    assert [path.name for path in out.parent.iterdir() if path.suffix != ".lock"] == ["own"]


def test_a_damaged_store_is_refused_until_it_is_forced(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "own"
    prepare(str(own), out)
    (out / "train.bin").write_bytes(b"")
    assert "--force" in failure(EXIT_DATA, str(own), out)
    prepare(str(own), out, force=True).verify()


@pytest.mark.parametrize("force", [False, True])
def test_a_place_with_something_else_in_it_is_left_alone(
    own: Path, tmp_path: Path, force: bool
) -> None:
    out = tmp_path / "data" / "own"
    out.mkdir(parents=True)
    (out / "thesis.tex").write_text("years of work")
    assert "left alone" in failure(EXIT_DATA, str(own), out, force=force)


def test_a_store_can_borrow_the_tokenizer_of_another(own: Path, tmp_path: Path) -> None:
    lender = prepare(str(own), tmp_path / "data" / "own", tokenizer="words", vocab_size=50)
    other = tmp_path / "other.txt"
    other.write_text(TEXT[: len(TEXT) // 2] + "unheard of\n")
    out = tmp_path / "data" / "other"
    store = prepare(str(other), out, vocab_from=lender.path)
    assert store.manifest.vocabulary == lender.manifest.vocabulary
    assert store.manifest.vocab_size == 50
    assert store.tokenizer.decode(store.split("test")[-3:]) == "<unk> <unk>\n"
    assert not prepare(str(other), out, vocab_from=lender.path).built
    assert "vocab-from" in failure(EXIT_DATA, str(other), out, tokenizer="words", vocab_size=50)
    assert "--vocab-from" in failure(
        EXIT_USAGE, str(other), out, vocab_from=lender.path, tokenizer="chars"
    )


def test_a_borrowed_alphabet_that_lacks_a_byte_is_an_error(own: Path, tmp_path: Path) -> None:
    lender = prepare(str(own), tmp_path / "data" / "own")
    other = tmp_path / "other.txt"
    other.write_text("XYZ\n" * 100)
    what = failure(EXIT_DATA, str(other), tmp_path / "data" / "other", vocab_from=lender.path)
    assert "byte 0x58 'X'" in what
    assert "bytes256" in what


def test_a_url_is_not_fetched_again(host: Any, tmp_path: Path) -> None:
    host.files["/own.txt"] = TEXT.encode()
    out = tmp_path / "data" / "own"
    assert prepare(f"{host.url}/own.txt", out).built
    assert not prepare(f"{host.url}/own.txt", out).built
    assert host.asked == ["/own.txt"]


def test_an_interrupted_run_leaves_nothing(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "own"

    def interrupt(stage: str, done: int, total: int | None) -> None:
        if stage == "encode":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(str(own), out, on_progress=interrupt)
    assert snapshot(out.parent) == {}
    shutil.rmtree(out.parent)
    assert prepare(str(own), out).built


def test_a_disk_that_fails_while_text_is_encoded_is_an_error(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def fail(descriptor: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            asked.set()
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(encode, "SYNC_BYTES", 1)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="input/output error") as raised:
        prepare(str(own), tmp_path / "store")
    assert asked.is_set()
    assert raised.value.code == EXIT_DATA
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store.lock", "own.txt"]


def test_every_corpus_of_the_registry_has_its_facts() -> None:
    from simsmoe_cli.registry import CORPORA, load

    for name in CORPORA:
        facts: Corpus = load("corpora", name)
        assert facts.name == name
        assert all(url.endswith(".zip") for url in facts.urls)
        assert bool(facts.urls) == bool(facts.archive_hash) == bool(facts.members)
        splits = tuple(member.split for member in facts.members)
        assert splits == {"members": SPLITS, "bytes": ("",), "files": ()}[facts.split]


def test_a_file_that_changes_meanwhile_is_refused(own: Path, tmp_path: Path) -> None:
    def meddle(stage: str, done: int, total: int | None) -> None:
        if stage == "encode":
            own.write_text(TEXT.replace("a", "b"))

    with pytest.raises(UserError, match="changed while it was read") as raised:
        prepare(str(own), tmp_path / "own", on_progress=meddle)
    assert raised.value.code == EXIT_DATA
    assert not (tmp_path / "own").exists()
    prepare(str(own), tmp_path / "own")


def test_a_plain_file_is_not_copied(own: Path, tmp_path: Path) -> None:
    sizes = []

    def measure(stage: str, done: int, total: int | None) -> None:
        if stage == "fit the tokenizer":
            sizes.append(
                sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file() and p != own)
            )

    prepare(str(own), tmp_path / "own", on_progress=measure)
    assert sizes[0] < own.stat().st_size // 100
