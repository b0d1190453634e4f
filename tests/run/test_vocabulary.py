"""The tokenizer of a run, as a file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.vocabulary import Vocabulary

OLD = Path(__file__).parents[1] / "runs_of_schema_1"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A copy of a fine-tuned run."""
    shutil.copytree(OLD / "runs/tuned", tmp_path / "tuned")
    return RunDir(tmp_path / "tuned")


def test_a_fine_tuned_run_has_that_of_its_corpus(run: RunDir) -> None:
    of_run = Vocabulary.of_run(run, checkpoint.read_state(run.best))
    of_store = Vocabulary.of_store(TokenStore.open(OLD / "data/letters"))
    assert of_run == of_store
    assert of_run.sha256 == of_store.sha256
    assert of_run.size == 30
    assert of_run.tokenizer.decode(of_run.tokenizer.encode("the fox")) == "the fox"


def test_what_is_saved_is_read_back(run: RunDir, tmp_path: Path) -> None:
    state = checkpoint.read_state(run.best)
    other = RunDir(tmp_path / "other")
    other.path.mkdir()
    Vocabulary.of_run(run, state).save(other)
    assert Vocabulary.of_run(other, state) == Vocabulary.of_run(run, state)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_one_that_is_not_the_run_s_is_refused(run: RunDir, damage: str) -> None:
    file = run.path / "tokenizer.json"
    if damage == "changed":
        file.write_bytes(file.read_bytes() + b" ")
    else:
        file.unlink()
    with pytest.raises(UserError, match="damaged tokenizer: ") as caught:
        Vocabulary.of_run(run, checkpoint.read_state(run.best))
    assert (caught.value.code, caught.value.where) == (EXIT_DATA, str(file))
