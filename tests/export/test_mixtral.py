"""Exported to the Mixtral layout, Hugging Face's own code computes the same logits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.export.folder import export
from simsmoe_cli.run.opened import OpenedRun
from tests.data.tokenizers.huggingface_files import model_folder
from tests.exported import drawn_run
from tests.train.tiny import recipe

SPAN = 24
TEXT = "def parse(argument, default=None):\n    return [argument or default] * 2\n"
MODELS: dict[str, dict[str, Any]] = {
    "untied": {"model": {"span": SPAN}},
    "tied, one expert a token": {
        "model": {"span": SPAN, "tie_embeddings": True, "rope_base": 500.0, "repeats": 3},
        "moe": {"top_k": 1, "experts": 5, "hidden": 40},
    },
}


def exported(tmp_path: Path, store: TokenStore, **changes: dict[str, Any]) -> OpenedRun:
    """A model with every weight drawn, exported to the folder `out`."""
    trained = drawn_run(tmp_path / "run", recipe(**changes), store)
    export(trained, tmp_path / "out", "mixtral")
    return trained


def tokens_of(trained: OpenedRun, text: str) -> torch.Tensor:
    return torch.tensor([trained.store.tokenizer.encode(text).tolist()])


@pytest.mark.parametrize("name", MODELS)
def test_the_same_logits(name: str, tmp_path: Path, store: TokenStore) -> None:
    from transformers import MixtralForCausalLM

    trained = exported(tmp_path, store, **MODELS[name])
    tokens = tokens_of(trained, TEXT)
    assert tokens.shape[1] > 2 * SPAN
    theirs, report = MixtralForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        ours = trained.language_model(torch.device("cpu"))(tokens).logits
        logits = theirs(tokens).logits
        torch.testing.assert_close(logits, ours, atol=1e-4, rtol=0)
        # The comparison sees what it should: large logits, and the window.
        assert ours.abs().max() > 5
        theirs.config.sliding_window = None
        assert (theirs(tokens).logits - ours).abs().max() > 0.01


def test_the_readme_tells_how_it_is_read(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = exported(tmp_path, store, model={"span": SPAN})
    monkeypatch.chdir(tmp_path / "out")
    (program,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    scope: dict[str, Any] = {}
    exec(program, scope)
    ours = trained.language_model(torch.device("cpu"))(tokens_of(trained, "a text")).logits
    torch.testing.assert_close(scope["logits"], ours, atol=1e-4, rtol=0)
    ids = scope["tokenizer"](TEXT).input_ids
    assert ids == tokens_of(trained, TEXT)[0].tolist()
    assert scope["tokenizer"].decode(ids) == TEXT


@pytest.mark.parametrize("kind", ["words", "sentencepiece"])
def test_other_tokenizers_are_read_as_well(kind: str, tmp_path: Path, corpus_dir: Path) -> None:
    from transformers import AutoTokenizer

    size = {"vocab_size": 400} if kind == "sentencepiece" else {}
    store = prepare(str(corpus_dir / "sources.txt"), tmp_path / "text", tokenizer=kind, **size)
    trained = exported(tmp_path, store, data={"corpus": "text", "tokenizer": kind})
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")(TEXT).input_ids
    assert ids == tokens_of(trained, TEXT)[0].tolist()


def test_the_tokenizer_of_a_model_is_exported_as_it_was(tmp_path: Path, corpus_dir: Path) -> None:
    from transformers import AutoTokenizer

    text = corpus_dir / "sources.txt"
    folder = model_folder(tmp_path / "model", "llama3", text.read_text())
    store = prepare(str(text), tmp_path / "text", tokenizer=str(folder))
    changes = {"corpus": "text", "tokenizer": "huggingface"}
    trained = exported(tmp_path, store, data=changes)
    read_back = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = read_back(TEXT, add_special_tokens=False).input_ids
    assert ids == tokens_of(trained, TEXT)[0].tolist()
    assert "add_special_tokens=False" in (tmp_path / "out/README.md").read_text()
