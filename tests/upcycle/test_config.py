"""The configuration of an upcycled model means what that of the dense one did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from simsmoe_cli.upcycle.experts import Settings
from simsmoe_cli.upcycle.write import upcycle
from tests.upcycle.models import dense, logits


def test_config_of_an_older_version(tmp_path: Path) -> None:
    source = dense("Llama", tmp_path / "dense", rope_parameters=None)
    config = json.loads((source / "config.json").read_text())
    for name in ("rope_parameters", "rms_norm_eps", "dtype", "head_dim"):
        del config[name]
    config |= {"rope_theta": 300.0, "torch_dtype": "float32", "head_dim": 12}
    (source / "config.json").write_text(json.dumps(config))
    upcycle(source, tmp_path / "moe", Settings(2, 1))
    new = AutoConfig.from_pretrained(tmp_path / "moe")
    assert new.rope_parameters["rope_theta"] == 300.0
    assert new.rms_norm_eps == 1e-6  # the default of llama, not of mixtral
    assert (logits(tmp_path / "moe") - logits(source)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_settings_are_kept(kind: str, tmp_path: Path) -> None:
    source = dense(
        kind,
        tmp_path / "dense",
        eos_token_id=[1, 2],
        rms_norm_eps=1e-4,
        hidden_act="gelu",
        tie_word_embeddings=True,
        attention_dropout=0.125,
    )
    upcycle(source, tmp_path / "moe", Settings(5, 3))
    old, new = (AutoConfig.from_pretrained(tmp_path / name) for name in ("dense", "moe"))
    for name in (
        "eos_token_id",
        "rms_norm_eps",
        "hidden_act",
        "tie_word_embeddings",
        "attention_dropout",
        "max_position_embeddings",
        "rope_parameters",
        "dtype",
    ):
        assert getattr(new, name) == getattr(old, name)
    assert (new.sliding_window or None) == getattr(old, "sliding_window", None)
    assert (new.num_experts, new.num_experts_per_tok) == (5, 3)
    assert (logits(tmp_path / "moe") - logits(source)).abs().max() < 1e-5
