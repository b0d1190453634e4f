"""The token store opens only what its manifest vouches for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.store import TokenStore, find_store
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError
from tests.data.stores import TEXT, facts, make_old, seal, shorten


def refusal(path: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        TokenStore.open(path)
    assert (caught.value.code, caught.value.where) == (EXIT_DATA, str(path))
    return caught.value


def test_a_store_gives_back_the_text_it_was_made_of(store: TokenStore) -> None:
    again = TokenStore.open(store.path)
    again.verify()
    ids = np.concatenate([again.split(name) for name in ("train", "valid", "test")])
    assert ids.dtype == np.uint8
    assert again.tokenizer.decode(ids) == TEXT
    assert again.tokenizer.vocab_size == again.manifest.vocab_size == len(set(TEXT))
    assert (again.manifest.unit, again.manifest.tokenizer) == ("byte", "bytes")


def test_splits_are_read_only(store: TokenStore) -> None:
    tokens = store.split("train")[:10]
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_a_split_is_indexed_as_an_array_is(store: TokenStore) -> None:
    tokens = store.split("train")
    whole = np.fromfile(store.path / "train.bin", dtype=np.uint8)
    assert len(tokens) == len(whole)
    for key in (5, -3, slice(7, 90), slice(None, None, 3), slice(50, 20, -2), slice(9, 9)):
        np.testing.assert_array_equal(TokenStore.open(store.path).split("train")[key], whole[key])
    index = np.array([[0, 3], [len(whole) - 1, -1]])
    np.testing.assert_array_equal(tokens[index], whole[index])
    np.testing.assert_array_equal(np.asarray(tokens), whole)
    with pytest.raises(IndexError):
        tokens[len(whole)]


def test_a_split_that_is_not_there_is_a_usage_error(store: TokenStore) -> None:
    with pytest.raises(UserError, match="train, valid, test") as caught:
        store.split("validation")
    assert caught.value.code == EXIT_USAGE


def test_a_folder_without_manifest_is_no_store(store: TokenStore) -> None:
    (store.path / "manifest.json").unlink()
    assert "no manifest" in refusal(store.path).what
    assert refusal(store.path.parent / "elsewhere").what == "no prepared corpus"


def edit(path: Path, **changes: object) -> None:
    """Change the manifest and nothing else, as by hand."""
    (path / "manifest.json").write_text(json.dumps(facts(path) | changes))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda path: shorten(path / "valid.bin"), "valid.bin"),
        (lambda path: (path / "test.bin").unlink(), "test.bin is missing"),
        (lambda path: shorten(path / "tokenizer.json"), "tokenizer.json"),
        (lambda path: shorten(path / "manifest.json"), "manifest"),
        (lambda path: (path / "manifest.json").write_text("[" * 100_000), "nested too deep"),
        (lambda path: (path / "manifest.json").write_text("[]"), "schema"),
        (lambda path: edit(path, schema_version=99), "schema 99"),
        (lambda path: edit(path, schema_version=True), "schema True"),
        (lambda path: edit(path, unheard_of=1), "checksum"),
        (lambda path: edit(path, name="other"), "checksum"),
        (
            lambda path: (path / "tokenizer.json").write_bytes(
                (path / "tokenizer.json").read_bytes().replace(b"32", b"33")
            ),
            "tokenizer.json has sha256",
        ),
    ],
)
def test_a_manifest_that_does_not_match_its_files_is_refused(
    store: TokenStore, damage: Callable[[Path], object], named: str
) -> None:
    damage(store.path)
    error = refusal(store.path)
    assert named in error.what
    assert "--force" in error.hint
    assert str(error).isprintable()


@pytest.mark.parametrize("count", ["bytes", "characters", "lines", "words", "tokens", "size"])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_count_changed_by_hand_is_noticed(store: TokenStore, split: str, count: str) -> None:
    splits = facts(store.path)["splits"]
    splits[split][count] += 1
    edit(store.path, splits=splits)
    assert "checksum" in refusal(store.path).what


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda all: all.update(splits={}), "splits"),
        (lambda all: all["splits"].pop("valid"), "splits"),
        (lambda all: all["splits"]["test"].update(tokens=0, size=0), "splits.test.tokens"),
        (lambda all: all["splits"]["test"].update(tokens=-5), "splits.test.tokens"),
        (lambda all: all["splits"]["test"].update(tokens="7"), "splits.test.tokens"),
        (lambda all: all["splits"]["test"].update(tokens=7), "bytes for 7 ids"),
        (lambda all: all["splits"]["test"].update(file="/etc/passwd"), "the file of test"),
        (lambda all: all["splits"]["test"].update(file="../own/test.bin"), "the file of test"),
        (lambda all: all["splits"]["test"].update(file="valid.bin"), "the file of test"),
        (lambda all: all["splits"]["test"].update(sha256="x"), "splits.test.sha256"),
        (lambda all: all["splits"]["test"].update(chunks=[]), "0 checksums, not 1"),
        (lambda all: all["splits"]["test"].update(chunks=["0" * 15]), "splits.test.chunks.0"),
        (lambda all: all["splits"]["test"].update(bytes=10**30), "splits.test.bytes"),
        (lambda all: all["splits"]["test"].update(bytes=99), "tokens for 99 bytes"),
        (lambda all: all["tokenizer_file"].update(file="../tokenizer.json"), "tokenizer"),
        (lambda all: all.update(tokenizer="klingon"), "unknown tokenizer 'klingon'"),
        (lambda all: all.update(tokenizer="chars"), "tokenizer chars"),
        (lambda all: all.update(unit="word"), "tokenizer bytes"),
        (lambda all: all.update(dtype="<u2"), "are |u1, not <u2"),
        (lambda all: all.update(dtype="object"), "not object"),
        (lambda all: all.update(vocab_size=0), "vocab_size"),
        (lambda all: all.update(vocab_size=10**30), "vocab_size"),
        (lambda all: all.update(vocab_size=200), "the manifest says 200"),
        (lambda all: all.update(name="\x1b[31m"), "name"),
        (lambda all: all.update(warnings=["two\nlines"]), "warnings.0"),
        (lambda all: all.update(warnings=None), "warnings"),
        (lambda all: all["source"].update(bytes=1), "add up"),
        (lambda all: all.update(unheard_of=1), "unheard_of"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    store: TokenStore, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    content = facts(store.path)
    change(content)
    seal(store.path, content)
    assert named in refusal(store.path).what


def test_a_store_of_the_version_before_is_the_same_corpus(store: TokenStore) -> None:
    before = [store.split(name)[:].tolist() for name in ("train", "valid", "test")]
    fingerprint = store.manifest.fingerprint
    make_old(store.path)
    old = TokenStore.open(store.path)
    old.verify()
    assert old.manifest.fingerprint == fingerprint
    assert [old.split(name)[:].tolist() for name in ("train", "valid", "test")] == before
    assert old.warnings == []


def test_a_large_store_of_the_version_before_says_that_it_is_read_whole(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simsmoe_cli.data.store.MUCH_BYTES", 100)
    assert store.warnings == []
    make_old(store.path)
    (said,) = TokenStore.open(store.path).warnings
    assert "earlier version" in said
    assert "--force" in said


def test_the_manifest_of_the_version_before_must_agree_with_itself(store: TokenStore) -> None:
    make_old(store.path)
    splits = facts(store.path)["splits"]
    splits["test"]["bytes"] *= 6
    edit(store.path, splits=splits)
    assert "tokens for" in refusal(store.path).what


def test_a_store_is_found_by_name_and_by_folder(store: TokenStore, tmp_path: Path) -> None:
    assert find_store("own", tmp_path / "data") == store.path
    assert find_store(str(store.path), tmp_path / "nowhere") == store.path


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("owm", "Did you mean 'own'?"),
        ("enwik8", "simsmoe prepare-data enwik8"),
        ("enwik9", "simsmoe prepare-data enwik8"),
        ("something", "Prepared: own."),
    ],
)
def test_a_store_that_is_not_there_names_the_nearest_and_the_command(
    store: TokenStore, tmp_path: Path, asked: str, hint: str
) -> None:
    with pytest.raises(UserError) as caught:
        find_store(asked, tmp_path / "data")
    assert caught.value.code == EXIT_DATA
    assert hint in caught.value.hint


def test_vocabulary_and_fingerprint_tell_stores_apart(store: TokenStore, tmp_path: Path) -> None:
    def manifest_of(name: str, text: str) -> tuple[str, str]:
        source = tmp_path / f"{name}.txt"
        source.write_text(text)
        manifest = prepare(str(source), tmp_path / "data" / name).manifest
        return manifest.vocabulary, manifest.fingerprint

    first = (store.manifest.vocabulary, store.manifest.fingerprint)
    assert manifest_of("same", TEXT) == first
    other_order = manifest_of("order", TEXT[::-1])
    assert (other_order[0] == first[0], other_order[1] == first[1]) == (True, False)
    assert manifest_of("letters", TEXT + "Z\n" * 9)[0] != first[0]
