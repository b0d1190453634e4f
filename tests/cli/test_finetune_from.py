"""`simsmoe finetune --from FOLDER` with a Hugging Face model, and commands that read the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_USAGE
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.opened import OpenedRun
from tests.train.huggingface_folders import model_folder
from tests.train.tiny import events
from tests.train.transfer import prepare

Capture = pytest.CaptureFixture[str]
CPU = torch.device("cpu")
SETTINGS = ("train.batch=8", "train.block=32", "train.lr=0.01", "train.schedule=constant")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Mixtral (model/), data/letters and runs/whole, fine-tuned for two epochs."""
    folder = tmp_path_factory.mktemp("finetune-from")
    model_folder("Mixtral", folder / "model")
    prepare(folder / "data", "letters")
    assert finetune(folder, "whole", epochs=2) == 0
    return folder


def finetune(folder: Path, name: str, *more: str, epochs: int) -> int:
    settings = [*SETTINGS, "train.precision=fp32", f"finetune.epochs={epochs}"]
    words = ["finetune", "--from", str(folder / "model"), "--task", "letters", "--name", name]
    chosen = [part for setting in settings for part in ("--set", setting)]
    return main.run([*words, *chosen, *places(folder), "--device", "cpu", *more])


def places(folder: Path) -> list[str]:
    return ["--data-dir", str(folder / "data"), "--runs-dir", str(folder / "runs")]


def test_the_result_is_a_classifier_of_transformers(tuned: Path) -> None:
    import transformers

    run = RunDir(tuned / "runs/whole")
    opened = OpenedRun.open(run, "best", tuned / "data")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        run.path / "huggingface"
    ).eval()
    assert list(theirs.config.id2label.values()) == opened.labels
    ours = opened.classifier(CPU)
    for example in opened.task().split("test")[:5]:
        ids = torch.from_numpy(opened.tokenizer.encode(example.text).astype("int64"))[None]
        with torch.no_grad():
            logits = ours(ids, torch.tensor([ids.shape[1]])).logits
            torch.testing.assert_close(theirs(ids).logits, logits)


def test_a_resumed_run_equals_an_uninterrupted_one(tuned: Path, tmp_path: Path) -> None:
    for part in ("model", "data"):
        shutil.copytree(tuned / part, tmp_path / part)
    assert finetune(tmp_path, "half", epochs=1) == 0
    shutil.rmtree(tmp_path / "model")
    resume = ["finetune", "--resume", "half", "--set", "finetune.epochs=2", *places(tmp_path)]
    assert main.run(resume) == 0
    folders = [
        checkpoint.find(RunDir(place / "runs" / name), "last")
        for place, name in ((tuned, "whole"), (tmp_path, "half"))
    ]
    whole, half = (load_file(folder / "model.safetensors") for folder in folders)
    assert whole.keys() == half.keys()
    assert all(torch.equal(whole[name], half[name]) for name in whole)


def test_other_commands_read_the_run(tuned: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main.run(["eval", "whole", "--json", *places(tuned)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["task"] == "letters"
    out = ["--out", str(tmp_path / "report"), "--format", "json", "--no-ablation"]
    assert main.run(["collapse-report", "whole", *out, *places(tuned)]) == 0
    assert len(json.loads((tmp_path / "report/report.json").read_text())["findings"]) == 1
    assert finetune(tuned, "dry", "--dry-run", epochs=1) == 0
    assert "from        model, step 0" in capsys.readouterr().out


def test_a_family_without_a_classifier_in_transformers(tmp_path: Path, capsys: Capture) -> None:
    model_folder("Olmoe", tmp_path / "model")
    prepare(tmp_path / "data", "letters")
    assert finetune(tmp_path, "a", "--set", "finetune.examples=8", epochs=1) == 0
    run = RunDir(tmp_path / "runs/a")
    warned = [event["message"] for event in events(run, "warning")]
    assert any("transformers has no classifier for models of type olmoe" in w for w in warned)
    assert not list((run.path / "huggingface").glob("*.safetensors"))
    assert (run.path / "huggingface/tokenizer.json").is_file()
    assert main.run(["eval", "a", *places(tmp_path)]) == 0


def test_settings_that_a_folder_refuses(tuned: Path, capsys: Capture) -> None:
    assert finetune(tuned, "b", "--checkpoint", "last", epochs=1) == EXIT_USAGE
    assert "one set of weights" in capsys.readouterr().err
    more = ("--set", "finetune.drop_last_layer=true", "--set", "moe.router=switch")
    assert finetune(tuned, "b", *more, epochs=1) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "finetune.drop_last_layer: a Hugging Face model keeps all its layers" in said
    assert "moe.router: cannot be set for a Hugging Face model" in said
