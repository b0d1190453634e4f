"""Documents through the commands: prepared, trained on, scored, continued, reported, fine-tuned."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from simsmoe_cli.cli import main
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE
from simsmoe_cli.export.folder import load_export
from tests.data.documents.given import some_texts, write_lines
from tests.train.test_resume import PAPER_MODEL
from tests.train.tiny import recipe
from tests.train.transfer import QUICK, write_task

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with documents, a store of them, and a run of carried memory that keeps to them."""
    folder = tmp_path_factory.mktemp("documents")
    for number in range(3):
        write_lines(folder / "texts" / f"{number}.jsonl.gz", some_texts(150, number))
    brief = {"steps": 2, "validate_every": 2, "probe_every": 2, "checkpoint_every": 2}
    made = recipe(
        model=PAPER_MODEL,
        data={"corpus": "texts", "attend_within_documents": True},
        train=brief,
        eval={"final_blocks": 1},
    )
    (folder / "own.yaml").write_text(yaml.safe_dump(made.model_dump(exclude=made.idle_sections)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main.run(["prepare-data", "texts", "--text-column", "text"]) == 0
        assert main.run(["pretrain", "--recipe", "own.yaml", "--name", "own"]) == 0
    return folder


def test_the_summary_says_how_documents_were_split_and_counted(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(trained)
    assert main.run(["prepare-data", "texts"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Already prepared, nothing changed: texts in data/texts"
    assert shown[1].split() == [
        *("split", "documents", "tokens", "bytes", "of", "text", "share"),
    ]
    assert shown[5] == "vocabulary: 243 bytes and the end token (bytes)"
    assert "of every 20 consecutive documents of a file one went to each split" in shown[6]
    assert "a token ends each document (id 243)" in shown[6]
    assert main.run(["prepare-data", "texts", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["built"] is False
    assert sum(split["documents"] for split in facts["splits"].values()) == 450
    assert "chunks" not in facts["splits"]["train"]["shards"][0]


def test_bits_per_character_are_of_text_without_end_tokens(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(trained)
    assert main.run(["eval", "own", "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    info = TokenStore.open(trained / "data" / "texts").manifest.splits["test"]
    assert info.tokens == info.bytes + info.documents == score["tokens"]
    bits = score["loss_nats"] * info.tokens / math.log(2)
    assert score["bpc"] == pytest.approx(bits / info.bytes)
    assert score["bits_per_byte"] == pytest.approx(bits / info.bytes)
    assert score["documents"] == info.documents
    assert main.run(["eval", "own"]) == 0
    assert f"({info.bytes:,} bytes in {info.documents:,} documents" in capsys.readouterr().out


def test_a_run_on_documents_is_opened_by_every_command(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(trained)
    assert main.run(["generate", "own", "--prompt", "a", "--tokens", "5", "--seed", "1"]) == 0
    few = [
        "--tokens",
        "256",
        "--format",
        "json",
        "--no-ablation",
        "--out",
        str(tmp_path / "report"),
    ]
    assert main.run(["collapse-report", "own", *few]) == 0
    assert main.run(["export", "own", str(tmp_path / "exported")]) == 0
    model, tokenizer, _ = load_export(tmp_path / "exported")
    assert model.document_end is not None
    assert int(model.document_end) == tokenizer.end_id == 243
    task = write_task(tmp_path / "task")
    assert main.run(["prepare-data", str(task), "--name", "task", "--label-column", "label"]) == 0
    settings = [part for setting in [*QUICK, "finetune.epochs=1"] for part in ("--set", setting)]
    assert main.run(["finetune", "--from", "own", "--task", "task", *settings]) == 0
    capsys.readouterr()
    assert main.run(["eval", "own-task", "--json"]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["accuracy"] <= 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["texts", "--source", "x"], EXIT_USAGE, "--source: the path of the documents already"),
        (["own.yaml", "--jobs", "2"], EXIT_USAGE, "--jobs: is for documents"),
        (["pystdlib", "--held-out", "0.1"], EXIT_USAGE, "--held-out: is for documents"),
        (
            ["texts", "--documents", "--text-column", "a"],
            EXIT_USAGE,
            "--text-column: has no effect",
        ),
        (["texts", "--test", "a", "--test", "b"], EXIT_USAGE, "--test: is given twice"),
        (
            ["texts", "--test", "a", "--validation", "b", "--held-out", "0.1"],
            EXIT_USAGE,
            "--held-out: has no effect where",
        ),
        (["texts", "--text-column", "txt", "--name", "b"], EXIT_DATA, "Did you mean 'text'?"),
        (["texts/*.parquet", "--text-column", "text"], EXIT_DATA, "matches no file"),
    ],
)
def test_what_cannot_be_prepared_is_refused_in_one_line(
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(trained)
    assert main.run(["prepare-data", *arguments]) == code
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_attention_within_documents_needs_documents(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(trained)
    (trained / "plain.txt").write_text("\n".join(some_texts(50)))
    assert main.run(["prepare-data", "plain.txt"]) == 0
    capsys.readouterr()
    arguments = ["--recipe", "own.yaml", "--set", "data.corpus=plain", "--name", "plain"]
    assert main.run(["pretrain", *arguments]) == EXIT_DATA
    assert "the corpus has no documents" in capsys.readouterr().err
