"""Run folders that somebody or something has damaged: every command that reads them says so.

Half of the damage is done with care: the checksums are made to match it.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from simsmoe_cli.cli import main
from simsmoe_cli.data.tasks.prepare import prepare_task
from simsmoe_cli.errors import UserError
from simsmoe_cli.export.folder import load_export
from simsmoe_cli.files.untrusted import sealed, unsealed
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from tests.fuzz.driving import (
    ODD,
    cases,
    contents,
    damaged,
    disturbed,
    require_clear,
    require_nothing_half_written,
    simsmoe,
)
from tests.train.tiny import recipe

TRAIN = {"steps": 4, "checkpoint_every": 2, "validate_every": 2, "probe_every": 2}


@pytest.fixture(scope="module")
def folder(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder, and the runs "model" and "tuned" with two checkpoints each."""
    folder = tmp_path_factory.mktemp("folders")
    shutil.copytree(corpus_dir / "sources", folder / "data/sources")
    rows = "".join(f"import number{n},{'ab'[n % 2]}\n" for n in range(60))
    (folder / "rows.csv").write_text("text,label\n" + rows)
    prepare_task(str(folder / "rows.csv"), folder / "data/letters")
    made = recipe(model={"attention": "relative", "span": 32}, train=TRAIN)
    (folder / "tiny.yaml").write_text(dump_recipe(made))
    places = ["--data-dir", str(folder / "data"), "--runs-dir", str(folder / "whole")]
    start = ["pretrain", "--recipe", str(folder / "tiny.yaml"), "--name", "model"]
    assert main.run([*start, *places]) == 0
    few = ["train.block=32", "train.batch=24", "finetune.epochs=2", "train.checkpoint_every=1"]
    tune = ["finetune", "--from", "model", "--task", "letters", "--name", "tuned"]
    assert main.run([*tune, *places, *(f"--set={setting}" for setting in few)]) == 0
    return folder


def resealed(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change a state.json and make its checksum match."""
    state = unsealed(json.loads(path.read_bytes()))
    changed = change(state)
    content = sealed(changed) if isinstance(changed, dict) else changed
    path.write_text(json.dumps(content))


def edited_tensors(path: Path, rng: random.Random) -> None:
    """Change a file of tensors and make the checksum in the state beside it match."""
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    how = rng.randrange(8)
    if how == 0:
        del tensors[name]
    elif how == 1:
        tensors[f"{name}x"] = tensors.pop(name)
    elif how == 2:
        tensors[name] = tensor.to(rng.choice([torch.float64, torch.int32, torch.bool])).clone()
    elif how == 3:
        tensors[name] = tensor[None].clone()
    elif how == 4:
        tensors[name] = tensor.flatten()[: tensor.numel() // 2].clone()
    elif how == 5 and tensor.is_floating_point():
        tensors[name] = torch.full_like(tensor, rng.choice([float("nan"), float("inf"), -1e30]))
    elif how == 6:
        tensors = {}
    else:
        tensors[name] = torch.zeros_like(tensor)
    save_file(tensors, path)

    def rehash(state: dict[str, object]) -> object:
        hashes = state["sha256"]
        assert isinstance(hashes, dict)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return state | {"sha256": hashes | {path.name: digest}}

    resealed(path.with_name("state.json"), rehash)


def damage(run: Path, rng: random.Random) -> str:
    """Do something to a file of a run folder: its name."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    if rng.random() < 0.6:  # what a reader depends on most
        files = [path for path in files if path.name == "state.json" or "safetensors" in path.name]
    path = rng.choice(files)
    how = rng.random()
    if path.name == "state.json" and how < 0.7:
        resealed(path, lambda state: disturbed(state, rng))
    elif path.suffix == ".safetensors" and how < 0.7:
        edited_tensors(path, rng)
    elif path.suffix == ".json" and how < 0.7:
        path.write_text(json.dumps(disturbed(json.loads(path.read_bytes()), rng)))
    elif how < 0.8:
        path.unlink()
    elif how < 0.85:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(damaged(path.read_bytes(), rng))
    return str(path.relative_to(run))


def test_every_reader_of_a_run_folder_is_clear(folder: Path, tmp_path: Path) -> None:
    good = bad = 0
    for rng in cases(50, seed=15):
        name = rng.choice(["model", "model", "tuned"])
        run = tmp_path / name
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(folder / "whole" / name, run)
        damaged_file = damage(run, rng) if rng.random() < 0.95 else ""
        which = rng.choice(["best", "last", "2" if name == "model" else "3"])
        line = rng.choice(
            [
                ["eval", name, "--checkpoint", which],
                ["eval", name, "--checkpoint", which],
                ["generate", name, "--prompt", "import", "--tokens", "2", "--checkpoint", which],
                ["export", name, str(tmp_path / "out"), "--checkpoint", which],
                ["finetune", "--from", name, "--task", "letters", "--dry-run"],
                ["monitor", name, "--once"],
            ]
        )
        before = contents(run)
        places = ["--runs-dir", str(tmp_path)]
        if line[0] != "monitor":
            places += ["--data-dir", str(folder / "data")]
        outcome = simsmoe(*line, *places)
        require_clear(outcome, [0, 2, 3, 4])
        assert contents(run) == before, damaged_file
        require_nothing_half_written(tmp_path)
        assert outcome.code == 0 or not (tmp_path / "out").exists()
        undamaged = not damaged_file and (name == "model" or line[0] in ("eval", "monitor"))
        assert outcome.code == 0 or not undamaged
        good += outcome.code == 0
        bad += outcome.code != 0
    assert good > 0
    assert bad > 0


def test_a_damaged_run_goes_on_or_says_why_and_loses_nothing(folder: Path, tmp_path: Path) -> None:
    trained_steps = checkpoint.list_checkpoints(RunDir(folder / "whole/tuned"))[-1][0]
    for rng in cases(24, seed=16):
        name = rng.choice(["model", "model", "tuned"])
        run = tmp_path / name
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(folder / "whole" / name, run)
        damaged_file = damage(run, rng) if rng.random() < 0.9 else ""
        before = contents(run)
        more = "train.steps=6" if name == "model" else "finetune.epochs=3"
        kind = ["pretrain"] if name == "model" else ["finetune"]
        outcome = simsmoe(
            *kind, "--name", name, "--resume", "auto", "--set", more,
            "--runs-dir", str(tmp_path), "--data-dir", str(folder / "data"),
        )  # fmt: skip
        require_clear(outcome, [0, 2, 3, 4])
        require_nothing_half_written(tmp_path)
        if outcome.code:
            assert damaged_file, outcome.err
            continue
        last = checkpoint.list_checkpoints(RunDir(run))[-1][0]
        assert last == (6 if name == "model" else 3 * trained_steps // 2)
        kept = set(contents(run).values())
        if "is skipped and kept aside" in outcome.out and damaged_file in before:
            assert before[damaged_file] in kept, damaged_file


def test_every_damaged_export_is_refused_in_a_line(folder: Path, tmp_path: Path) -> None:
    places = ["--runs-dir", str(folder / "whole"), "--data-dir", str(folder / "data")]
    whole = tmp_path / "whole"
    assert main.run(["export", "model", str(whole), *places]) == 0
    good = 0
    for rng in cases(40, seed=17):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        path = rng.choice([out / "config.json", out / "config.json", *out.iterdir()])
        if path.name == "config.json" and rng.random() < 0.8:
            path.write_text(json.dumps(disturbed(json.loads(path.read_bytes()), rng)))
        else:
            path.write_bytes(damaged(path.read_bytes(), rng))
        why = ""
        try:
            load_export(out)
            good += 1
        except UserError as error:
            why = str(error)
        assert why.isprintable()
    assert good > 0


@pytest.mark.parametrize("value", ODD)
def test_environment_that_is_anything_only_informs(
    folder: Path, tmp_path: Path, value: object
) -> None:
    run = tmp_path / "model"
    shutil.copytree(folder / "whole/model", run)
    run.joinpath("environment.json").write_text(json.dumps({"sessions": value}))
    content = run.joinpath("environment.json").read_bytes()
    outcome = simsmoe(
        "pretrain", "--resume", str(run), "--data-dir", str(folder / "data"),
        "--set", "train.steps=5",
    )  # fmt: skip
    assert outcome.code == 0
    aside = [path for path in run.iterdir() if path.name.startswith("damaged-")]
    if isinstance(value, list):
        assert not aside
    else:
        assert [path.read_bytes() for path in aside] == [content]
        assert "warning: environment.json" in outcome.out
