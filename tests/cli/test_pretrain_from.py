"""`simsmoe pretrain --from FOLDER` and the commands that read such a run."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.opened import OpenedRun
from tests.train.huggingface_folders import corpus, model_folder, options
from tests.train.tiny import events

Capture = pytest.CaptureFixture[str]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Mixtral (model/), data/ and runs/whole, trained for four steps from it."""
    folder = tmp_path_factory.mktemp("from")
    model_folder("Mixtral", folder / "model")
    corpus(folder / "model", folder / "data")
    assert pretrain(folder, "whole") == 0
    return folder


def pretrain(folder: Path, name: str, *more: str, model: str = "model") -> int:
    words = ["pretrain", "--from", str(folder / model), "--name", name, "--device", "cpu"]
    return main.run([*words, *options(folder / "runs", folder / "data"), *more])


def places(folder: Path) -> list[str]:
    return ["--data-dir", str(folder / "data"), "--runs-dir", str(folder / "runs")]


def said(capsys: Capture) -> str:
    return capsys.readouterr().err


def require_loads(run: RunDir, data: Path) -> None:
    """transformers loads the run's folder, and its logits are those of the best weights."""
    import transformers

    folder = run.path / "huggingface"
    opened = OpenedRun.open(run, "best", data)
    ids = torch.from_numpy(opened.store.split("test")[:32].astype("int64"))[None]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, opened.language_model(CPU)(ids).logits)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "the dog sat on a mat"
    assert (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        == opened.tokenizer.encode(text).tolist()
    )


def test_the_result_is_a_folder_of_transformers(trained: Path) -> None:
    run = RunDir(trained / "runs/whole")
    require_loads(run, trained / "data")
    before = load_file(trained / "model/model.safetensors")
    after = load_file(run.path / "huggingface/model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before if "experts" in name)


@pytest.mark.parametrize("kind", ["Olmoe", "Qwen3Moe"])
def test_other_families(kind: str, tmp_path: Path) -> None:
    model_folder(kind, tmp_path / "model", lambda model: model.to(torch.bfloat16))
    corpus(tmp_path / "model", tmp_path / "data")
    assert pretrain(tmp_path, "a", "--set", "train.steps=2") == 0
    run = RunDir(tmp_path / "runs/a")
    written = load_file(run.path / "huggingface/model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    steps = [event["step"] for event in events(run, "similarity")]
    assert steps == [0, 2]


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    trained: Path, tmp_path: Path
) -> None:
    for part in ("model", "data"):
        shutil.copytree(trained / part, tmp_path / part)
    assert pretrain(tmp_path, "half", "--set", "train.steps=2") == 0
    shutil.rmtree(tmp_path / "model")  # the run holds all of it
    resume = ["pretrain", "--resume", "half", "--set", "train.steps=4", *places(tmp_path)]
    assert main.run(resume) == 0
    folders = [
        checkpoint.find(RunDir(place / "runs" / name), "last")
        for place, name in ((trained, "whole"), (tmp_path, "half"))
    ]
    for file in ("model.safetensors", "training.safetensors"):
        whole, half = (load_file(folder / file) for folder in folders)
        assert whole.keys() == half.keys()
        assert all(torch.equal(whole[name], half[name]) for name in whole)
    require_loads(RunDir(tmp_path / "runs/half"), tmp_path / "data")


def test_events_are_those_of_any_run(trained: Path, capsys: Capture) -> None:
    run = RunDir(trained / "runs/whole")
    train = events(run, "train")
    assert train[-1]["losses"].keys() == {"balance", "similarity"}
    assert sum(event["similarity"]["pairs_due"] for event in train) > 0
    router = events(run, "router")[-1]["layers"]
    assert [layer["layer"] for layer in router] == [0, 1]
    assert all(abs(sum(layer["load"]) - 1) < 1e-6 for layer in router)
    recipe = events(run, "run_started")[0]["recipe"]
    assert recipe["huggingface"]["folder"] == str(trained / "model")
    assert recipe["huggingface"]["layers"] == ["0", "1"]
    assert "model" not in recipe
    assert main.run(["monitor", str(run.path), "--once"]) == 0
    assert "layer 0" in capsys.readouterr().out


def test_other_commands_read_the_run(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main.run(["eval", "whole", "--json", *places(trained)]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["step"] in (2, 4)
    ask = ["generate", "whole", "--prompt", "the cat", "--tokens", "3", "--show-experts"]
    assert main.run([*ask, "--layer", "1", *places(trained)]) == 0
    assert all(line.rpartition("|")[2].isdigit() for line in capsys.readouterr().out.splitlines())
    out = tmp_path / "report"
    few = ["--tokens", "64", "--ablate-tokens", "64", "--format", "json", "--out", str(out)]
    assert main.run(["collapse-report", "whole", *few, *places(trained)]) == 0
    findings = json.loads((out / "report.json").read_text())
    labels = [layer["label"] for layer in findings["findings"][0]["layers"]]
    assert labels == ["0", "1"]
    assert main.run(["export", "whole", str(tmp_path / "export"), *places(trained)]) == 0
    assert (tmp_path / "export/model.safetensors").read_bytes() == (
        trained / "runs/whole/huggingface/model.safetensors"
    ).read_bytes()
    capsys.readouterr()
    assert main.run(["eval", "whole", "--top-k", "1", *places(trained)]) == EXIT_USAGE
    assert "as many experts as its config.json says" in said(capsys)


def test_a_corpus_of_another_tokenizer(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    other = model_folder("Olmoe", tmp_path / "other")
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace('"<unk>"', '"<other>"'))
    corpus(other, tmp_path / "data")
    shutil.copytree(trained / "model", tmp_path / "model")
    assert pretrain(tmp_path, "a") == EXIT_DATA
    assert f"encoded by another tokenizer than that of {tmp_path / 'model'}" in said(capsys)
    assert not (tmp_path / "runs/a").exists()


def test_the_recipe_may_not_describe_the_model(trained: Path, capsys: Capture) -> None:
    settings = ["--set", "moe.top_k=1", "--set", "model.width=64", "--set", "train.block=65"]
    assert pretrain(trained, "a", *settings) == EXIT_USAGE
    lines = said(capsys).splitlines()
    for field in ("moe.top_k", "model.width"):
        assert any(f"{field}: cannot be set for a Hugging Face model" in line for line in lines)
    assert any("train.block: the model reads at most 64 tokens" in line for line in lines)


def test_folders_that_cannot_be_trained(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    model_folder("Llama", tmp_path / "dense")
    shutil.copytree(trained / "data", tmp_path / "data")
    assert pretrain(tmp_path, "a", model="dense") == EXIT_DATA
    assert "no layer with experts" in said(capsys)
    assert pretrain(tmp_path, "a", model="nothing") == EXIT_DATA
    assert "no such folder" in said(capsys)
    assert pretrain(trained, "a", model="runs/whole") == EXIT_DATA
    written = trained / "runs/whole/huggingface"
    assert f"Give the model that it wrote: --from {written}" in said(capsys)


def test_without_transformers(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def missing(name: str, package: str | None = None) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return found(name, package)

    found = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", missing)
    assert pretrain(trained, "a") == EXIT_USAGE
    assert "pip install 'simsmoe[hf]'" in said(capsys)


def test_dry_run(trained: Path, capsys: Capture) -> None:
    assert pretrain(trained, "a", "--dry-run", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(trained / "model")
    assert facts["parameters"] == sum(part.numel() for part in model.parameters())
    assert facts["memory_bytes"]["total"] == 16 * facts["parameters"]
    assert not (trained / "runs/a").exists()
