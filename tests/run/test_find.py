"""Which run is meant: one rule for every command, and a clear refusal of everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.run.find import (
    expected_folder,
    find_checkpoint,
    find_folder,
    find_run,
    is_run,
    list_runs,
)

Capture = pytest.CaptureFixture[str]
# Every command that takes a run, with what else it needs.
COMMANDS = {
    "eval": [],
    "generate": ["--prompt", "a"],
    "export": ["out"],
    "finetune": ["--task", "letters"],
    "pretrain": [],
    "monitor": ["--once"],
    "compare": [],
    "collapse-report": [],
}


def a_run(folder: Path) -> Path:
    (folder / "checkpoints/step-0000004").mkdir(parents=True)
    (folder / "best").mkdir()
    (folder / "recipe.yaml").write_text("name: tiny\n")
    (folder / "events.jsonl").touch()
    return folder


@pytest.fixture(autouse=True)
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/one and runs/two, below the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        a_run(Path("runs") / name)
    return Path("runs")


def refusal(capsys: Capture, command: str, run: str, *more: str) -> str:
    """The one line on stderr of a command that is given something else than a run."""
    option = {"finetune": ["--from"], "pretrain": ["--resume"]}.get(command, [])
    capsys.readouterr()
    assert main.run([command, *option, run, *COMMANDS[command], *more]) == EXIT_DATA
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1, printed.err
    return printed.err


def test_a_run_is_found_by_name_path_and_events(runs_dir: Path) -> None:
    one = runs_dir / "one"
    for given in (
        "one",
        "runs/one",
        "runs/one/",
        str(one.absolute()),
        "runs/one/events.jsonl",
        "runs/one/best/..",
    ):
        found = find_run(given, runs_dir).path
        assert found.samefile(one)
        assert found.name == "one"
        assert find_folder(given, runs_dir) == found


def test_a_name_comes_before_a_path(runs_dir: Path) -> None:
    a_run(Path("one"))
    assert find_run("one", runs_dir).path == runs_dir / "one"


def test_the_runs_of_a_folder(runs_dir: Path) -> None:
    (runs_dir / "notes").mkdir()
    (runs_dir / "notes.txt").touch()
    assert list_runs(runs_dir) == [runs_dir / "one", runs_dir / "two"]
    assert list_runs(Path("nowhere")) == []
    assert is_run(runs_dir / "one")
    assert not is_run(runs_dir)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_misspelt_name_names_the_nearest(capsys: Capture, command: str) -> None:
    said = refusal(capsys, command, "tow")
    assert "runs: no run 'tow'. Did you mean 'two'? Available: one, two." in said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_of_runs_is_not_a_run(capsys: Capture, command: str) -> None:
    said = refusal(capsys, command, "runs")
    assert "this is a folder of runs, not a run. Choose one of them: --runs-dir " in said


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "pretrain"])
@pytest.mark.parametrize(
    ("part", "which"),
    [("best", "best"), ("checkpoints/step-0000004", "4"), ("checkpoints", "last")],
)
def test_a_part_of_a_run_names_its_run(
    capsys: Capture, command: str, part: str, which: str
) -> None:
    said = refusal(capsys, command, f"runs/one/{part}")
    assert "this is a part of a run, not a run. Give the run, " in said
    assert f"--checkpoint {which}." in said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_repository_of_hugging_face_is_not_a_run(capsys: Capture, command: str) -> None:
    said = refusal(capsys, command, "mistralai/Mixtral-8x7B-v0.1")
    assert "mistralai/Mixtral-8x7B-v0.1: no such run or folder, and nothing is downloaded" in said
    assert "take it, as a folder: hf download mistralai/Mixtral-8x7B" in said


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "collapse-report"])
def test_a_file_is_not_a_run(capsys: Capture, command: str) -> None:
    Path("model.safetensors").touch()
    assert "this is a file, not a run" in refusal(capsys, command, "model.safetensors")


@pytest.mark.parametrize("command", ["eval", "generate", "export", "finetune", "pretrain"])
def test_a_folder_without_a_run(capsys: Capture, command: str) -> None:
    Path("notes").mkdir()
    assert "notes: no run in this folder: it has no recipe.yaml" in refusal(
        capsys, command, "notes"
    )


def test_a_misspelt_path_is_not_taken_for_a_repository(runs_dir: Path) -> None:
    for given in ("runs/tow", "elsewhere/tow"):
        with pytest.raises(UserError, match=f"no run '{given}'. Did you mean 'two'?"):
            find_run(given, runs_dir)


def test_a_misspelt_path_names_the_nearest_run_beside_it(runs_dir: Path) -> None:
    run = Path("other/ten")
    run.mkdir(parents=True)
    (run / "events.jsonl").touch()
    with pytest.raises(UserError, match=r"^other: no run 'other/tne'. Did you mean 'ten'\?"):
        find_run("other/tne", runs_dir)


def test_a_checkpoint_is_found_by_its_folder(runs_dir: Path) -> None:
    folder = (runs_dir / "one/checkpoints/step-0000004").absolute()
    for given in ("runs/one/checkpoints/step-0000004", str(folder)):
        run, found = find_checkpoint(given, runs_dir)
        assert (run.name, found) == ("one", folder)
    run, found = find_checkpoint("one", runs_dir)
    assert (run.name, found) == ("one", None)


def test_a_run_that_is_yet_to_come_is_expected_where_it_will_be(runs_dir: Path) -> None:
    assert expected_folder("one", runs_dir) == runs_dir / "one"
    assert expected_folder("soon", runs_dir) == runs_dir / "soon"
    assert expected_folder("/elsewhere/soon", runs_dir) == Path("/elsewhere/soon")
    with pytest.raises(UserError, match="a folder of runs"):
        expected_folder("runs", runs_dir)
