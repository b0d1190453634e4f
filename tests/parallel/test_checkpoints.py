"""Checkpoints of several ranks: resumed bit for bit on as many, and whole on any other number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simsmoe_cli.cli import main
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.tensor_files import TensorFiles
from tests.gloo_ranks import on_ranks
from tests.parallel.runs import held, train, train_on_a_full_disk
from tests.train.tiny import events, without_times


@pytest.fixture(scope="module")
def run(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run that two ranks trained."""
    folder = tmp_path_factory.mktemp("two")
    on_ranks(train, 2, folder, 2, corpus_dir / "sources", folder / "run")
    return RunDir(folder / "run")


def test_a_resumed_run_is_the_same_bit_for_bit(
    run: RunDir, corpus_dir: Path, tmp_path: Path
) -> None:
    again = RunDir(tmp_path / run.name)
    shutil.copytree(run.path, again.path)
    start = again.checkpoints / checkpoint.step_name(4)
    on_ranks(train, 2, tmp_path, 2, corpus_dir / "sources", again.path, start)
    name = checkpoint.step_name(8)
    whole, resumed = (checkpoint.read_state(r.checkpoints / name)["sha256"] for r in (run, again))
    assert resumed == whole
    said = [[without_times(e) for e in events(r, "train", "eval", "router")] for r in (run, again)]
    assert said[0] == said[1]


def test_one_process_opens_the_best_weights(
    run: RunDir, corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = [str(run.path), "--data-dir", str(corpus_dir)]
    assert main.run(["eval", *ours, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 8
    assert main.run(["export", *ours[:1], str(tmp_path / "out"), *ours[1:]]) == 0
    exported = load_file(tmp_path / "out" / "model.safetensors")
    best = TensorFiles(checkpoint.weights_files(run.best, checkpoint.read_state(run.best)))
    assert [name for name in exported if not torch.equal(exported[name], best.read(name))] == []


def test_a_full_disk_of_one_rank_ends_all_and_leaves_nothing_half_written(
    corpus_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    found = on_ranks(train_on_a_full_disk, 2, tmp_path, 2, corpus_dir / "sources", path)
    (said,) = {said for of_rank in found for said in of_rank}
    assert "cannot write the checkpoint: [Errno 28] No space left on device" in said
    assert [file for file in path.rglob("*") if "partial" in file.name] == []
    assert checkpoint.list_checkpoints(RunDir(path)) == []


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_any_number_of_ranks_goes_on_with_it(
    run: RunDir, corpus_dir: Path, tmp_path: Path, ranks: int
) -> None:
    start = run.checkpoints / checkpoint.step_name(4)
    given = (corpus_dir / "sources", run.path, start)
    here = held(0, 1, *given)
    there = on_ranks(held, ranks, tmp_path, ranks, *given)
    for found in there:
        assert found.keys() == here.keys()
        assert [name for name in here if not torch.equal(found[name], here[name])] == []
