"""Data sets of Hugging Face, read from a folder of their files; needs the package datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.documents import encode, shards
from simsmoe_cli.data.documents.prepare import Documents, prepare_documents
from simsmoe_cli.errors import EXIT_DATA, UserError
from tests.data.documents.given import documents_in, some_texts, write_lines

pytest.importorskip("datasets")
TRAIN = some_texts(9000, 1)


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Documents:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(shards, "SHARD_BYTES", 1 << 16)
    write_lines(tmp_path / "set" / "train-0.jsonl", TRAIN[:5000])
    write_lines(tmp_path / "set" / "train-1.jsonl", TRAIN[5000:])
    write_lines(tmp_path / "set" / "validation.jsonl", ["one", "two", "three"])
    return Documents("hf:somebody/own", source=str(tmp_path / "set"))


def test_its_own_splits_are_held_out_and_others_drawn(documents: Documents, tmp_path: Path) -> None:
    store = prepare_documents(documents, tmp_path / "own")
    found = documents_in(store)
    assert found["valid"] == ["one", "two", "three"]
    assert sorted(found["train"] + found["test"]) == sorted(TRAIN)
    assert len(found["test"]) == len(TRAIN) // 20
    assert not prepare_documents(documents, tmp_path / "own").built
    write_lines(tmp_path / "set" / "validation.jsonl", ["one", "two", "four"])
    with pytest.raises(UserError, match="were changed"):
        prepare_documents(documents, tmp_path / "own")


def test_an_interrupted_preparation_goes_on(
    documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = prepare_documents(documents, tmp_path / "all")
    original, calls = encode.encode, []

    def stops(batch: Any, *rest: Any) -> Any:
        calls.append(batch.first)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(batch, *rest)

    monkeypatch.setattr(encode, "encode", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare_documents(documents, tmp_path / "own")
    again = prepare_documents(documents, tmp_path / "own")
    assert calls[3] == calls[2] > 0
    assert documents_in(again) == documents_in(undisturbed)
    assert again.manifest.fingerprint == undisturbed.manifest.fingerprint


def test_what_is_wrong_is_one_line(documents: Documents, tmp_path: Path) -> None:
    for change, words in (
        ({"column": "txt"}, "no column 'txt'"),
        ({"source": str(tmp_path / "home")}, "cannot be read as a data set|no such file"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            prepare_documents(
                Documents(**{**vars(documents), **change}),  # type: ignore[arg-type]
                tmp_path / "bad",
            )
        assert caught.value.code == EXIT_DATA
        assert "\n" not in str(caught.value)
