"""An exported folder: read back it is the same model, and it is whole or not there."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.export.folder import export, load_export
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.opened import OpenedRun, open_language_model
from tests.exported import drawn_run
from tests.train.test_resume import PAPER_MODEL
from tests.train.tiny import recipe

CPU = torch.device("cpu")
MODELS: dict[str, dict[str, Any]] = {
    "modern": {"similarity": {"preset": "calibrated"}},
    "tied": {"model": {"tie_embeddings": True}},
    "paper": {"model": PAPER_MODEL, "similarity": {"preset": "published"}},
    "growing": {"moe": {"router": "smoe-dropout"}, "smoe_dropout": {"k_start": 1, "k_end": 4}},
    "hash": {"moe": {"router": "hash"}},
    "dense": {"model": {"pattern": "sf"}},
}


@pytest.fixture
def trained(tmp_path: Path, store: TokenStore) -> OpenedRun:
    return drawn_run(tmp_path / "runs" / "modern", recipe(), store)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_read_back_is_the_same_model(name: str, tmp_path: Path, store: TokenStore) -> None:
    trained = drawn_run(tmp_path / "runs" / name, recipe(**MODELS[name]), store)
    files = export(trained, tmp_path / "out", "simsmoe")
    assert files == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    model, tokenizer, context = load_export(tmp_path / "out")
    text = "def main(): return 1\n"
    tokens = torch.tensor([tokenizer.encode(text).tolist()])
    expected = trained.language_model(CPU)(tokens, context=trained.context()).logits
    assert torch.equal(model(tokens, context=context).logits, expected)
    assert expected.abs().max() > 1
    assert tokenizer.decode(tokens[0].tolist()) == text


@pytest.mark.parametrize("corpus", ["sources", "words"])
def test_the_readme_tells_how_it_is_read(
    corpus: str, corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TokenStore.open(corpus_dir / corpus)
    made = recipe(data={"corpus": corpus, "tokenizer": store.manifest.tokenizer})
    export(drawn_run(tmp_path / "runs" / "a", made, store), tmp_path / "out", "simsmoe")
    monkeypatch.chdir(tmp_path / "out")
    readme = Path("README.md").read_text()
    listed = re.findall(r"^\| ([\w.]+) \|", readme, re.MULTILINE)[1:]
    assert sorted([*listed, "README.md"]) == sorted(os.listdir())
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(program, scope)
    assert scope["logits"].shape[-1] == store.manifest.vocab_size
    assert f"{store.manifest.vocab_size:,} {store.manifest.unit}s" in readme
    assert "Weights of step 3 of 8" in readme


def test_only_an_empty_folder_is_filled(tmp_path: Path, trained: OpenedRun) -> None:
    for name in ("file", "used"):
        out = tmp_path / name
        if name == "file":
            out.write_text("mine")
        else:
            out.mkdir()
            (out / "mine").touch()
        with pytest.raises(UserError, match="is not an empty folder"):
            export(trained, out, "simsmoe")
    assert (tmp_path / "file").read_text() == "mine"
    assert os.listdir(tmp_path / "used") == ["mine"]
    (tmp_path / "empty").mkdir()
    assert export(trained, tmp_path / "empty", "simsmoe")


def test_an_unknown_format(tmp_path: Path, trained: OpenedRun) -> None:
    with pytest.raises(UserError, match=r"unknown format 'mixtrl'\. Did you mean 'mixtral'\?"):
        export(trained, tmp_path / "out", "mixtrl")


def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, trained: OpenedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("simsmoe_cli.export.folder._readme", full)
    with pytest.raises(UserError, match="cannot write the export: No space left") as caught:
        export(trained, tmp_path / "out", "simsmoe")
    assert caught.value.code == EXIT_DATA
    assert os.listdir(tmp_path) == ["runs"]


def test_a_model_that_is_no_mixtral_says_why(tmp_path: Path, store: TokenStore) -> None:
    paper = drawn_run(tmp_path / "runs" / "paper", recipe(model=PAPER_MODEL), store)
    with pytest.raises(UserError) as caught:
        export(paper, tmp_path / "out", "mixtral")
    for path in ("attention", "norm_position", "moe_norm", "activation", "norm", "bias"):
        assert f"model.{path} is " in str(caught.value)
    assert "model.attention is relative, not rope" in str(caught.value)
    assert "model.bias is true, not false" in str(caught.value)
    assert "moe.router" not in str(caught.value)
    for changes, message in (
        ({"moe": {"router": "hash"}}, "moe.router is hash, not smoe"),
        ({"model": {"pattern": "sgf"}}, "model.pattern is sgf, not sg"),
        ({"model": {"pattern": "gs"}}, "model.pattern is gs, not sg"),
    ):
        other = drawn_run(tmp_path / "runs" / "other", recipe(**changes), store)
        with pytest.raises(UserError) as caught:
            export(other, tmp_path / "out", "mixtral")
        assert caught.value.what == f"this model does not have the layout of Mixtral: {message}"
    assert not (tmp_path / "out").exists()


def test_a_classifier_is_refused(tmp_path: Path, trained: OpenedRun) -> None:
    from simsmoe_cli.run import save_checkpoint

    task = {"name": "sst2", "labels": ["a", "b"], "fingerprint": "00", "path": "sst2"}
    state = {
        **trained.state,
        "recipe": recipe(finetune={"task": "sst2"}).model_dump(mode="json"),
        "task": task,
        "tokenizer": {"kind": "bytes", "file": "tokenizer.json"},
        "pretrained": {"run": "run", "step": 4, "sha256": "00"},
    }
    del state["sha256"], state["step"]
    run = RunDir(tmp_path / "runs" / "classifier")
    save_checkpoint.save_best(run, 3, trained.language_model(CPU), state)
    with pytest.raises(UserError, match="this run is a classifier"):
        open_language_model(run, "best", tmp_path)


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_damaged_export_is_no_traceback(
    damage: str, how: str, tmp_path: Path, trained: OpenedRun
) -> None:
    export(trained, tmp_path / "out", "simsmoe")
    file = tmp_path / "out" / damage
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError, match="the export cannot be read") as caught:
        load_export(tmp_path / "out")
    assert caught.value.code == EXIT_DATA


def test_an_export_of_another_version(tmp_path: Path, trained: OpenedRun) -> None:
    export(trained, tmp_path / "out", "simsmoe")
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    for change in ({"schema": 2}, {"format": "other"}, {"recipe": {"modl": {}}}):
        path.write_text(json.dumps(config | change))
        with pytest.raises(UserError, match="the export cannot be read"):
            load_export(tmp_path / "out")


def test_the_readme_of_an_oddly_named_run_is_text_for_any_terminal(
    tmp_path: Path, store: TokenStore
) -> None:
    trained = drawn_run(tmp_path / "runs" / "\x1b[31mrün", recipe(), store)
    export(trained, tmp_path / "out", "simsmoe")
    readme = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# \\x1b[31mrün\n")
    assert readme.replace("\n", "").isprintable()
