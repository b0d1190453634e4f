"""A run opened: one rule for its corpus or task, and the model with its weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.opened import OpenedRun, open_language_model

CPU = torch.device("cpu")
OLD = Path(__file__).parents[1] / "runs_of_schema_1"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """data/ (letters, animals) and runs/ (base, a language model; tuned, a classifier)."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def opened(name: str, data_dir: str = "data", which: str = "best") -> OpenedRun:
    return OpenedRun.open(RunDir(Path("runs") / name), which, Path(data_dir))


def moved(name: str, key: str) -> OpenedRun:
    """A run whose corpus or task lies elsewhere than below --data-dir; its state says where."""
    run = opened(name, "elsewhere")
    place = str(Path("data", "letters" if key == "store" else "animals").absolute())
    if key == "store":
        run.state["store"] = place
    else:
        run.state["task"]["path"] = place
    return run


def test_a_language_model() -> None:
    run = opened("base")
    assert (run.fine_tuned, run.step, run.unit) == (False, 8, "byte")
    assert run.corpus().path == Path("data/letters")
    assert run.tokenizer.vocab_size == run.vocabulary.size == 30
    model = run.language_model(CPU)
    assert not model.training
    tokens_BM = torch.arange(16).reshape(2, 8)
    assert model(tokens_BM, context=run.context()).logits.shape == (2, 8, 30)


def test_a_classifier_has_a_tokenizer_of_its_own() -> None:
    shutil.rmtree("data/letters")
    run = opened("tuned")
    assert (run.fine_tuned, run.labels, run.unit) == (True, ["dog", "fox"], "byte")
    assert run.task().path == Path("data/animals")
    assert run.tokenizer.vocab_size == 30
    assert not run.classifier(CPU).training


def test_the_context_is_that_of_the_weights() -> None:
    context = opened("base", which="4").context(top_k=1)
    assert (context.step, context.total_steps, context.top_k) == (4, 8, 1)


def test_what_is_not_below_the_data_folder_is_found_where_it_was() -> None:
    run = moved("base", "store")
    assert run.corpus().path == run.store.path == Path("data/letters").absolute()
    assert moved("tuned", "task").task().path == Path("data/animals").absolute()


def test_a_name_below_the_data_folder_comes_first() -> None:
    shutil.copytree("data", "elsewhere")
    assert moved("base", "store").corpus().path == Path("elsewhere/letters")
    assert moved("tuned", "task").task().path == Path("elsewhere/animals")


@pytest.mark.parametrize("name", ["base", "tuned"])
def test_what_is_nowhere_is_not_prepared(name: str) -> None:
    shutil.rmtree("data")
    run = opened(name)
    with pytest.raises(UserError, match="is not prepared") as caught:
        _ = run.task() if run.fine_tuned else run.store
    assert caught.value.code == EXIT_DATA


def test_another_text_with_the_same_tokenizer_serves_for_it_alone() -> None:
    """A prompt needs the vocabulary; a score needs the text that was held out."""
    Path("other.txt").write_text("the red fox sees the dog under a tree 1\n" * 200)
    prepare("other.txt", Path("elsewhere/letters"), vocab_from=Path("data/letters"))
    run = opened("base", "elsewhere")
    assert run.store.path == Path("elsewhere/letters")
    with pytest.raises(UserError, match="corpus is not the one this run was trained on") as caught:
        run.corpus()
    assert "--data elsewhere/letters" in caught.value.hint


def test_another_vocabulary_serves_for_nothing() -> None:
    Path("other.txt").write_text("ABC\n" * 500)
    prepare("other.txt", Path("elsewhere/letters"))
    with pytest.raises(UserError, match="another tokenizer or vocabulary"):
        open_language_model(RunDir(Path("runs/base")), "best", Path("elsewhere"))


def test_another_task_under_the_name_is_refused() -> None:
    shutil.copytree("data/animals", "elsewhere/animals")
    run = opened("tuned", "elsewhere")
    run.state["task"]["fingerprint"] = "other"
    with pytest.raises(UserError, match="task is not the one this run was trained on") as caught:
        run.task()
    assert "--task elsewhere/animals" in caught.value.hint


def test_a_classifier_is_not_a_language_model() -> None:
    with pytest.raises(UserError, match="classifier, fine-tuned on animals") as caught:
        open_language_model(RunDir(Path("runs/tuned")), "best", Path("data"))
    assert caught.value.hint == "Use the run it was fine-tuned from: base."
