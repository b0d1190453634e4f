"""A store of documents holds every document once, whatever interrupted its making."""

from __future__ import annotations

import bz2
import json
import lzma
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.documents import encode, shards
from simsmoe_cli.data.documents import prepare as preparing
from simsmoe_cli.data.documents.inputs import Inputs
from simsmoe_cli.data.documents.prepare import Documents, prepare_documents
from simsmoe_cli.data.io import archives
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError
from tests.data.documents.given import SPLITS, documents_in, some_texts, write_lines
from tests.files.test_atomic import other_file_system

TEXTS = {"a.jsonl.gz": some_texts(130, 1), "b/c.jsonl": some_texts(90, 2)}
ALL = [text for texts in TEXTS.values() for text in texts]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files of documents, to be read in batches of 1 KiB and written in shards of 4 KiB."""
    monkeypatch.setattr(archives, "CHUNK", 1 << 10)
    monkeypatch.setattr(shards, "SHARD_BYTES", 1 << 12)
    for name, texts in TEXTS.items():
        write_lines(tmp_path / "texts" / name, texts)
    return tmp_path / "texts"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(given: Path | str, out: Path, code: int = EXIT_DATA, **options: Any) -> UserError:
    chosen = {
        name: options.pop(name) for name in list(options) if name in Documents.__annotations__
    }
    with pytest.raises(UserError) as caught:
        prepare_documents(Documents(str(given), **chosen), out, **options)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert not out.exists()
    return caught.value


def test_every_document_is_in_one_split_with_an_end_token_after_it(
    folder: Path, tmp_path: Path
) -> None:
    store = prepare_documents(Documents(str(folder)), tmp_path / "data" / "own")
    found = documents_in(store)
    assert sorted(text for texts in found.values() for text in texts) == sorted(ALL)
    assert [text for text in ALL if text in set(found["train"])] == found["train"]
    for texts in TEXTS.values():  # of 20 consecutive documents, one goes to each
        for start in range(0, len(texts) - 19, 20):
            group = set(texts[start : start + 20])
            assert len(group & set(found["valid"])) == len(group & set(found["test"])) == 1
    for split in SPLITS:
        info = store.manifest.splits[split]
        assert info.documents == len(found[split])
        assert info.bytes == sum(len(text.encode()) for text in found[split])
        assert info.characters == sum(map(len, found[split]))
        assert info.lines == sum(text.count("\n") + 1 for text in found[split])
        assert info.words == info.lines + sum(len(text.split()) for text in found[split])
        assert info.tokens == info.bytes + info.documents
        assert len(store.split(split)) == info.tokens
    assert len(store.manifest.splits["train"].shards) > 3
    assert store.split("train").dtype == np.uint8
    TokenStore.open(store.path).verify()


def test_documents_stay_in_their_split_when_others_come(folder: Path, tmp_path: Path) -> None:
    before = documents_in(prepare_documents(Documents(str(folder)), tmp_path / "one"))
    write_lines(folder / "aa.jsonl", some_texts(60, 3))
    write_lines(folder / "a.jsonl.gz", TEXTS["a.jsonl.gz"] + ["one more"])
    after = documents_in(prepare_documents(Documents(str(folder)), tmp_path / "two"))
    for split in SPLITS:
        assert set(before[split]) <= set(after[split])


def test_one_process_and_several_write_the_same(folder: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "1" / "own", tmp_path / "2" / "own"
    for out, jobs in ((one, 1), (two, 2)):
        prepare_documents(Documents(str(folder)), out, tokenizer="words", jobs=jobs)
    assert content(one) == content(two)


@pytest.mark.parametrize("tokenizer", ["bytes", "sentencepiece"])
def test_an_interrupted_preparation_goes_on_after_its_last_shard(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str
) -> None:
    settings: dict[str, Any] = {"tokenizer": tokenizer}
    if tokenizer == "sentencepiece":
        settings["vocab_size"] = 400
    undisturbed = prepare_documents(Documents(str(folder)), tmp_path / "all" / "own", **settings)
    encoded: list[int] = []
    original = encode.encode

    def counted(batch: Any, *rest: Any) -> Any:
        encoded.append(batch.first)
        if len(encoded) == stop_at:
            raise KeyboardInterrupt
        return original(batch, *rest)

    monkeypatch.setattr(encode, "encode", counted)
    out = tmp_path / "again" / "own"
    done = []
    for stop_at in (12, 9, 0):
        encoded.clear()
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                prepare_documents(Documents(str(folder)), out, **settings)
            assert not out.exists()
            # What a process that is killed in the middle of a shard leaves is not used.
            for half in (tmp_path / "again" / ".own.unfinished" / "store").glob("train-*"):
                half.touch()
        else:
            prepare_documents(Documents(str(folder)), out, **settings)
        done.append(len(encoded))
    assert content(out) == content(undisturbed.path)
    everything = 12 + 9 + done[2]
    monkeypatch.setattr(encode, "encode", original)
    assert done[2] < everything - 12
    assert sorted(path.name for path in out.parent.iterdir()) == [".own.lock", "own"]


def test_a_half_written_or_damaged_shard_is_made_again(folder: Path, tmp_path: Path) -> None:
    undisturbed = prepare_documents(Documents(str(folder)), tmp_path / "all" / "own")
    calls = 0

    def stop(stage: str, done: int, total: int | None) -> None:
        nonlocal calls
        calls += stage == "encode"
        if calls == 40:
            raise KeyboardInterrupt

    out = tmp_path / "again" / "own"
    with pytest.raises(KeyboardInterrupt):
        prepare_documents(Documents(str(folder)), out, on_progress=stop)
    unfinished = out.with_name(".own.unfinished")
    files = sorted((unfinished / "store").glob("train-*.bin"))
    assert len(files) > 2
    files[1].write_bytes(files[1].read_bytes()[:-1])
    note = unfinished / "notes" / "shard-00002.json"
    note.write_text(note.read_text().replace("0", "1", 1))
    prepare_documents(Documents(str(folder)), out)
    assert content(out) == content(undisturbed.path)


def test_shards_of_unchanged_files_survive_the_repair_of_a_later_file(
    folder: Path, tmp_path: Path
) -> None:
    path = folder / "b" / "c.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:40], lines[40][:-9] + "\n", *lines[41:]]))
    out = tmp_path / "data" / "own"
    error = refusal(folder, out)
    assert error.where == f"{path}, line 41"
    assert error.what.startswith("is not JSON")
    path.write_text("".join(lines))
    first: list[int] = []
    report: Callable[[str, int, int | None], None] = lambda stage, done, total: (  # noqa: E731
        first.append(done) if stage == "encode" else None
    )
    store = prepare_documents(Documents(str(folder)), out, on_progress=report)
    assert first[0] > (folder / "a.jsonl.gz").stat().st_size / 2
    assert sorted(text for texts in documents_in(store).values() for text in texts) == sorted(ALL)


def test_other_settings_do_not_drop_what_was_prepared_unless_forced(
    folder: Path, tmp_path: Path
) -> None:
    def stop(stage: str, done: int, total: int | None) -> None:
        if stage == "encode" and done > 13_000:
            raise KeyboardInterrupt

    out = tmp_path / "data" / "own"
    with pytest.raises(KeyboardInterrupt):
        prepare_documents(Documents(str(folder)), out, on_progress=stop)
    error = refusal(folder, out, tokenizer="chars")
    assert "tokenizer was bytes, now chars" in error.what
    store = prepare_documents(Documents(str(folder)), out, tokenizer="chars", force=True)
    assert store.manifest.tokenizer == "chars"


def test_preparing_again_changes_nothing_and_names_what_differs(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "data" / "own"
    made = prepare_documents(Documents(str(folder)), out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert made.built
    assert not prepare_documents(Documents(str(folder)), out).built
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(UserError, match=r"held-out is 0\.05, not 0\.1"):
        prepare_documents(Documents(str(folder), held_out=0.1), out)
    write_lines(folder / "b" / "c.jsonl", some_texts(30, 9))
    with pytest.raises(UserError, match=r"made of 2 files .* changed or moved"):
        prepare_documents(Documents(str(folder)), out)
    assert prepare_documents(Documents(str(folder)), out, force=True).built


def test_held_out_documents_can_be_given(folder: Path, tmp_path: Path) -> None:
    """A file of the folder that is given as another split is not trained on."""
    given = folder / "b" / "c.jsonl"
    both = Documents(str(folder), validation=str(given), test=str(given.parent))
    found = documents_in(prepare_documents(both, tmp_path / "both"))
    assert found["train"] == TEXTS["a.jsonl.gz"]
    assert found["valid"] == found["test"] == TEXTS["b/c.jsonl"]
    one = documents_in(
        prepare_documents(Documents(str(folder), validation=str(given)), tmp_path / "one")
    )
    assert one["valid"] == TEXTS["b/c.jsonl"]
    assert sorted(one["train"] + one["test"]) == sorted(TEXTS["a.jsonl.gz"])
    assert len(one["test"]) in (6, 7)


def stopped(given: Documents, out: Path, **settings: Any) -> None:
    """A preparation that is interrupted after some shards."""

    def stop(stage: str, done: int, total: int | None) -> None:
        if stage == "encode" and done > 13_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_documents(given, out, on_progress=stop, **settings)
    assert any((out.parent / f".{out.name}.unfinished/notes").iterdir())


def test_a_split_that_is_given_after_an_interruption_is_not_drawn(
    folder: Path, tmp_path: Path
) -> None:
    write_lines(tmp_path / "valid.jsonl", some_texts(20, 5))
    given = Documents(str(folder), validation=str(tmp_path / "valid.jsonl"))
    out = tmp_path / "data" / "own"
    stopped(Documents(str(folder)), out)
    error = refusal(folder, out, validation=given.validation)
    assert "valid and test was drawn from the documents, now test" in error.what
    found = prepare_documents(given, out, force=True)
    undisturbed = prepare_documents(given, tmp_path / "undisturbed" / "own")
    assert documents_in(found) == documents_in(undisturbed)


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "words"])
def test_a_file_that_is_added_after_an_interruption_is_in_the_vocabulary(
    folder: Path, tmp_path: Path, tokenizer: str
) -> None:
    out = tmp_path / "data" / "own"
    stopped(Documents(str(folder)), out, tokenizer=tokenizer)
    write_lines(folder / "d.jsonl", ["QXZ ß quite other words"] * 50)
    found = prepare_documents(Documents(str(folder)), out, tokenizer=tokenizer)
    undisturbed = prepare_documents(
        Documents(str(folder)), tmp_path / "undisturbed" / "own", tokenizer=tokenizer
    )
    assert content(found.path) == content(undisturbed.path)


def test_a_store_that_is_a_link_to_another_disk_is_prepared_again(
    folder: Path, tmp_path: Path
) -> None:
    there = other_file_system(tmp_path)
    try:
        out = tmp_path / "data" / "own"
        out.parent.mkdir()
        out.symlink_to(there)
        made = prepare_documents(Documents(str(folder)), out)
        assert made.manifest.name == "own"
        assert sum(map(len, documents_in(made).values())) == len(ALL)
        write_lines(folder / "b" / "c.jsonl", some_texts(30, 9))
        again = prepare_documents(Documents(str(folder)), out, force=True)
        assert sum(map(len, documents_in(again).values())) == 130 + 30
        assert out.is_symlink()
    finally:
        shutil.rmtree(there)


def test_running_text_does_not_take_a_tokenizer_of_documents(folder: Path, tmp_path: Path) -> None:
    lender = prepare_documents(Documents(str(folder)), tmp_path / "docs")
    (tmp_path / "notes.txt").write_text("abcde " * 500)
    with pytest.raises(UserError, match="has a token that ends documents") as caught:
        prepare(str(tmp_path / "notes.txt"), tmp_path / "notes", vocab_from=lender.path)
    assert caught.value.where == "--vocab-from"
    assert not (tmp_path / "notes").exists()


def test_every_core_encodes_what_is_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is not known before."""
    asked: list[int] = []

    def refuse(*given: Any) -> Any:
        asked.append(given[5])
        raise KeyboardInterrupt

    write_lines(tmp_path / "a.jsonl", some_texts(30))
    monkeypatch.setattr(preparing, "write_shards", refuse)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(7)), raising=False)
    for size in (None, 0):
        if size is not None:
            monkeypatch.setattr(Inputs, "size", size)
        with pytest.raises(KeyboardInterrupt):
            prepare_documents(Documents(str(tmp_path / "a.jsonl")), tmp_path / "out")
    assert asked == [1, 7]


@pytest.mark.parametrize("ending", ["bz2", "xz", "zst"])
def test_every_compression_gives_the_same_documents(tmp_path: Path, ending: str) -> None:
    texts = some_texts(60)
    write_lines(tmp_path / "plain.jsonl", texts)
    plain = (tmp_path / "plain.jsonl").read_bytes()
    if ending == "zst":
        zstandard = pytest.importorskip("zstandard")
        frames = [zstandard.compress(plain[:1000]), zstandard.compress(plain[1000:])]
        packed = b"".join(frames)
    else:
        packed = {"bz2": bz2, "xz": lzma}[ending].compress(plain)
    path = tmp_path / f"own.jsonl.{ending}"
    path.write_bytes(packed)
    store = prepare_documents(Documents(str(path)), tmp_path / "own")
    assert sorted(text for split in documents_in(store).values() for text in split) == sorted(texts)
    path.write_bytes(packed[:-20])
    assert "damaged or truncated" in refusal(path, tmp_path / "cut").what


def test_parquet_is_read_by_row_groups(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = some_texts(300)
    table = arrow.table({"id": list(range(301)), "body": [*texts, None]})
    path = tmp_path / "own.parquet"
    parquet.write_table(table, path, row_group_size=70)
    store = prepare_documents(Documents(str(path), "body"), tmp_path / "own")
    assert sorted(text for split in documents_in(store).values() for text in split) == sorted(texts)
    assert store.manifest.warnings == ["1 document without text left out"]
    error = refusal(path, tmp_path / "b", column="bdy")
    assert error.hint.startswith("Did you mean 'body'?")
    assert "holds int64" in refusal(path, tmp_path / "c", column="id").what
    path.write_bytes(path.read_bytes()[:-30])
    assert "damaged or truncated" in refusal(path, tmp_path / "d", column="body").what


def test_plain_text_files_are_documents_where_asked(tmp_path: Path) -> None:
    texts = some_texts(60)
    for number, text in enumerate(texts):
        (tmp_path / "texts" / f"{number:02}").mkdir(parents=True)
        (tmp_path / "texts" / f"{number:02}" / "text.txt").write_text(text)
    documents = Documents(str(tmp_path / "texts"), plain=True, held_out=0.2)
    found = documents_in(prepare_documents(documents, tmp_path / "own"))
    assert sorted(text for split in found.values() for text in split) == sorted(texts)


@pytest.mark.parametrize(
    ("name", "package"), [("a.jsonl.zst", "zstandard"), ("a.parquet", "pyarrow")]
)
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    (tmp_path / name).write_bytes(b"content")
    for module in (package, f"{package}.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    error = refusal(tmp_path / name, tmp_path / "out", EXIT_USAGE)
    assert f"needs the package {package}" in error.what
    assert "pip install 'simsmoe[hf]'" in error.hint


LINES = [json.dumps({"text": text}).encode() for text in some_texts(3)]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"text": "a', "is not JSON (unterminated string"),
        (b'{"tex": "a"}', "no column 'text'"),
        (b'{"text": 5}', "'text' is not text"),
        (b'["a"]', "is not a JSON object"),
        (b'{"text": "caf\xe9"}', "byte 0xe9 is not UTF-8"),
        (b'{"text": "\\ud83d"}', "has half a character"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: bytes, what: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"\n".join([*LINES, b"", line, *LINES]))
    error = refusal(path, tmp_path / "out")
    assert error.where == f"{path}, line 5"
    assert what in error.what
    assert sorted(each.name for each in tmp_path.iterdir()) == [".out.lock", "own.jsonl"]


def test_documents_come_from_a_web_server(tmp_path: Path, host: Any) -> None:
    texts = some_texts(40)
    write_lines(tmp_path / "own.jsonl.gz", texts)
    host.files["/own.jsonl.gz"] = (tmp_path / "own.jsonl.gz").read_bytes()
    documents = Documents(f"{host.url}/own.jsonl.gz")
    found = documents_in(prepare_documents(documents, tmp_path / "own"))
    assert sorted(text for split in found.values() for text in split) == sorted(texts)
    assert not prepare_documents(documents, tmp_path / "own").built


def test_sources_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    write_lines(folder / "a.jsonl", some_texts(20))
    assert "matches no file" in refusal(f"{folder}/*.parquet", tmp_path / "out").what
    (folder / "b.jsonl").touch()
    error = refusal(folder, tmp_path / "out")
    assert (error.what, error.where) == ("the file is empty", str(folder / "b.jsonl"))
    (folder / "b.jsonl").write_text("\n\n")
    assert "came to the" in refusal(f"{folder}/b.jsonl", tmp_path / "out").what
    (folder / "b.jsonl").rename(folder / "a.jsonl.gz")
    assert "a.jsonl and a.jsonl.gz have the same name" in refusal(folder, tmp_path / "out").what
    (folder / "a.jsonl.gz").rename(folder / "notes.txt")
    error = refusal(folder, tmp_path / "out")
    assert error.what == "holds both JSON lines (a.jsonl) and plain text (notes.txt)"
    (folder / "notes.txt").unlink()
    none = refusal(folder, tmp_path / "out", validation=str(folder / "a.jsonl"))
    assert "none is left to train on" in none.what
    few = refusal(folder, tmp_path / "out", held_out=0.01)
    assert "--held-out" in few.hint
    token = refusal(folder, tmp_path / "out", EXIT_USAGE, end_token="</s>")
    assert token.where == "--end-token"
