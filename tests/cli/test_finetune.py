"""`simsmoe finetune`, and `simsmoe eval` of what it made: what a person or a program sees."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.data.corpora.prepare import prepare as prepare_corpus
from simsmoe_cli.errors import EXIT_DATA, EXIT_OUT_OF_MEMORY, EXIT_USAGE
from simsmoe_cli.files.untrusted import sealed, unsealed
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train import evaluation as evaluate_run
from tests.train.tiny import events
from tests.train.transfer import QUICK, prepare, pretrain

Capture = pytest.CaptureFixture[str]
SETTINGS = [word for setting in QUICK for word in ("--set", setting)]


@pytest.fixture(scope="module")
def prepared(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ (corpora and tasks) and runs/ (base, pre-trained; tuned, fine-tuned)."""
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "data").mkdir()
    (folder / "data/sources").symlink_to(corpus_dir / "sources")
    prepare(folder / "data", "letters")
    prepare(folder / "data", "odd", unknown="\N{SNOWMAN}")
    prepare(folder / "data", "others", labels=("up", "down"))
    pretrain(folder / "data", RunDir(folder / "runs/base"))
    places = ["--data-dir", str(folder / "data"), "--runs-dir", str(folder / "runs")]
    command = ["finetune", "--from", "base", "--task", "letters", "--name", "tuned"]
    assert main.run([*command, *SETTINGS, "--set", "finetune.epochs=6", *places]) == 0
    return folder


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: Path) -> None:
    """A copy of that folder, as a user has it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(prepared, tmp_path, symlinks=True, dirs_exist_ok=True)


def finetune(*arguments: str) -> int:
    words = ["finetune", "--from", "base", *SETTINGS, "--set", "finetune.epochs=1"]
    return main.run([*words, *arguments])


def evaluate(capsys: Capture, *arguments: str) -> dict[str, Any]:
    """What `simsmoe eval --json` reports."""
    capsys.readouterr()
    assert main.run(["eval", *arguments, "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def refusal(capsys: Capture, code: int, *arguments: str) -> str:
    """The one line on stderr of a command that fails."""
    capsys.readouterr()
    assert main.run([*arguments]) == code
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1, printed.err
    return printed.err


# Fine-tuning


def test_what_a_person_sees_and_is_advised_works(capsys: Capture) -> None:
    assert finetune("--task", "letters") == 0
    out = capsys.readouterr().out
    assert out.startswith("fine-tuning base (step 8) on letters in runs/base-letters on cpu, in ")
    assert re.search(r"step 6/6  accuracy \d+\.\d+%  [\d,]+ tokens/s", out)
    assert re.search(r"step 6/6  valid accuracy \d+\.\d+%  best so far\n", out)
    assert re.search(r"\ntest accuracy \d+\.\d\d%, macro-F1 [01]\.\d{3}  \(18 examples, best", out)
    _, _, advice = out.partition("\ntry next:\n")
    commands = [shlex.split(line) for line in advice.splitlines()]
    assert [words[:2] for words in commands] == [["simsmoe", "eval"], ["simsmoe", "finetune"]]
    for words in commands:
        assert main.run(words[1:]) == 0
    assert "step 12/12" in capsys.readouterr().out


def test_json_output_is_the_events_and_nothing_else(capsys: Capture) -> None:
    assert finetune("--task", "letters", "--json") == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert shown == events(RunDir(Path("runs/base-letters")))


def test_a_profile_of_its_steps(capsys: Capture) -> None:
    assert finetune("--task", "letters", "--profile", "2") == 0
    summary = Path("runs/base-letters/profile/summary.txt").read_text()
    assert summary in capsys.readouterr().out
    assert summary.startswith("2 training steps: ")
    assert "\nexperts " in summary


def test_it_has_the_options_of_pretrain(capsys: Capture) -> None:
    commands = main._command(main.app).commands
    pretrains, own = (
        {option for parameter in commands[name].params for option in parameter.opts}
        for name in ("pretrain", "finetune")
    )
    assert pretrains - own == set()
    changes = ["--router", "xmoe", "--experts", "loop", "--world-size", "2"]
    assert finetune("--task", "letters", "--dry-run", "--json", *changes) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["recipe"]["moe"]["router"] == "xmoe"
    assert report["recipe"]["moe"]["backend"] == "loop"
    assert report["each_process"]["world_size"] == 2


def test_a_dry_run_writes_nothing(capsys: Capture) -> None:
    assert finetune("--task", "letters", "--dry-run", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["steps"], report["steps_per_epoch"], report["labels"]) == (6, 6, 3)
    assert report["examples"] == {"train": 42, "valid": 12, "test": 18}
    started = events(RunDir(Path("runs/tuned")), "run_started")[0]
    assert report["parameters"] == started["parameters"]
    assert report["recipe"]["train"]["steps"] == 6
    assert not Path("runs/base-letters").exists()
    assert finetune("--task", "letters", "--dry-run") == 0
    assert "steps       6: 1 epochs of 6" in capsys.readouterr().out


def test_resume_auto_goes_on_with_more_epochs() -> None:
    assert finetune("--task", "letters", "--resume", "auto") == 0
    more = ["--task", "letters", "--resume", "auto", "--set", "finetune.epochs=2"]
    assert finetune(*more) == 0
    run = RunDir(Path("runs/base-letters"))
    assert [step for step, _ in checkpoint.list_checkpoints(run)] == [6, 12]
    by_name = ["finetune", "--resume", "auto", "--name", "base-letters"]
    assert main.run([*by_name, "--set", "finetune.epochs=3"]) == 0
    assert checkpoint.list_checkpoints(run)[-1][0] == 18


def test_the_steps_of_a_resumed_run_follow_from_its_epochs(capsys: Capture) -> None:
    words = ["finetune", "--resume", "runs/tuned", "--set", "train.steps=50"]
    said = refusal(capsys, EXIT_USAGE, *words)
    assert "train.steps: " in said
    assert "set finetune.epochs" in said


def test_the_layout_of_processes_is_not_that_of_the_pre_trained_run(
    capsys: Capture, tmp_path: Path
) -> None:
    """It may have trained on several machines, and this is one process."""
    shutil.copytree("runs/base", tmp_path / "spread")
    file = tmp_path / "spread/best" / checkpoint.STATE
    state = unsealed(json.loads(file.read_text()))
    state["recipe"]["parallel"]["replicate"] = 4
    file.write_text(json.dumps(sealed(state)))
    words = ["finetune", "--from", str(tmp_path / "spread"), "--task", "letters", "--dry-run"]
    assert main.run(words) == 0
    assert main.run([*words, "--world-size", "2", "--set", "parallel.expert=2"]) == 0
    assert main.run([*words, "--set", "parallel.expert=2"]) == EXIT_USAGE


def test_a_resumed_run_needs_neither_its_start_nor_its_corpus() -> None:
    shutil.rmtree("runs/base")
    Path("data/sources").unlink()
    assert main.run(["finetune", "--resume", "runs/tuned", "--set", "finetune.epochs=7"]) == 0
    assert main.run(["eval", "tuned"]) == 0


def test_what_is_computed_cannot_change(capsys: Capture) -> None:
    words = ["finetune", "--resume", "runs/tuned", "--set", "finetune.pooling=mean"]
    assert "cannot change finetune.pooling ('last' -> 'mean')" in refusal(
        capsys, EXIT_USAGE, *words
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--task", "letters"], EXIT_USAGE, "--from: no pre-trained run is named. Name one"),
        (["--from", "bse", "--task", "letters"], EXIT_DATA, "no run 'bse'. Did you mean 'base'?"),
        (
            ["--from", "tuned", "--task", "letters"],
            EXIT_USAGE,
            "is a classifier, fine-tuned on letters",
        ),
        (["--from", "base", "--task", "leters"], EXIT_DATA, "Did you mean 'letters'?"),
        (["--from", "base"], EXIT_USAGE, "--task: no task is named. Name one"),
        (["--from", "base", "--checkpoint", "3", "--task", "letters"], EXIT_DATA, "'3'"),
        (["--resume", "runs/base"], EXIT_USAGE, "this run pre-trains a language model"),
        (
            ["--resume", "auto", "--name", "none"],
            EXIT_USAGE,
            "--from: no pre-trained run is named. Name one",
        ),
        (["--from", "base", "--task", "letters", "--name", "tuned"], EXIT_USAGE, "holds a run"),
        (["--resume", "runs/tuned", "--task", "letters"], EXIT_USAGE, "--task: a resumed run"),
        (["--resume", "runs/tuned", "--from", "base"], EXIT_USAGE, "--from: a resumed run"),
        (["--resume", "runs/tuned", "--checkpoint", "last"], EXIT_USAGE, "--checkpoint: a resumed"),
    ],
)
def test_what_cannot_be_fine_tuned_is_said(
    capsys: Capture, arguments: list[str], code: int, said: str
) -> None:
    assert said in refusal(capsys, code, "finetune", *arguments)


def test_a_recipe_that_changes_the_model_is_refused(capsys: Capture) -> None:
    Path("mine.yaml").write_text("model:\n  width: 64\nfinetune:\n  task: letters\n")
    said = refusal(capsys, EXIT_USAGE, "finetune", "--from", "base", "--recipe", "mine.yaml")
    assert "the pre-trained model cannot be changed: model.width (32 -> 64)" in said
    assert not Path("runs/base-letters").exists()


def test_a_corpus_that_changed_leaves_nothing_behind(capsys: Capture) -> None:
    """The tokenizer is taken from it."""
    Path("data/sources").unlink()
    Path("other.txt").write_text("quite another text, of few letters " * 60)
    prepare_corpus("other.txt", Path("data/sources"))
    said = refusal(capsys, EXIT_DATA, "finetune", "--from", "base", "--task", "letters")
    assert "data/sources: the corpus was prepared with another tokenizer" in said
    assert not Path("runs/base-letters").exists()


def test_pre_training_refuses_a_run_and_a_recipe_of_fine_tuning(capsys: Capture) -> None:
    for more in ([], ["--dry-run"]):
        said = refusal(capsys, EXIT_USAGE, "pretrain", "--recipe", "finetune-sst2", *more)
        assert "Use simsmoe finetune --from RUN --task sst2" in said
    said = refusal(capsys, EXIT_USAGE, "pretrain", "--resume", "runs/tuned")
    assert re.search(r"Go on with it by simsmoe finetune --resume \S+/runs/tuned\.", said)


# Evaluation


def test_eval_knows_the_task_of_a_run(capsys: Capture) -> None:
    report = evaluate(capsys, "tuned")
    finished = events(RunDir(Path("runs/tuned")))[-1]
    assert report["accuracy"] == finished["test_accuracy"]
    assert (report["task"], report["split"], report["examples"]) == ("letters", "test", 18)
    assert report["labels"] == ["down", "even", "up"]
    confusion = report["confusion"]
    assert [sum(row) for row in confusion] == [6, 6, 6]
    right = sum(confusion[label][label] for label in range(3))
    assert report["accuracy"] == pytest.approx(right / 18)
    assert report["accuracy"] > report["majority"]["accuracy"] == pytest.approx(1 / 3)
    low, high = report["interval"]["accuracy"]
    assert low <= report["accuracy"] <= high
    assert report["bootstrap"] == {"resamples": 2000, "coverage": 0.95, "examples": 18}
    for row, counts in zip(report["classes"], confusion, strict=True):
        assert row["support"] == sum(counts)
        label = report["labels"].index(row["label"])
        assert row["recall"] == pytest.approx(counts[label] / sum(counts))
    assert evaluate(capsys, "tuned")["interval"] == report["interval"]
    valid = evaluate(capsys, "tuned", "--split", "valid", "--checkpoint", "last")
    assert (valid["examples"], valid["step"]) == (12, 36)


def test_what_a_person_sees_of_an_evaluation(capsys: Capture) -> None:
    capsys.readouterr()
    assert main.run(["eval", "tuned"]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"\ntuned  step \d+  letters test: accuracy [\d.]+%  \(18 examples, [\d,]+ tokens/s\)\n",
        out,
    )
    assert re.search(r"\naccuracy  [01]\.\d{4}  95% interval [01]\.\d{4} to [01]\.\d{4}\n", out)
    assert re.search(r"\nmacro-F1  [01]\.\d{4}  95% interval", out)
    assert "\nmajority  0.3333  always 'down'\n" in out
    assert re.search(r"\nup +[01]\.\d{3} +[01]\.\d{3} +[01]\.\d{3} +6 *\n", out)
    assert re.search(r"\nis, taken for +down +even +up *\n", out)


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_predictions_are_written(capsys: Capture, name: str) -> None:
    report = evaluate(capsys, "tuned", "--predictions", name)
    with open(name, newline="") as file:
        rows: list[dict[str, Any]] = (
            list(csv.DictReader(file))
            if name.endswith(".csv")
            else [json.loads(line) for line in file]
        )
    assert [int(row["index"]) for row in rows] == list(range(18))
    stored = [json.loads(line) for line in Path("data/letters/test.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [report["labels"][row["label"]] for row in stored]
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert right / 18 == pytest.approx(report["accuracy"])
    assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows)
    assert [row["text"] for row in rows] == [row["text"] for row in stored]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("no/such/p.csv", "No such file or directory"),
        ("runs", "Is a directory"),
        ("mine.yaml/p.csv", "Not a directory"),
    ],
)
def test_a_place_predictions_cannot_be_written_to_is_said_before_any_work(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, place: str, why: str
) -> None:
    Path("mine.yaml").touch()
    monkeypatch.setattr(evaluate_run, "classify", lambda *_: pytest.fail("was evaluated"))
    said = refusal(capsys, EXIT_DATA, "eval", "tuned", "--predictions", place)
    assert f"{place}: cannot write the predictions: {why}. Name a file" in said


def test_predictions_there_are_stay_until_there_are_others(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("p.csv").write_text("before")

    def out_of_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(evaluate_run, "classify", out_of_memory)
        refusal(capsys, EXIT_OUT_OF_MEMORY, "eval", "tuned", "--predictions", "p.csv")
    assert Path("p.csv").read_text() == "before"
    evaluate(capsys, "tuned", "--predictions", "p.csv")
    header = Path("p.csv").read_text().splitlines()[0]
    assert header == "index,label,predicted,probability,text"


def test_another_task_of_the_same_labels(capsys: Capture) -> None:
    """What its tokenizer cannot encode is said."""
    report = evaluate(capsys, "tuned", "--task", "odd")
    assert report["task"] == "odd"
    (warning,) = [text for text in report["warnings"] if "became" in text]
    assert "1 of " in warning
    assert "\N{SNOWMAN}" in warning


def test_a_task_of_other_labels_is_refused(capsys: Capture) -> None:
    said = refusal(capsys, EXIT_DATA, "eval", "tuned", "--task", "others")
    assert "labels are not those this run was fine-tuned on: down, up, not down, even, up" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["base", "--task", "letters"], "--task: this run is a language model"),
        (["base", "--predictions", "p.csv"], "--predictions: this run is a language model"),
        (["tuned", "--data", "data/sources"], "--data: this run classifies texts"),
        (["tuned", "--split", "dev"], "no split 'dev'"),
        (["tuned", "--top-k", "9"], "--top-k: a token cannot go to 9 of 4 experts"),
    ],
)
def test_what_cannot_be_evaluated_is_said(capsys: Capture, arguments: list[str], said: str) -> None:
    assert said in refusal(capsys, EXIT_USAGE, "eval", *arguments)


def test_other_numbers_of_experts_can_be_asked_for(capsys: Capture) -> None:
    report = evaluate(capsys, "tuned", "--top-k", "4")
    assert report["top_k"] == 4


def test_a_damaged_tokenizer_is_never_used(capsys: Capture) -> None:
    (file,) = Path("runs/tuned").glob("tokenizer.json")
    file.write_text(file.read_text() + " ")
    assert "tokenizer.json: damaged tokenizer: its checksum" in refusal(
        capsys, EXIT_DATA, "eval", "tuned"
    )
    file.unlink()
    assert "tokenizer.json: damaged tokenizer: the file is missing" in refusal(
        capsys, EXIT_DATA, "eval", "tuned"
    )
