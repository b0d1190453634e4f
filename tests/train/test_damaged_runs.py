"""What is damaged in a run folder costs what it must, is said, and is kept."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from simsmoe_cli.cli import main
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError
from simsmoe_cli.files.untrusted import sealed, unsealed
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run import checkpoint, checkpoint_state
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train import session
from simsmoe_cli.train.plan_pretraining import Plan
from tests.train.test_resume import assert_same_run
from tests.train.tiny import events, recipe

Capture = pytest.CaptureFixture[str]
TRAIN = {
    "steps": 4,
    "checkpoint_every": 2,
    "validate_every": 2,
    "probe_every": 0,
    "log_every": 3,  # a window is open at each checkpoint
    "micro_batches": 2,
    "schedule": "constant",
}
MADE = recipe(model={"attention": "relative", "span": 32}, train=TRAIN)


@pytest.fixture(scope="module")
def finished(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints 2 and 4."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    store = TokenStore.open(corpus_dir / "sources")
    session.train(Plan(MADE, RunDir(folder), None), store, torch.device("cpu"))
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunDir:
    """A copy of it in runs/."""
    return RunDir(Path(shutil.copytree(finished, tmp_path / "runs/run")))


@pytest.fixture
def go_on(corpus_dir: Path, run: RunDir) -> Callable[..., int]:
    """Go on with the run by --resume auto to step 6; the exit code."""
    (run.path.parents[1] / "tiny.yaml").write_text(dump_recipe(MADE))

    def go_on(*arguments: str) -> int:
        recipe_file = str(run.path.parents[1] / "tiny.yaml")
        command = ["pretrain", "--recipe", recipe_file, "--name", "run", "--resume", "auto"]
        command += ["--runs-dir", str(run.path.parent), "--data-dir", str(corpus_dir)]
        return main.run([*command, "--set", "train.steps=6", *arguments])

    return go_on


def steps(run: RunDir) -> list[int]:
    return [step for step, _ in checkpoint.list_checkpoints(run)]


def reseal(path: Path, **changes: Any) -> None:
    """Change fields of a state.json and make its checksum match; None takes a field out."""
    state = unsealed(json.loads(path.read_bytes())) | changes
    path.write_text(json.dumps(sealed({k: v for k, v in state.items() if v is not None})))


def edit(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Change tensors of a file and make the checksum in the state beside it match."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    state = path.with_name(checkpoint.STATE)
    hashes = json.loads(state.read_bytes())["sha256"]
    hashes[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    reseal(state, sha256=hashes)


def error(capsys: Capture) -> str:
    printed = capsys.readouterr().err
    assert printed.startswith("simsmoe: error: ")
    assert printed.count("\n") == 1, printed
    return printed


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def test_auto_goes_on_from_the_newest_that_is_whole(
    run: RunDir, go_on: Callable[..., int], capsys: Capture
) -> None:
    newest = run.checkpoints / "step-0000004"
    cut(newest / checkpoint_state.MODEL)
    assert go_on() == 0
    out = capsys.readouterr().out
    assert f"warning: checkpoint 4 is skipped and kept aside: {newest}/model.safetensors: " in out
    assert "warning: resuming from checkpoint 2, the newest that is complete" in out
    assert steps(run) == [4, 6]
    aside = run.checkpoints / "damaged-1-step-0000004"
    assert aside.joinpath(checkpoint_state.MODEL).stat().st_size == 100
    assert events(run)[-1]["status"] == "finished"
    assert [event["step"] for event in events(run, "checkpoint")] == [2, 4, 6]


@pytest.mark.parametrize("left", ["nothing", "no state"])
def test_a_folder_that_is_no_whole_checkpoint_does_not_stop_it(
    run: RunDir, go_on: Callable[..., int], left: str
) -> None:
    """As a kill while a checkpoint was deleted used to leave it."""
    newest = run.checkpoints / "step-0000004"
    (newest / checkpoint.STATE).unlink()
    if left == "nothing":
        shutil.rmtree(newest)
        newest.mkdir()
    assert steps(run) == [2]
    assert go_on() == 0
    assert steps(run) == [4, 6]
    assert (run.checkpoints / "damaged-1-step-0000004").exists() == (left == "no state")


def test_a_run_none_of_whose_checkpoints_can_be_read_is_not_begun_anew(
    run: RunDir, go_on: Callable[..., int], capsys: Capture
) -> None:
    for _, path in checkpoint.list_checkpoints(run):
        cut(path / checkpoint.STATE)
    before = run.events.read_bytes()
    assert go_on() == EXIT_DATA
    assert "no checkpoint of this run can be read: checkpoint 4 is skipped" in error(capsys)
    assert run.events.read_bytes() == before


def test_a_checkpoint_too_many_goes_with_the_next_session(
    run: RunDir, go_on: Callable[..., int]
) -> None:
    """As a kill between saving and pruning leaves it; and what else kills leave."""
    partial = run.checkpoints / ".step-0000003.partial"
    partial.mkdir()
    orphan = run.best / "weights-0000009-00000000.safetensors"
    orphan.touch()
    assert go_on("--set", "train.keep_last=1", "--set", "train.checkpoint_every=99") == 0
    assert steps(run) == [6]
    assert not partial.exists()
    assert not orphan.exists()


def test_a_damaged_environment_only_informs(
    run: RunDir, go_on: Callable[..., int], capsys: Capture
) -> None:
    cut(run.environment)
    damaged = run.environment.read_bytes()
    assert go_on() == 0
    assert "warning: environment.json is not JSON" in capsys.readouterr().out
    assert (run.path / "damaged-1-environment.json").read_bytes() == damaged
    assert len(json.loads(run.environment.read_bytes())["sessions"]) == 1


@pytest.mark.parametrize("damage", ["weights", "state", "missing"])
def test_damaged_best_weights_do_not_fail_the_run_at_its_end(
    run: RunDir, go_on: Callable[..., int], capsys: Capture, damage: str
) -> None:
    if damage == "weights":
        cut(next(run.best.glob("weights-*")))
    elif damage == "state":
        cut(run.best / checkpoint.STATE)
    else:
        shutil.rmtree(run.best)
    assert go_on() == 0
    assert "warning: the best weights so far are lost" in capsys.readouterr().out
    assert events(run)[-1]["best_step"] in (2, 4, 6)
    assert (run.path / "damaged-1-best").exists() == (damage != "missing")


def test_best_weights_of_a_course_that_was_left_are_not_the_runs(
    run: RunDir, corpus_dir: Path
) -> None:
    """A run that goes on from step 2 with other settings must not report what step 4 was."""
    assert checkpoint.read_state(run.best)["step"] == 4
    older = str(run.checkpoints / "step-0000002")
    worse = ["--set", "train.lr=1e-12", "--set", "train.validate_every=0"]
    assert main.run(["pretrain", "--resume", older, "--data-dir", str(corpus_dir), *worse]) == 0
    (test,) = [event for event in events(run, "eval") if event["split"] == "test"]
    (valid,) = [event for event in events(run, "eval") if event["split"] == "valid"][-1:]
    assert valid["best"]
    assert test["loss_nats"] > 4  # of weights that hardly learned


NONSENSE: dict[str, Any] = {
    "step": -1,
    "step ": 5,
    "vocab_size": 10**30,
    "vocab_size ": 7,
    "vocabulary": None,
    "unit": 3,
    "recipe": {"moe": {"router": 5}},
    "recipe ": None,
    "events_bytes": "many",
    "precision": "fp3",
    "best_loss": "low",
    "store": None,
    "corpus": ["x"],
    "sha256": {},
    "sha256 ": {"../../../etc/passwd": "00", "training.safetensors": "00"},
    "task": {"name": 5},
    "training_tensors": 3,
}


@pytest.mark.parametrize("field", list(NONSENSE))
def test_a_state_whose_checksum_matches_but_is_nonsense_is_an_error(
    run: RunDir, corpus_dir: Path, go_on: Callable[..., int], capsys: Capture, field: str
) -> None:
    for _, path in checkpoint.list_checkpoints(run):
        reseal(path / checkpoint.STATE, **{field.strip(): NONSENSE[field]})
    assert go_on() == EXIT_DATA
    error(capsys)
    if field == "training_tensors":
        return
    command = ["eval", str(run.path), "--checkpoint", "last", "--data-dir", str(corpus_dir)]
    assert main.run(command) == EXIT_DATA
    error(capsys)


def first(tensors: dict[str, Tensor], part: str) -> str:
    return next(name for name in sorted(tensors) if name.startswith(part))


EDITS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "a moment of another shape": lambda t: t.update(
        {first(t, "optimizer.exp_avg."): torch.ones(3)}
    ),
    "a moment of another type": lambda t: t.update(
        {(name := first(t, "optimizer.exp_avg_sq")): t[name].double()}
    ),
    "no moment": lambda t: t.pop(first(t, "optimizer.exp_avg_sq")),
    "a moment of nothing": lambda t: t.update({"optimizer.exp_avg.nothing": torch.ones(1)}),
    "no random state": lambda t: t.pop("rng.cpu"),
    "half a random state": lambda t: t.update({"rng.cpu": t["rng.cpu"][:100].clone()}),
    "another random state": lambda t: t.update({"rng.cpu": t["rng.cpu"].float()}),
    "zeros as random state": lambda t: t.update({"rng.cpu": torch.zeros_like(t["rng.cpu"])}),
    "a memory of another shape": lambda t: t.update({"memory.0.0": torch.ones(1, 2)}),
    "no memory": lambda t: t.pop("memory.1.1"),
    "a memory that is none": lambda t: t.update({"memory.x.y": torch.ones(1)}),
    "a window without steps": lambda t: t.pop("window.steps"),
    "a window of no numbers": lambda t: t.update({"window.task": torch.tensor(float("nan"))}),
    "nothing": lambda t: t.clear(),
}


@pytest.mark.parametrize("name", list(EDITS))
@pytest.mark.parametrize("counted", [True, False], ids=["counted", "uncounted"])
def test_tensors_that_are_not_those_of_the_training_are_an_error(
    run: RunDir, corpus_dir: Path, capsys: Capture, name: str, counted: bool
) -> None:
    folder = run.checkpoints / "step-0000002"
    if not counted:  # as checkpoints were before they said how many tensors they have
        reseal(folder / checkpoint.STATE, training_tensors=None)
    edit(folder / checkpoint_state.TRAINING, EDITS[name])
    before = run.events.read_bytes()
    more = ["--data-dir", str(corpus_dir), "--set", "train.steps=6"]
    assert main.run(["pretrain", "--resume", str(folder), *more]) == EXIT_DATA
    assert f"{folder}/training.safetensors: damaged checkpoint: " in error(capsys)
    assert run.events.read_bytes() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_an_error(
    run: RunDir, corpus_dir: Path, capsys: Capture, value: float
) -> None:
    edit(next(run.best.glob("weights-*")), lambda t: t["embedding.weight"][0].fill_(value))
    assert main.run(["eval", str(run.path), "--data-dir", str(corpus_dir)]) == EXIT_DATA
    assert "embedding.weight holds values that are not finite" in error(capsys)


def test_a_state_that_asks_for_a_giant_costs_no_memory(
    run: RunDir, corpus_dir: Path, capsys: Capture
) -> None:
    reseal(run.best / checkpoint.STATE, vocab_size=1 << 31)
    assert main.run(["eval", str(run.path), "--data-dir", str(corpus_dir)]) == EXIT_DATA
    assert "embedding.weight is 95 x 32 (F32) in the file and 2147483648 x 32" in error(capsys)


def test_checkpoints_without_a_recipe_are_not_written_among(
    run: RunDir, corpus_dir: Path, capsys: Capture
) -> None:
    run.recipe.unlink()
    run.events.unlink()
    (run.path.parent / "tiny.yaml").write_text(dump_recipe(MADE))
    command = ["pretrain", "--recipe", str(run.path.parent / "tiny.yaml"), "--name", "run"]
    places = ["--runs-dir", str(run.path.parent), "--data-dir", str(corpus_dir)]
    assert main.run([*command, *places]) == EXIT_USAGE
    assert "already holds checkpoints. Go on with them by --resume auto" in error(capsys)
    assert steps(run) == [2, 4]
    assert not run.recipe.exists()
    assert main.run([*command, *places, "--resume", "auto", "--set", "train.steps=6"]) == 0
    assert steps(run) == [4, 6]


@pytest.mark.parametrize("name", ["\x1b[31mx", "a\nb", "x" * 300, "é" * 101, "a/b", ""])
def test_names_that_are_no_names_are_refused(name: str, capsys: Capture, tmp_path: Path) -> None:
    command = ["pretrain", "--name", name, "--runs-dir", str(tmp_path)]
    assert main.run(command) == EXIT_USAGE
    assert "cannot be a name" in error(capsys)


def test_hints_name_what_the_command_has(run: RunDir, go_on: Callable[..., int]) -> None:
    cut(run.checkpoints / "step-0000004" / checkpoint.STATE)
    with pytest.raises(UserError, match=r"Use another checkpoint of this run: 2, best\."):
        checkpoint.read_state(run.checkpoints / "step-0000004")


def test_a_corpus_damaged_while_training_costs_no_step(corpus_dir: Path, tmp_path: Path) -> None:
    """The state is saved, and once the corpus is whole again training goes on as if nothing was."""
    made = recipe(train=TRAIN | {"steps": 8, "checkpoint_every": 100})
    whole, hurt = RunDir(tmp_path / "whole"), RunDir(tmp_path / "hurt")
    corpus = Path(shutil.copytree(corpus_dir / "sources", tmp_path / "sources"))
    ids = corpus / "train.bin"
    content = ids.read_bytes()
    session.train(Plan(made, whole, None), TokenStore.open(corpus), torch.device("cpu"))

    def damage(step: int) -> None:
        if step == 3:
            ids.write_bytes(content[: len(content) // 2])

    with pytest.raises(UserError, match="damaged") as caught:
        session.train(
            Plan(made, hurt, None), TokenStore.open(corpus), torch.device("cpu"), on_step=damage
        )
    assert caught.value.code == EXIT_DATA
    (saved,) = steps(hurt)
    assert saved >= 3
    ids.write_bytes(content)
    start = checkpoint.find(hurt, "last")
    session.train(Plan(made, hurt, start), TokenStore.open(corpus), torch.device("cpu"))
    assert_same_run(hurt, whole, "checkpoint", "run_finished")
