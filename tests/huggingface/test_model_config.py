"""What config.json says of the model, and what is said where it is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.huggingface.models import (
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
    ("field", "value", "said"),
    [
        ("hidden_size", "a", '= "a", which must be a whole number'),
        ("hidden_size", None, "= null, which must be a whole number"),
        ("hidden_size", 0, "= 0, with which transformers cannot build a model of type mixtral"),
        ("hidden_size", -32, "= -32, with which transformers cannot build"),
        ("num_attention_heads", 0, "= 0, with which transformers cannot build"),
        ("num_attention_heads", [4], "= [4], which must be a whole number"),
        ("num_local_experts", {}, "= {}, which must be a whole number"),
        ("num_experts_per_tok", 9, "= 9, but a layer has 4 experts"),
        ("num_experts_per_tok", 0, "= 0, but a layer has 4 experts"),
        ("num_hidden_layers", 10**12, "= 1000000000000, but the files hold 41 weight tensors"),
        ("num_hidden_layers", 0, "= 0, but the files hold 41 weight tensors"),
        ("hidden_act", "nope", '= "nope", with which transformers cannot build'),
        ("hidden_act", 7, "= 7, which must be a string"),
        ("rms_norm_eps", float("inf"), "= inf, which is not a finite number"),
        ("tie_word_embeddings", "yes", '= "yes", which must be true or false'),
        ("dtype", "float12", '= "float12", with which transformers cannot build'),
        ("dtype", [], "= [], with which transformers cannot build"),
        ("vocab_size", {"a": 1}, "= {'a': 1}, which must be a whole number"),
    ],
)
def test_a_field_that_is_wrong_is_named(folder: Path, field: str, value: Any, said: str) -> None:
    found = refusal(configured(folder, **{field: value}))
    assert f"config.json says {field} {said}" in found
    assert found.endswith("Give the config.json that these weights were published with.")


def test_a_field_is_named_before_the_tokenizer_is_opened(folder: Path, text: Path) -> None:
    assert "config.json says dtype" in refusal(configured(folder, dtype="float12"), text)


@pytest.mark.parametrize("field", ["n_group", "topk_group"])
def test_a_model_that_does_not_run_names_what_to_check(tmp_path: Path, field: str) -> None:
    folder = configured(made("DeepseekV3", tmp_path / "model"), **{field: None})
    found = refusal(folder)
    assert "this model cannot be run" in found
    assert re.search(rf"Check in config\.json: {field} = null \(default: \d\)\.$", found)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 10**30},
        {"num_attention_heads": 5},
        {"num_key_value_heads": 7},
        {"rope_parameters": 3},
        {"text_config": 3},
        {"quantization_config": "fp8"},
    ],
)
def test_values_that_do_not_fit_are_refused(folder: Path, changes: dict[str, Any]) -> None:
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
