"""Preparing corpora: downloads, requests that contradict, and what is there already."""

from __future__ import annotations

import hashlib
import lzma
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE
from tests.data.corpora.small import SPLITS, TEXT, WHOLE, decoded, failure, snapshot


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


def test_pystdlib_needs_nothing_and_says_which_python(tmp_path: Path) -> None:
    store = prepare("pystdlib", tmp_path / "data" / "pystdlib")
    source = store.manifest.source
    assert source.python == platform.python_version()
    assert source.files > 300
    assert store.manifest.splits["train"].tokens > 5_000_000
    assert min(info.tokens for info in store.manifest.splits.values()) > 100_000
    assert not prepare("pystdlib", store.path).built


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
