"""Reports on fine-tuned runs: measured on the texts of their task, padding left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simsmoe_cli.cli import main
from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.measure.options import Options
from simsmoe_cli.collapse.measure.saturation import choices_of
from simsmoe_cli.collapse.sources.open_run import open_run
from simsmoe_cli.collapse.sources.run import TaskSource, spread_texts
from simsmoe_cli.data.tasks.encode import EncodedSplit
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.run.event_log import read_events
from simsmoe_cli.run.folder import RunDir
from tests.train.transfer import QUICK, prepare, pretrain

EVERYTHING = 10**6
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ with the task letters, runs/ with tuned, fine-tuned on it."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "data").mkdir()
    (folder / "data/sources").symlink_to(corpus_dir / "sources")
    prepare(folder / "data", "letters")
    pretrain(folder / "data", RunDir(folder / "runs/base"))
    command = ["finetune", "--from", "base", "--task", "letters", "--name", "tuned"]
    settings = [word for setting in QUICK for word in ("--set", setting)]
    assert main.run([*command, *settings, "--set", "finetune.epochs=2", *places(folder)]) == 0
    return folder


def places(folder: Path) -> list[str]:
    return ["--data-dir", str(folder / "data"), "--runs-dir", str(folder / "runs")]


def tuned(folder: Path, **options: Any) -> TaskSource:
    given: dict[str, Any] = {"data_dir": folder / "data", "device": torch.device("cpu")}
    source = open_run(RunDir(folder / "runs/tuned"), **(given | options))
    assert isinstance(source, TaskSource)
    return source


def test_every_token_of_the_texts_is_read_once_and_no_padding(folder: Path) -> None:
    source = tuned(folder)
    batches = list(source.read(EVERYTHING, 60))
    read = np.sort(torch.cat([batch.ids_T for batch in batches]).numpy())
    assert np.array_equal(read, np.sort(source.texts.ids))
    for batch in batches:
        for layer in batch.layers:
            assert len(layer.input_TD) == len(layer.index_TK) == len(batch.ids_T)
            assert len(layer.logits_TN) == len(batch.ids_T)
    measured = sum(len(batch.ids_T) for batch in batches if batch.rows)
    assert 30 < measured < 90


def test_each_class_is_a_domain(folder: Path) -> None:
    source = tuned(folder)
    domains = source.domains()
    assert [name for name, _ in domains] == list(source.labels)
    whole = choices_of(source, EVERYTHING, [0])[0]
    parts = [choices_of(part, EVERYTHING, [0])[0] for _, part in domains]
    for label, part in enumerate(parts):
        of_class = source.texts.labels == label
        assert len(part) == source.texts.lengths[of_class].sum()
    total = torch.stack([part.sum(0) for part in parts]).sum(0)
    assert torch.equal(total, whole.sum(0))


def test_what_layers_do_with_a_text_is_what_they_do_with_it_alone(folder: Path) -> None:
    """The padding of a batch changes nothing, and inputs and routing are of the same tokens."""
    source = tuned(folder)
    read = next(iter(source.read(EVERYTHING, EVERYTHING)))
    lengths = np.sort(source.texts.lengths)
    order = np.argsort(source.texts.lengths, kind="stable")
    begin = 0
    for length, index in zip(lengths, order, strict=True):
        alone: list[torch.Tensor] = []
        hook = source.model.moe_layers[0].register_forward_pre_hook(
            lambda _, args, alone=alone: alone.append(args[0])
        )
        ids = torch.from_numpy(source.texts.row(int(index)).astype(np.int64))[None]
        with torch.no_grad():
            output = source.model(ids, torch.tensor([length]), StepContext())
        hook.remove()
        here = slice(begin, begin + int(length))
        assert torch.equal(read.ids_T[here], ids[0])
        assert torch.allclose(read.layers[0].input_TD[here], alone[0][0], atol=1e-5)
        assert torch.equal(read.layers[0].index_TK[here], output.moe[0].routing.index_TK)
        begin += int(length)
    assert begin == len(read.ids_T)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_accuracy_is_that_of_the_training(folder: Path, split: str) -> None:
    found = measure(tuned(folder, split=split), Options(rows=64, tokens=EVERYTHING, resamples=5))
    best: dict[str, Any] = {}
    for event in read_events(folder / "runs/tuned/events.jsonl"):
        if event["kind"] == "eval" and event["split"] == split and event.get("best", True):
            best = event
    assert found.text.accuracy == pytest.approx(best["accuracy"])
    assert found.text.loss_nats == pytest.approx(best["loss_nats"], rel=1e-4)
    assert found.text.scored == best["examples"]
    assert found.text.tokens == best["tokens"]
    assert found.text.bpc is found.text.perplexity is None


def test_spread_texts_are_about_as_many_tokens_as_wanted() -> None:
    lengths = np.arange(1, 101)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    texts = EncodedSplit(np.zeros(offsets[-1], np.int32), offsets, np.zeros(100, np.int64), 0, None)
    every = np.arange(100)
    chosen = spread_texts(texts, every, 1000)
    assert 900 < texts.lengths[chosen].sum() < 1100
    assert len(np.unique(chosen)) == len(chosen)
    assert np.array_equal(spread_texts(texts, every, EVERYTHING), every)
    assert len(spread_texts(texts, every, 1)) == 1


def test_another_task_under_the_same_name_is_refused(folder: Path, tmp_path: Path) -> None:
    prepare(tmp_path, "letters", labels=("up", "down"))
    with pytest.raises(UserError, match="task is not the one this run was trained on") as caught:
        tuned(folder, data_dir=tmp_path)
    assert caught.value.code == EXIT_DATA


def test_a_task_that_moved_is_found_where_training_had_it(folder: Path, tmp_path: Path) -> None:
    assert tuned(folder, data_dir=tmp_path).corpus == "letters"


def test_a_damaged_tokenizer_is_said(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs", tmp_path / "runs")
    state = json.loads((tmp_path / "runs/tuned/best/state.json").read_bytes())
    tokenizer = tmp_path / "runs/tuned" / state["tokenizer"]["file"]
    tokenizer.write_bytes(tokenizer.read_bytes() + b" ")
    with pytest.raises(UserError, match="damaged tokenizer: its checksum"):
        open_run(
            RunDir(tmp_path / "runs/tuned"), data_dir=folder / "data", device=torch.device("cpu")
        )
    tokenizer.unlink()
    with pytest.raises(UserError, match="damaged tokenizer: the file is missing"):
        open_run(
            RunDir(tmp_path / "runs/tuned"), data_dir=folder / "data", device=torch.device("cpu")
        )


def test_a_person_sees_accuracy_and_texts(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    capsys.readouterr()
    out = tmp_path / "report"
    command = ["collapse-report", "tuned", "--format", "html,json", "--out", str(out)]
    assert main.run([*command, "--tokens", "64", *places(folder)]) == 0
    printed = capsys.readouterr().out
    assert "letters valid" in printed
    assert "Accuracy" in printed
    assert "n = 12 texts" in printed
    assert "Perplexity" not in printed
    page = (out / "report.html").read_text()
    assert "letters valid" in page
    assert str(folder) not in page


def test_compare_shows_accuracy_where_there_is_no_bpc(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(folder / "runs/tuned", tmp_path / "again")
    capsys.readouterr()
    command = ["compare", "tuned", str(tmp_path / "again"), "--runs-dir", str(folder / "runs")]
    assert main.run([*command, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["runs"][0]
    finished = [
        event
        for event in read_events(folder / "runs/tuned/events.jsonl")
        if event["kind"] == "run_finished"
    ]
    assert first["measures"]["test_accuracy"] == finished[0]["test_accuracy"]
    assert first["measures"]["test_perplexity"] is None
    assert first["curves"]["valid_accuracy"]["values"]
    assert main.run(command) == 0
    printed = capsys.readouterr().out
    assert "test accuracy" in printed
    assert "validation accuracy" in printed
