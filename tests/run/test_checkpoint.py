"""Checkpoints: whole or not at all, and never taken for whole when they are not."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from simsmoe_cli.cli import main
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.files import atomic
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run import checkpoint, save_checkpoint, weights
from simsmoe_cli.run.checkpoint_state import MODEL, STATE, TRAINING
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from tests.train.test_resume import assert_same_run
from tests.train.tiny import events, recipe


@pytest.fixture(scope="module")
def finished(store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with checkpoints of steps 4 and 8; not to be changed."""
    run = RunDir(tmp_path_factory.mktemp("runs") / "finished")
    Trainer(LanguageModelling(recipe(), store, torch.device("cpu")), run).train()
    run.recipe.write_text(dump_recipe(recipe()))
    return run


@pytest.fixture
def run(finished: RunDir, tmp_path: Path) -> RunDir:
    """A copy of the finished run."""
    shutil.copytree(finished.path, tmp_path / "copy")
    return RunDir(tmp_path / "copy")


def steps(run: RunDir) -> list[int]:
    return [step for step, _ in checkpoint.list_checkpoints(run)]


def leftovers(run: RunDir) -> list[str]:
    return [path.name for path in run.path.rglob(".*") if path.name != ".lock"]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(place: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return damage


DAMAGES = {
    "missing": Path.unlink,
    "cut": cut,
    "empty": empty,
    **{f"bit at {place:.0%}": flip(place) for place in (0, 0.001, 0.3, 0.7, 1)},
}


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("file", [MODEL, TRAINING, STATE])
def test_a_damaged_checkpoint_is_refused(run: RunDir, file: str, damage: str) -> None:
    folder = checkpoint.find(run, "last")
    DAMAGES[damage](folder / file)
    with pytest.raises(UserError, match="damaged checkpoint") as caught:
        checkpoint.read_state(folder)
    assert caught.value.code == EXIT_DATA
    assert caught.value.where == str(folder / file)
    # The one before is none the worse.
    assert checkpoint.read_state(checkpoint.find(run, "4"))["step"] == 4


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("pattern", ["weights-*.safetensors", "state.json"])
def test_damaged_best_weights_are_refused(
    run: RunDir, corpus_dir: Path, capsys: pytest.CaptureFixture[str], pattern: str, damage: str
) -> None:
    DAMAGES[damage](next(run.best.glob(pattern)))
    assert main.run(["eval", str(run.path), "--data-dir", str(corpus_dir)]) == EXIT_DATA
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    if (pattern, damage) == ("state.json", "missing"):
        assert "no checkpoint 'best' in this run. Available: 4, 8, last." in printed.err
    else:
        assert "damaged checkpoint: " in printed.err


def test_a_run_does_not_resume_from_damage_but_from_the_checkpoint_before(
    run: RunDir, finished: RunDir, corpus_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(checkpoint.find(run, "last") / MODEL)
    before = run.events.read_bytes()
    resume = "pretrain", "--data-dir", str(corpus_dir), "--resume"
    assert main.run([*resume, str(run.path)]) == EXIT_DATA
    older = run.checkpoints / "step-0000004"
    assert (
        f"Go on from another one: --resume {older}, or from the newest" in capsys.readouterr().err
    )
    assert run.events.read_bytes() == before
    assert main.run([*resume, str(older)]) == 0
    assert_same_run(run, finished, "warning")
    # What was damaged is not lost.
    assert (run.checkpoints / "damaged-1-step-0000008" / STATE).is_file()


def test_a_recipe_of_another_version_is_named(run: RunDir) -> None:
    folder = checkpoint.find(run, "last")
    state = checkpoint.read_state(folder)
    state["recipe"]["moe"]["temperature"] = 0.3
    with pytest.raises(UserError, match=r"\(moe\.temperature\)") as caught:
        checkpoint.recipe_of(folder, state)
    assert caught.value.code == EXIT_DATA


def test_as_many_checkpoints_are_kept_as_asked(trainer: Callable[..., Trainer]) -> None:
    made = trainer(train={"checkpoint_every": 2, "keep_last": 3})
    made.train()
    assert steps(made.run) == [4, 6, 8]
    assert leftovers(made.run) == []


class Killed(BaseException):
    """Stands for a process that is gone: nothing of ours catches it."""


@pytest.mark.parametrize("same_step", [True, False])
def test_best_weights_are_replaced_at_once(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, same_step: bool
) -> None:
    """Whoever reads them in the middle of it finds the old ones whole, even where a resumed run
    comes to the same step with other weights."""
    before = checkpoint.read_state(run.best)
    model = LanguageModel(recipe(), before["vocab_size"])
    weights.load_weights(run.best, before, model)
    old = model.output.weight.detach().clone()
    model.output.weight.data += 1
    step = before["step"] + (not same_step)
    state = {key: before[key] for key in before if key not in ("step", "sha256")}

    def die(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(save_checkpoint, "_write_state", die)
        with pytest.raises(Killed):
            save_checkpoint.save_best(run, step, model, state)
    assert checkpoint.read_state(run.best) == before
    reader = LanguageModel(recipe(), before["vocab_size"])
    weights.load_weights(run.best, before, reader)
    assert torch.equal(reader.output.weight, old)

    save_checkpoint.save_best(run, step, model, state)
    after = checkpoint.read_state(run.best)
    weights.load_weights(run.best, after, reader)
    assert torch.equal(reader.output.weight, old + 1)
    assert len(list(run.best.iterdir())) == 2


FULL: dict[str, Exception] = {
    "from the system": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "from safetensors": SafetensorError("I/O error: No space left on device (os error 28)"),
}


@pytest.mark.parametrize("error", list(FULL))
@pytest.mark.parametrize("call", ["save_file", "save_model", "_write_state", "sync"])
def test_a_full_disk_leaves_the_checkpoints_there_are(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, call: str, error: str
) -> None:
    made = trainer(train={"checkpoint_every": 2})
    module = atomic if call == "sync" else save_checkpoint
    real = getattr(module, call)

    def full(*args: Any) -> None:
        if any("step-0000006" in str(path) for path in args if isinstance(path, (str, Path))):
            for path in args:
                if isinstance(path, (str, Path)) and not Path(path).is_dir():
                    Path(path).write_bytes(b"half of")
            raise FULL[error]
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, call, full)
        with pytest.raises(UserError, match=r"cannot write the checkpoint: .*No space") as caught:
            made.train()
    assert caught.value.code == EXIT_DATA
    assert steps(made.run) == [2, 4]
    assert leftovers(made.run) == []
    assert checkpoint.read_state(made.run.best)["step"] == 4
    last = events(made.run)[-1]
    assert (last["kind"], last["status"]) == ("run_finished", "failed")
    assert "No space left" in last["reason"]

    again = trainer(resume_from=checkpoint.find(made.run, "last"), train={"checkpoint_every": 2})
    again.train()
    whole = trainer("whole", train={"checkpoint_every": 2})
    whole.train()
    assert_same_run(made.run, whole.run)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint of the tiny recipe, and not for two."""
    place = tmp_path / "small"
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(
    small_disk: Path, corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(recipe(train={"keep_last": 9})))
    command = ["pretrain", "--recipe", str(file), "--name", "run", "--data-dir", str(corpus_dir)]
    assert main.run([*command, "--runs-dir", str(small_disk)]) == EXIT_DATA
    printed = capsys.readouterr()
    assert "No space left on device" in printed.err
    assert printed.err.count("\n") == 1
    run = RunDir(small_disk / "run")
    assert steps(run) == [4]
    assert checkpoint.read_state(checkpoint.find(run, "last"))["step"] == 4
    assert leftovers(run) == []
    assert main.run(["eval", str(run.path), "--data-dir", str(corpus_dir)]) == 0


def test_files_that_may_not_grow(
    corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files, as quotas and batch systems set."""
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(recipe(train={"validate_every": 0})))
    command = ["pretrain", "--recipe", str(file), "--name", "run", "--data-dir", str(corpus_dir)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        code = main.run([*command, "--runs-dir", str(tmp_path / "runs")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    printed = capsys.readouterr()
    assert code == EXIT_DATA
    assert "cannot write the checkpoint" in printed.err
    assert "File too large" in printed.err
    run = RunDir(tmp_path / "runs/run")
    assert steps(run) == []
    assert leftovers(run) == []
    assert main.run([*command, "--runs-dir", str(tmp_path / "runs"), "--resume", "auto"]) == 0


def test_checkpoints_hold_tensors_alone(finished: RunDir) -> None:
    """Nothing of a checkpoint has to be unpickled."""
    folder = checkpoint.find(finished, "last")
    assert sorted(path.name for path in folder.iterdir()) == [
        MODEL,
        STATE,
        TRAINING,
    ]
    tensors = load_file(folder / TRAINING)
    assert {name.partition(".")[0] for name in tensors} == {"optimizer", "rng", "window"}


@pytest.mark.parametrize("which", ["6", "9999", "nonsense", "", "-1", "²", "latest"])
def test_a_checkpoint_there_is_none_of_names_those_there_are(run: RunDir, which: str) -> None:
    with pytest.raises(UserError, match=r"Available: 4, 8, last, best\.") as caught:
        checkpoint.find(run, which)
    assert caught.value.code == EXIT_DATA
