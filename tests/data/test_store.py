"""Token stores: found by name, opened only when whole, read-only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simsmoe_cli.data.prepare import prepare
from simsmoe_cli.data.store import TokenStore, find_store
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError

TEXT = "".join(f"line {number} of the text\n" for number in range(500))


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    source = tmp_path / "own.txt"
    source.write_text(TEXT)
    return prepare(str(source), tmp_path / "data" / "own")


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


def test_splits_are_memory_mapped_and_read_only(store: TokenStore) -> None:
    tokens = store.split("train")
    assert isinstance(tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_a_split_that_is_not_there_is_a_usage_error(store: TokenStore) -> None:
    with pytest.raises(UserError, match="train, valid, test") as caught:
        store.split("validation")
    assert caught.value.code == EXIT_USAGE


def test_a_folder_without_manifest_is_no_store(store: TokenStore) -> None:
    (store.path / "manifest.json").unlink()
    assert "no manifest" in refusal(store.path).what
    assert refusal(store.path.parent / "elsewhere").what == "no prepared corpus"


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda path: shorten(path / "valid.bin"), "valid.bin"),
        (lambda path: (path / "test.bin").unlink(), "test.bin is missing"),
        (lambda path: shorten(path / "tokenizer.json"), "tokenizer.json"),
        (lambda path: shorten(path / "manifest.json"), "manifest"),
        (lambda path: edit(path / "manifest.json", schema_version=99), "schema 99"),
        (lambda path: edit(path / "manifest.json", dtype="<u2"), "ids"),
        (lambda path: edit(path / "manifest.json", unheard_of=1), "manifest"),
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


def test_verify_finds_a_changed_byte(store: TokenStore) -> None:
    file = store.path / "train.bin"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.bin has sha256") as caught:
        TokenStore.open(store.path).verify()
    assert caught.value.code == EXIT_DATA


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
