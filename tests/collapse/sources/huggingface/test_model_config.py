"""What config.json says of the model, and what is said where it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.collapse.sources.huggingface.models import (
    configured,
    made,
    opened,
    refusal,
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "config.json is not JSON"),
        ("{", "config.json is not JSON"),
        ("[1, 2]", "config.json is not a JSON object"),
        ("[" * 100_000, "config.json is nested too deep"),
        ("{}", "config.json has no model_type"),
        ('{"model_type": 7}', "config.json has no model_type"),
        ('{"model_type": "\\u001b[31mx"}', "does not know models of type \\x1b[31mx"),
    ],
)
def test_a_config_that_is_none(folder: Path, content: str, said: str) -> None:
    (folder / "config.json").write_text(content)
    assert said in refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "a"},
        {"hidden_size": None},
        {"hidden_size": 0},
        {"hidden_size": -32},
        {"hidden_size": 10**30},
        {"num_attention_heads": 0},
        {"num_attention_heads": 5},
        {"num_key_value_heads": 7},
        {"num_experts_per_tok": 9},
        {"num_local_experts": []},
        {"num_hidden_layers": 10**12},
        {"hidden_act": "none such"},
        {"rope_parameters": 3},
        {"dtype": "float12"},
        {"text_config": 3},
        {"quantization_config": "fp8"},
        {"vocab_size": {"a": 1}},
    ],
)
def test_a_config_of_wrong_values(folder: Path, changes: dict[str, Any]) -> None:
    refusal(configured(folder, **changes))


@pytest.mark.parametrize("architectures", [None, 7, [], [7], ["NoneSuch"], ["MixtralModel"]])
def test_a_config_need_not_name_its_class(folder: Path, architectures: Any) -> None:
    source = opened(configured(folder, architectures=architectures))
    predicts = architectures != ["MixtralModel"]
    assert next(source.read(64, 64)).scored == (64 if predicts else 0)
    assert source.notes == (
        [] if predicts else ["the model does not predict the next token, so no loss is measured"]
    )


def test_a_folder_that_needs_its_own_code(folder: Path) -> None:
    (folder / "modeling_own.py").write_text("raise SystemExit('this was run')")
    configured(
        folder,
        model_type="own",
        auto_map={"AutoConfig": "modeling_own.A", "AutoModelForCausalLM": "modeling_own.B"},
    )
    assert "brings code of its own for them, which is never run" in refusal(folder)


def test_a_configuration_of_a_far_larger_model_takes_no_memory(tmp_path: Path) -> None:
    folder = made("Mixtral", tmp_path / "model")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 61', '"vocab_size": 6100000000'))
    assert "config.json describes a model of 390,4" in refusal(folder)
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 9999')
    )
    assert "num_hidden_layers = 9999" in refusal(folder)
