"""A prepared corpus that was damaged: no command that reads it goes on as if nothing were."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_DATA
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train import session
from simsmoe_cli.train.plan_pretraining import Plan
from tests.train.tiny import recipe

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the corpus "sources"; not to be changed."""
    run = RunDir(tmp_path_factory.mktemp("damaged") / "run")
    made = recipe(train={"steps": 2})
    session.train(Plan(made, run, None), session.open_store(made, corpus_dir), torch.device("cpu"))
    return run.path


@pytest.fixture
def corpus(corpus_dir: Path, tmp_path: Path) -> Path:
    """A copy of the corpus, to be damaged."""
    shutil.copytree(corpus_dir / "sources", tmp_path / "data" / "sources")
    return tmp_path / "data" / "sources"


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def refusal(capsys: Capture, *arguments: str | Path) -> str:
    """The one line on stderr of a command that ends with exit code 3."""
    assert main.run([str(argument) for argument in arguments]) == EXIT_DATA
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("damage", [flip, zero])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_training_stops_at_ids_that_are_not_those_prepared(
    corpus: Path, tmp_path: Path, capsys: Capture, split: str, damage: Callable[[Path], None]
) -> None:
    damage(corpus / f"{split}.bin")
    wanted = tmp_path / "recipe.yaml"
    wanted.write_text(dump_recipe(recipe(train={"steps": 2})), encoding="utf-8")
    line = refusal(
        capsys,
        *("pretrain", "--recipe", wanted, "--data-dir", corpus.parent),
        *("--runs-dir", tmp_path / "runs", "--device", "cpu"),
    )
    assert f"{split}.bin was changed since it was written" in line
    assert "--force" in line


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_damaged_split_is_not_scored(
    corpus: Path, trained: Path, capsys: Capture, split: str
) -> None:
    flip(corpus / f"{split}.bin")
    where = ("--split", split, "--data-dir", corpus.parent)
    assert f"{split}.bin was changed since it was written" in refusal(
        capsys, "eval", trained, *where
    )
    line = refusal(capsys, "collapse-report", trained, *where, "--tokens", "64")
    assert f"{split}.bin was changed since it was written" in line


def test_the_test_score_of_a_training_is_not_made_from_a_damaged_split(
    corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    flip(corpus / "test.bin")
    wanted = tmp_path / "recipe.yaml"
    wanted.write_text(dump_recipe(recipe(train={"steps": 2})), encoding="utf-8")
    where = ("--data-dir", str(corpus.parent), "--runs-dir", str(tmp_path / "runs"))
    assert main.run(["pretrain", "--recipe", str(wanted), *where]) == EXIT_DATA
    assert "test.bin was changed since it was written" in capsys.readouterr().err


def test_counts_that_were_edited_give_no_score(
    corpus: Path, trained: Path, capsys: Capture
) -> None:
    manifest = corpus / "manifest.json"
    content = manifest.read_text(encoding="utf-8")
    manifest.write_text(content.replace('"words": ', '"words": 1', 1), encoding="utf-8")
    for command in (("eval", trained), ("generate", trained, "--prompt", "def", "--tokens", "2")):
        line = refusal(capsys, *command, "--data-dir", corpus.parent)
        assert "checksum" in line
