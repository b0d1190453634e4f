"""`simsmoe prepare-data` as it is typed."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simsmoe_cli.cli import main, silence, stage_progress
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError
from simsmoe_cli.export.folder import load_export
from tests.data.tokenizers.huggingface_files import model_folder
from tests.train.tiny import TINY
from tests.train.transfer import QUICK, write_task

Command = Callable[..., "subprocess.CompletedProcess[str]"]
TEXT = "".join(f"line {number} of the text\n" for number in range(2000))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory but for a text, own.txt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIMSMOE_DATA", raising=False)
    (tmp_path / "own.txt").write_text(TEXT)
    return tmp_path


def test_the_summary_says_what_was_made_and_what_to_do_next(here: Path, simsmoe: Command) -> None:
    done = simsmoe("prepare-data", "own.txt", "--tokenizer", "words")
    assert (done.returncode, done.stderr) == (0, "")
    manifest = TokenStore.open(here / "data" / "own").manifest
    lines = done.stdout.splitlines()
    assert lines[0] == "Prepared own in data/own"
    for split, info in manifest.splits.items():
        assert [line.split()[:2] for line in lines if line.startswith(split)] == [
            [split, f"{info.tokens:,}"]
        ]
    assert f"vocabulary: {manifest.vocab_size:,} words (words)" in lines
    assert lines[-1] == ("Next: simsmoe pretrain --set data.corpus=own --set data.tokenizer=words")
    again = simsmoe("prepare-data", "own.txt", "--tokenizer", "words")
    assert again.returncode == 0
    assert again.stdout.splitlines()[0] == "Already prepared, nothing changed: own in data/own"


def test_names_that_need_care(here: Path, simsmoe: Command) -> None:
    """One that a folder cannot have, and one that a shell would take apart."""
    (here / "own.txt").rename(here / "auto.txt")
    done = simsmoe("prepare-data", "auto.txt")
    assert done.stdout.splitlines()[0] == "Prepared text in data/text"
    done = simsmoe("prepare-data", "auto.txt", "--name", "my notes", "--data-dir", "a b")
    words = shlex.split(done.stdout.splitlines()[-1].removeprefix("Next: "))
    assert words[2:] == ["--set", "data.corpus=my notes", "--data-dir", "a b"]


def test_preparing_is_not_silent(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With no silence allowed, and looked for all the time."""
    monkeypatch.setattr(stage_progress, "SILENT_S", 0.0)
    monkeypatch.setattr(silence, "LOOK_S", 0.001)
    pieces = ("--tokenizer", "sentencepiece", "--vocab-size", "300")
    assert main.run(["prepare-data", "own.txt", *pieces]) == 0
    signs = capsys.readouterr().err.splitlines()
    assert signs
    for sign in signs:
        assert re.fullmatch(r"( *\d+% )?[a-z ]+: .*\d.*", sign), sign


def test_json_is_one_object(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for built in (True, False):
        assert main.run(["prepare-data", "own.txt", "--json"]) == 0
        printed = capsys.readouterr()
        facts = json.loads(printed.out)
        assert printed.err == ""
        assert (facts["path"], facts["built"], facts["unit"]) == ("data/own", built, "byte")
        assert sum(split["tokens"] for split in facts["splits"].values()) == len(TEXT)


def test_a_part_of_a_corpus_is_prepared_with_a_warning(
    shared: Path, here: Path, simsmoe: Command
) -> None:
    prefix = str(shared / "data" / "text8" / "text8_prefix")
    done = simsmoe("prepare-data", "text8", "--source", prefix)
    assert done.returncode == 0
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "not the whole corpus" in warnings[0]
    assert "2,709,264" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["--name", "mine"], "data/mine"),
        (["--out", "else/where"], "else/where"),
        (["--data-dir", "there"], "there/own"),
    ],
)
def test_the_place_can_be_chosen(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], place: str
) -> None:
    assert main.run(["prepare-data", "own.txt", *arguments]) == 0
    assert TokenStore.open(here / place).manifest.name == Path(place).name
    assert f" in {place}\n" in capsys.readouterr().out


def test_the_environment_moves_the_data(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIMSMOE_DATA", "elsewhere")
    assert main.run(["prepare-data", "own.txt"]) == 0
    assert "data.corpus=own --data-dir elsewhere" in capsys.readouterr().out
    TokenStore.open(here / "elsewhere" / "own")


def test_the_vocabulary_of_another_corpus_is_found_by_name(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "other.txt").write_text(TEXT[: len(TEXT) // 2])
    assert main.run(["prepare-data", "own.txt"]) == 0
    assert main.run(["prepare-data", "other.txt", "--vocab-from", "own"]) == 0
    stores = [TokenStore.open(here / "data" / name).manifest for name in ("own", "other")]
    assert stores[0].vocabulary == stores[1].vocabulary


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["enwik9"], EXIT_USAGE, "Did you mean 'enwik8'?"),
        (["owm.txt"], EXIT_DATA, "Did you mean 'own.txt'?"),
        (["own.txt", "--tokenizer", "word"], EXIT_USAGE, "Did you mean 'words'?"),
        (["own.txt", "--vocab-from", "nothing"], EXIT_DATA, "is not prepared"),
        (["own.txt", "--name", "a", "--out", "b"], EXIT_USAGE, "--name"),
        (["own.txt", "--name", "../a"], EXIT_USAGE, "--name"),
        (["own.txt", "--name", "\x1b[31mx"], EXIT_USAGE, "'\\x1b[31mx' cannot be a name"),
        (["own.txt", "--vocab-size", "-3"], EXIT_USAGE, "--vocab-size"),
        (["own.txt", "--vocab-size", "many"], EXIT_USAGE, "--vocab-size"),
        (["own.txt", "--tokenizer", "huggingface"], EXIT_USAGE, "--tokenizer FOLDER"),
        (["own.txt", "--tokenizer", "some/model"], EXIT_DATA, "nothing is downloaded"),
        (["own.txt", "--tokenizer", "."], EXIT_DATA, "no tokenizer.json in it"),
        (["own.txt", "--tokenizer", "own.txt"], EXIT_DATA, "damaged tokenizer"),
        ([], EXIT_USAGE, "NAME|PATH"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    named: str,
) -> None:
    assert main.run(["prepare-data", *arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("simsmoe: error: ")
    assert printed.err.count("\n") == 1
    assert named in printed.err
    assert [path.name for path in here.iterdir()] == ["own.txt"]


def settings(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def test_a_tokenizer_of_a_model_folder_is_kept_in_the_corpus(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder(here / "model", "mistral", TEXT)
    command = ["prepare-data", "own.txt", "--tokenizer"]
    assert main.run([*command, "model", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["unit"], facts["tokenizer"], facts["built"]) == ("token", "huggingface", True)
    assert sum(split["bytes"] for split in facts["splits"].values()) == len(TEXT)
    assert facts["warnings"] == []
    kept = (here / "data/own/tokenizer.json").read_bytes()
    assert kept == (folder / "tokenizer.json").read_bytes()
    store = TokenStore.open(here / "data/own")
    assert (
        store.tokenizer.decode(store.split("test")[:]) == TEXT[-facts["splits"]["test"]["bytes"] :]
    )
    assert main.run([*command, "model/tokenizer.json", "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["built"]
    model_folder(here / "other", "gpt2", TEXT)
    assert main.run([*command, "other"]) == EXIT_DATA
    assert "already prepared otherwise: vocab-from is" in capsys.readouterr().err
    assert main.run([*command, "other", "--vocab-size", "9", "--name", "x"]) == EXIT_USAGE
    assert "that of its file" in capsys.readouterr().err


@pytest.mark.parametrize("style", ["gpt2", "mistral"])
def test_a_corpus_with_the_tokenizer_of_a_model_serves_every_command(
    here: Path, capsys: pytest.CaptureFixture[str], style: str
) -> None:
    model_folder(here / "model", style, TEXT)
    assert main.run(["prepare-data", "own.txt", "--tokenizer", "model"]) == 0
    advised = capsys.readouterr().out.splitlines()[-1]
    assert advised.endswith("--set data.corpus=own --set data.tokenizer=huggingface")
    tiny = [
        f"{section}.{name}={value}" for section in TINY for name, value in TINY[section].items()
    ]
    recipe = settings(*tiny, "data.corpus=own", "train.steps=4", "train.warmup_steps=0")
    assert main.run(["pretrain", *recipe]) == EXIT_DATA
    assert "Use --set data.tokenizer=huggingface" in capsys.readouterr().err
    recipe += settings("data.tokenizer=huggingface")
    assert main.run(["pretrain", *recipe, "--name", "base"]) == 0
    capsys.readouterr()
    assert main.run(["eval", "base", "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    info = TokenStore.open(here / "data/own").manifest.splits["test"]
    assert score["unit"] == "token"
    bits = score["loss_nats"] / math.log(2) * info.tokens / info.bytes
    assert score["bits_per_byte"] == pytest.approx(bits)
    words = ["generate", "base", "--prompt", "line 7 of", "--tokens", "5"]
    assert main.run(words) == 0
    assert capsys.readouterr().out.startswith("line 7 of")
    assert main.run(["export", "base", "exported"]) == 0
    _, tokenizer, _ = load_export(here / "exported")
    assert tokenizer.kind == "huggingface"
    write_task(here / "task")
    assert main.run(["prepare-data", "task", "--label-column", "label", "--name", "letters"]) == 0
    tuning = ["finetune", "--from", "base", "--task", "letters", "--name", "tuned"]
    assert main.run([*tuning, *settings(*QUICK, "finetune.epochs=1")]) == 0
    capsys.readouterr()
    assert main.run(["eval", "tuned", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "letters"
    given = (here / "model/tokenizer.json").read_bytes()
    for place in ("data/own", "exported", "runs/tuned"):
        assert (here / place / "tokenizer.json").read_bytes() == given


def test_a_tokenizer_that_changes_the_text_is_a_warning(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_folder(here / "model", "unigram", TEXT)
    (here / "own.txt").write_text(TEXT.replace("of the", "of  the"))
    assert main.run(["prepare-data", "own.txt", "--tokenizer", "model"]) == 0
    assert "warning: the tokenizer does not give the text back" in capsys.readouterr().out


def test_a_corpus_whose_tokenizer_needs_a_missing_library_is_not_called_damaged(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_folder(here / "model", "gpt2", TEXT)
    assert main.run(["prepare-data", "own.txt", "--tokenizer", "model"]) == 0
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"^reading a tokenizer.json needs.*simsmoe\[hf\]"):
        TokenStore.open(here / "data/own")


def test_a_recipe_alone_cannot_name_the_tokenizer_of_a_model(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["pretrain", *settings("data.tokenizer=huggingface")]) == EXIT_USAGE
    assert "prepare-data CORPUS --tokenizer FOLDER" in capsys.readouterr().err
    assert not (here / "runs").exists()
