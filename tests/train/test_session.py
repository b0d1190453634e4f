"""From a command line to a run: names, resuming, and what a user sees when something is wrong."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from simsmoe_cli.cli import main
from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, EXIT_OUT_OF_MEMORY, EXIT_USAGE
from simsmoe_cli.model.size import measure
from simsmoe_cli.recipe.load import dump_recipe, load_recipe
from simsmoe_cli.run import checkpoint, checkpoint_state
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train import device, session
from simsmoe_cli.train.loop import Trainer
from tests.train.tiny import events, recipe, without_times

Pretrain = Callable[..., int]
Capture = pytest.CaptureFixture[str]

# No probes, one validation: as little as a run can do.
SHORT = {"steps": 4, "checkpoint_every": 2, "validate_every": 0, "probe_every": 0}


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder with the recipe tiny.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(dump_recipe(recipe(train=SHORT)))


@pytest.fixture
def pretrain(corpus_dir: Path) -> Pretrain:
    """Run `simsmoe pretrain` with the tiny recipe in this process; its exit code."""

    def run(*arguments: str, recipe: str = "tiny.yaml") -> int:
        command = ["pretrain", "--recipe", recipe, "--data-dir", str(corpus_dir)]
        return main.run([*command, *arguments])

    return run


def error(capsys: Capture) -> str:
    """The one line on stderr."""
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("simsmoe: error: ")
    return printed.err


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def steps(run: str) -> list[int]:
    return [step for step, _ in checkpoint.list_checkpoints(RunDir(Path("runs") / run))]


# Names


def test_default_names_number_up(pretrain: Pretrain) -> None:
    for _ in range(3):
        assert pretrain() == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "custom-smoe-none",
        "custom-smoe-none-2",
        "custom-smoe-none-3",
    ]


def test_a_name_in_use_is_refused(pretrain: Pretrain, capsys: Capture) -> None:
    assert pretrain("--name", "mine") == 0
    before = snapshot(Path("runs"))
    capsys.readouterr()
    assert pretrain("--name", "mine") == EXIT_USAGE
    assert error(capsys) == (
        "simsmoe: error: runs/mine: this run folder already holds a run. "
        "Go on with it by --resume auto, or choose another --name.\n"
    )
    assert snapshot(Path("runs")) == before


@pytest.mark.parametrize("name", ["", "a/b", "../mine", "/mine", ".hidden", ".."])
def test_a_name_is_a_plain_name(pretrain: Pretrain, capsys: Capture, name: str) -> None:
    assert pretrain("--name", name) == EXIT_USAGE
    assert f"--name: '{name}' cannot be a name" in error(capsys)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("setting", "code"), [("train.batch=100000", EXIT_DATA), ("train.block=50000", EXIT_DATA)]
)
def test_a_run_that_cannot_start_leaves_nothing(
    pretrain: Pretrain, capsys: Capture, setting: str, code: int
) -> None:
    assert pretrain("--name", "mine", "--set", setting) == code
    assert "fewer than one block for every stream" in error(capsys)
    assert list(Path("runs").iterdir()) == []
    assert pretrain("--name", "mine") == 0


# Resuming


def test_resume_auto_starts_a_run_there_is_none_of(pretrain: Pretrain) -> None:
    assert pretrain("--resume", "auto") == 0
    assert steps("custom-smoe-none") == [2, 4]
    assert pretrain("--resume", "auto", "--name", "mine") == 0
    assert steps("mine") == [2, 4]


def test_resume_auto_goes_on_with_the_newest(pretrain: Pretrain) -> None:
    for _ in range(2):
        assert pretrain() == 0
    # Folders that only look like further runs.
    Path("runs/custom-smoe-none-x").mkdir()
    Path("runs/custom-smoe-none-10").write_text("")
    assert pretrain("--resume", "auto", "--set", "train.steps=6") == 0
    assert steps("custom-smoe-none") == [2, 4]
    assert steps("custom-smoe-none-2") == [4, 6]


def test_resume_auto_starts_over_what_saved_nothing(pretrain: Pretrain) -> None:
    assert pretrain("--name", "mine") == 0
    shutil.rmtree("runs/mine/checkpoints")
    assert pretrain("--name", "mine", "--resume", "auto") == 0
    kinds = [event["kind"] for event in events(RunDir(Path("runs/mine")))]
    assert kinds.count("run_started") == 1


@pytest.mark.parametrize(
    ("where", "path"),
    [
        (".", "runs/mine"),
        (".", "runs/mine/"),
        (".", "runs/mine/checkpoints/step-0000004"),
        ("runs/mine", "."),
        ("runs/mine/checkpoints", "step-0000004"),
        ("runs/mine/best", ".."),
    ],
)
def test_resume_by_path(
    pretrain: Pretrain, monkeypatch: pytest.MonkeyPatch, corpus_dir: Path, where: str, path: str
) -> None:
    assert pretrain("--name", "mine") == 0
    folder = Path.cwd()
    monkeypatch.chdir(where)
    command = ["pretrain", "--data-dir", str(corpus_dir), "--set", "train.steps=6"]
    assert main.run([*command, "--resume", path]) == 0
    monkeypatch.chdir(folder)
    assert steps("mine") == [4, 6]
    assert list(Path("runs").iterdir()) == [Path("runs/mine")]
    assert {e["name"] for e in events(RunDir(Path("runs/mine")), "run_started")} == {"mine"}


def test_resume_by_name(pretrain: Pretrain, corpus_dir: Path) -> None:
    assert pretrain("--name", "mine", "--runs-dir", "elsewhere") == 0
    command = ["pretrain", "--data-dir", str(corpus_dir), "--set", "train.steps=6"]
    assert main.run([*command, "--runs-dir", "elsewhere", "--resume", "mine"]) == 0
    (run,) = Path("elsewhere").iterdir()
    assert [step for step, _ in checkpoint.list_checkpoints(RunDir(run))] == [4, 6]


@pytest.mark.parametrize("path", ["runs/mime", "tiny.yaml", "runs/mine/checkpoints/step-0000009"])
def test_nothing_to_resume_there(
    pretrain: Pretrain, capsys: Capture, corpus_dir: Path, path: str
) -> None:
    assert pretrain("--name", "mine") == 0
    capsys.readouterr()
    assert main.run(["pretrain", "--data-dir", str(corpus_dir), "--resume", path]) == EXIT_DATA
    assert path in error(capsys)


def test_a_path_and_a_name_contradict(pretrain: Pretrain, capsys: Capture) -> None:
    assert pretrain("--resume", "runs/mine", "--name", "yours") == EXIT_USAGE
    assert "--name: a run that is resumed by its path has its name" in error(capsys)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("train.batch=8", "train.batch (4 -> 8)"),
        ("model.width=64", "model.width (32 -> 64)"),
        ("train.seed=3", "train.seed (0 -> 3)"),
        ("data.corpus=words", "data.corpus ('sources' -> 'words')"),
        ("similarity.preset=paper", "similarity.preset ('none' -> 'paper')"),
    ],
)
def test_what_is_computed_cannot_change(
    pretrain: Pretrain, capsys: Capture, setting: str, named: str
) -> None:
    assert pretrain("--name", "mine") == 0
    before = snapshot(Path("runs"))
    capsys.readouterr()
    assert pretrain("--name", "mine", "--resume", "auto", "--set", setting) == EXIT_USAGE
    assert f"runs/mine: a resumed run cannot change {named}" in error(capsys)
    assert snapshot(Path("runs")) == before


def test_how_long_and_how_often_can_change(pretrain: Pretrain, corpus_dir: Path) -> None:
    assert pretrain("--name", "mine") == 0
    changes = ["train.steps=8", "train.log_every=1", "train.keep_last=3", "eval.streams=2"]
    overrides = [word for change in changes for word in ("--set", change)]
    assert pretrain("--name", "mine", "--resume", "auto", *overrides) == 0
    run = RunDir(Path("runs/mine"))
    assert steps("mine") == [4, 6, 8]
    assert [event["step"] for event in events(run, "train")] == [2, 4, 5, 6, 7, 8]
    assert load_recipe(str(run.recipe)).train.steps == 8
    sessions = json.loads(run.environment.read_text())["sessions"]
    assert [each["resumed_from"] for each in sessions] == [None, "step-0000004"]
    # From now on these are the run's own settings.
    command = ["--name", "mine", "--resume", "auto", "--set", "train.steps=10"]
    assert main.run(["pretrain", "--data-dir", str(corpus_dir), *command]) == 0
    assert [event["step"] for event in events(run, "train")][-2:] == [9, 10]


def test_a_run_cannot_become_shorter_than_it_is(pretrain: Pretrain, capsys: Capture) -> None:
    assert pretrain("--name", "mine") == 0
    capsys.readouterr()
    shorter = ["--resume", "auto", "--set", "train.steps=3"]
    assert pretrain("--name", "mine", *shorter) == EXIT_USAGE
    assert "train.steps: the checkpoint is of step 4, past the 3 of training" in error(capsys)


def test_a_finished_run_resumed_evaluates_again(pretrain: Pretrain) -> None:
    assert pretrain("--name", "mine") == 0
    run = RunDir(Path("runs/mine"))
    before = [without_times(event) for event in events(run)]
    weights = load_file(checkpoint.find(run, "last") / checkpoint_state.MODEL)
    assert pretrain("--name", "mine", "--resume", "auto") == 0
    after = [without_times(event) for event in events(run)]
    assert after == before
    again = load_file(checkpoint.find(run, "last") / checkpoint_state.MODEL)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


# One run, one process


def test_a_run_in_use_by_another_process_is_refused(pretrain: Pretrain, capsys: Capture) -> None:
    assert pretrain("--name", "mine") == 0
    before = snapshot(Path("runs"))
    capsys.readouterr()
    holding = textwrap.dedent("""
        import sys
        from filelock import FileLock
        with FileLock(sys.argv[1]):
            print("locked", flush=True)
            sys.stdin.read()
    """)
    other = subprocess.Popen(
        [sys.executable, "-c", holding, "runs/mine/.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        assert pretrain("--name", "mine", "--resume", "auto") == EXIT_USAGE
        other.communicate()
    assert "runs/mine: another process is training in this run folder" in error(capsys)
    assert snapshot(Path("runs")) == before


# Corpora


def test_a_corpus_of_another_tokenizer_is_refused(pretrain: Pretrain, capsys: Capture) -> None:
    assert pretrain("--set", "data.corpus=words") == EXIT_DATA
    printed = error(capsys)
    assert "prepared with the tokenizer 'words', the recipe wants 'bytes'" in printed
    assert "Use --set data.tokenizer=words" in printed
    assert not Path("runs").exists()


def test_a_corpus_that_changed_under_a_run_is_refused(
    pretrain: Pretrain, capsys: Capture, tmp_path: Path
) -> None:
    text = Path("text.txt")
    text.write_text(inspect.getsource(textwrap) * 3)
    prepare(str(text), tmp_path / "data/sources")
    data = ["--data-dir", "data"]
    assert pretrain("--name", "mine", *data) == 0
    text.write_text(inspect.getsource(textwrap)[::-1] * 3)
    prepare(str(text), tmp_path / "data/sources", force=True)
    before = snapshot(Path("runs"))
    capsys.readouterr()
    resume = ["--resume", "auto", "--set", "train.steps=6"]
    assert pretrain("--name", "mine", *data, *resume) == EXIT_DATA
    assert "the prepared corpus is not the one this run was trained on" in error(capsys)
    assert snapshot(Path("runs")) == before


def test_a_corpus_that_is_not_prepared_is_named(pretrain: Pretrain, capsys: Capture) -> None:
    assert pretrain("--set", "data.corpus=sorces") == EXIT_DATA
    assert "Did you mean 'sources'?" in error(capsys)
    assert not Path("runs").exists()


# Devices and memory


@pytest.mark.parametrize("device", ["gpu", "cpuu", "meta", "", "cuda:99"])
def test_a_device_there_is_none_of_is_refused(
    pretrain: Pretrain, capsys: Capture, device: str
) -> None:
    assert pretrain("--device", device) == EXIT_USAGE
    assert f"device '{device}'" in error(capsys)
    assert not Path("runs").exists()


def out_of_torch_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


OUT_OF_MEMORY: dict[str, Callable[[], Any]] = {
    "torch": out_of_torch_memory,
    "torch's allocator": lambda: torch.empty(1 << 60, dtype=torch.uint8),
    "numpy": lambda: np.empty(1 << 60, dtype=np.uint8),
}


@pytest.mark.parametrize("kind", list(OUT_OF_MEMORY))
def test_out_of_memory_names_what_to_lower(
    pretrain: Pretrain, capsys: Capture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    step = Trainer.step

    def greedy(self: Trainer) -> None:
        if self.steps_done == 3:
            OUT_OF_MEMORY[kind]()
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", greedy)
        assert pretrain("--name", "mine") == EXIT_OUT_OF_MEMORY
    printed = error(capsys)
    assert "out of memory on cpu" in printed
    for setting in ("train.micro_batches (now 1)", "train.batch (now 4)", "train.block (now 32)"):
        assert setting in printed
    finished = events(RunDir(Path("runs/mine")))[-1]
    assert (finished["kind"], finished["status"]) == ("run_finished", "failed")
    assert steps("mine") == [2]
    assert pretrain("--name", "mine", "--resume", "auto") == 0


@pytest.mark.parametrize("fits", [2, 4, None])
def test_out_of_memory_names_as_few_micro_batches_as_fit(
    pretrain: Pretrain,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    corpus_dir: Path,
    fits: int | None,
) -> None:
    """By the estimate of --dry-run, with room to spare for what it leaves out."""
    vocabulary = TokenStore.open(corpus_dir / "sources").manifest.vocab_size
    needed = measure(recipe(train={"micro_batches": fits or 4}), vocabulary).training_bytes
    room = needed / device.ROOM_TO_PLAN_WITH + (1 if fits else -1)
    monkeypatch.setattr(device, "device_memory", lambda device: room)
    monkeypatch.setattr(Trainer, "step", lambda self: out_of_torch_memory())
    assert pretrain("--name", "mine") == EXIT_OUT_OF_MEMORY
    said = error(capsys)
    if fits is None:
        assert "--set" not in said
    else:
        size = f"{needed / 2**30:.1f} of {room / 2**30:.1f} GiB"
        assert f"Use --set train.micro_batches={fits}, which takes about {size}. Raise" in said


def test_a_model_too_large_for_memory_leaves_nothing(
    pretrain: Pretrain, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*args: Any) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr("simsmoe_cli.train.objectives.language_modelling.language_model", too_large)
    assert pretrain("--name", "mine") == EXIT_OUT_OF_MEMORY
    assert "model.width (now 32)" in error(capsys)
    assert list(Path("runs").iterdir()) == []


def test_an_error_of_ours_is_not_dressed_up(
    pretrain: Pretrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: Trainer) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Trainer, "step", wrong)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        pretrain("--name", "mine")
    finished = events(RunDir(Path("runs/mine")))[-1]
    assert (finished["status"], finished["reason"]) == (
        "failed",
        "mat1 and mat2 shapes cannot be multiplied",
    )


# Places


@pytest.mark.parametrize("runs_dir", ["tiny.yaml", "tiny.yaml/runs"])
def test_a_place_where_no_folder_can_be(pretrain: Pretrain, capsys: Capture, runs_dir: str) -> None:
    assert pretrain("--runs-dir", runs_dir) == EXIT_DATA
    assert "cannot write the run: " in error(capsys)


def test_only_repeatable_algorithms_on_request(pretrain: Pretrain) -> None:
    try:
        assert pretrain("--name", "mine", "--deterministic") == 0
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    (only,) = json.loads(Path("runs/mine/environment.json").read_text())["sessions"]
    assert only["deterministic"] is True
    assert only["torch"] == torch.__version__


def test_pystdlib_is_prepared_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[tuple[str, Path, dict[str, Any]]] = []

    def pretend(name: str, out: Path, **settings: Any) -> None:
        prepared.append((name, out, settings))
        prepare("tiny.yaml", out)

    monkeypatch.setattr(session, "prepare", pretend)
    said: list[str] = []
    store = session.open_store(load_recipe("quickstart"), Path("data"), said.append)
    assert prepared == [
        ("pystdlib", Path("data/pystdlib"), {"tokenizer": "bytes", "on_progress": None})
    ]
    assert store.path == Path("data/pystdlib")
    assert said == ["preparing pystdlib in data/pystdlib"]
