"""Weights that are not all a model's own are refused, by the names of what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from simsmoe_cli.collapse.measure.layers import measure
from tests.huggingface.models import (
    QUICK,
    made,
    opened,
    refusal,
    reweighted,
)


def without(part: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: [weights.pop(name) for name in list(weights) if part in name]


@pytest.mark.parametrize(
    ("kind", "part", "named"),
    [
        ("Mixtral", ".experts.", "missing: model.layers.0.mlp.experts.down_proj"),
        ("Mixtral", ".experts.2.", "model.layers.1.mlp.experts.gate_up_proj (3x48x32 in the file"),
        ("Mixtral", ".experts.2.w3.", "combined into model.layers.0.mlp.experts.gate_up"),
        ("Mixtral", "layers.1.block_sparse_moe.gate.", "missing: model.layers.1.mlp.gate.weight"),
        ("Mixtral", "layers.0.self_attn.k_proj", "missing: model.layers.0.self_attn.k_proj.weight"),
        ("Mixtral", "model.norm", "missing: model.norm.weight"),
        ("Mixtral", "embed_tokens", "missing: model.embed_tokens.weight"),
        ("Mixtral", "lm_head", "missing: lm_head.weight"),
        ("DeepseekV3", "layers.1.mlp.experts.", "missing: model.layers.1.mlp.experts.down_proj"),
        ("DeepseekV3", "e_score_correction", "model.layers.1.mlp.gate.e_score_correction_bias"),
        ("DeepseekV3", "layers.0.mlp.up_proj", "missing: model.layers.0.mlp.up_proj.weight"),
        ("GptOss", "experts.down_proj_bias", "model.layers.0.mlp.experts.down_proj_bias"),
    ],
)
def test_weights_that_are_missing_are_named(
    tmp_path: Path, kind: str, part: str, named: str
) -> None:
    assert named in refusal(reweighted(made(kind, tmp_path / "model"), without(part)))


def test_the_first_ten_are_named_and_how_many_more_there_are(tmp_path: Path) -> None:
    folder = reweighted(
        made("Mixtral", tmp_path / "model", num_hidden_layers=8), without("self_attn")
    )
    said = refusal(folder)
    assert said.count("self_attn") == 10
    assert "model.layers.2.self_attn.o_proj.weight and 22 more" in said


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.q_proj.bias", (32,)),
        ("model.layers.2.self_attn.q_proj.weight", (32, 32)),
        ("lm_head.bias", (61,)),
    ],
)
def test_weights_the_model_does_not_know_are_named(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    folder = made("Mixtral", tmp_path / "model")
    reweighted(folder, lambda weights: weights.update({name: torch.zeros(shape)}))
    assert f"unknown to the model: {name}." in refusal(folder)


def test_weights_of_another_shape_are_named_with_both(tmp_path: Path) -> None:
    folder = made("Mixtral", tmp_path / "model")
    reweighted(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(33)}))
    assert "model.norm.weight (33 in the file, 32 in config.json)" in refusal(folder)


def test_tied_weights_and_parts_that_are_not_run_are_no_fault(tmp_path: Path) -> None:
    def further(weights: dict[str, Tensor]) -> None:
        weights["mtp.layers.0.self_attn.q_proj.weight"] = torch.zeros(32, 32)
        weights["model.vision_tower.patches.weight"] = torch.zeros(3, 3)
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)

    folder = made("Mixtral", tmp_path / "model", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    source = opened(reweighted(folder, further))
    assert source.notes == []
    assert len(source.layers) == 2


def test_layers_that_predict_further_tokens_are_no_fault(tmp_path: Path) -> None:
    def further(weights: dict[str, Tensor]) -> None:
        weights["model.layers.2.self_attn.o_proj.weight"] = torch.zeros(32, 32)

    folder = made("DeepseekV3", tmp_path / "model", num_nextn_predict_layers=1)
    assert len(opened(reweighted(folder, further)).layers) == 1
    folder = made("DeepseekV3", tmp_path / "other", num_nextn_predict_layers=0)
    assert "unknown to the model: model.layers.2." in refusal(reweighted(folder, further))


def test_weights_that_are_no_numbers_are_noted_and_measured(tmp_path: Path) -> None:
    def spoil(model: nn.Module) -> None:
        with torch.no_grad():
            model.model.layers[1].mlp.experts.down_proj[2, 3, 4] = torch.nan
            model.model.layers[0].self_attn.k_proj.weight.zero_()

    source = opened(made("Mixtral", tmp_path / "model", spoil))
    found = measure(source, QUICK)
    assert found.text.notes == [
        "weights that are not finite (NaN or infinite): model.layers.1.mlp.experts.down_proj",
        "weights that are all zero: model.layers.0.self_attn.k_proj.weight",
    ]
    assert found.layers[1].cka[1][2] is None
    assert found.layers[0].cka[1][2] is not None


@pytest.mark.parametrize(
    ("dtype", "named"),
    [
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
        (torch.int8, "I8"),
        (torch.uint8, "U8"),
        (torch.int32, "I32"),
    ],
)
def test_codes_without_a_scale_are_not_taken_for_numbers(
    tmp_path: Path, dtype: torch.dtype, named: str
) -> None:
    def coded(weights: dict[str, Tensor]) -> None:
        for name in weights:
            if ".experts." in name and ".w1." in name:
                weights[name] = (weights[name] * 100).to(dtype)

    said = refusal(reweighted(made("Mixtral", tmp_path / "model"), coded))
    assert f"8 weights are stored as {named}, and config.json has no quantization_config" in said
    assert "model.layers.0.block_sparse_moe.experts.0.w1.weight" in said
    assert "or a folder of the same model in bf16, fp16 or fp32." in said


def test_integers_that_are_no_weights_are_no_fault(tmp_path: Path) -> None:
    def further(weights: dict[str, Tensor]) -> None:
        weights["model.layers.0.self_attn.rotary_emb.position_ids"] = torch.arange(9)
        weights["model.vision_tower.patches.weight"] = torch.zeros(3, 3, dtype=torch.int8)

    opened(reweighted(made("Mixtral", tmp_path / "model"), further))
