"""Weights of every format are loaded, in the precision and the memory there is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_OUT_OF_MEMORY, UserError
from simsmoe_cli.huggingface import model_config
from simsmoe_cli.model import available_memory as memory
from tests.huggingface.models import (
    configured,
    made,
    opened,
    refusal,
    reweighted,
    with_tokenizer,
)


def test_weights_in_mxfp4_are_read_as_numbers(tmp_path: Path) -> None:
    """Two numbers of a table in a byte, the lower half first; 32 of them share a power of two."""
    folder = made("GptOss", tmp_path / "model", intermediate_size=32)
    numbers = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    numbers = torch.cat([numbers, -numbers])
    weights, wanted = load_file(folder / "model.safetensors"), {}
    for name in [name for name in weights if name.endswith("_proj") and "experts" in name]:
        experts, width, hidden = weights.pop(name).shape
        blocks = torch.randint(0, 256, (experts, hidden, width // 32, 16), dtype=torch.uint8)
        scales = torch.randint(122, 125, blocks.shape[:3], dtype=torch.uint8)
        pairs = torch.stack([numbers[(blocks & 15).long()], numbers[(blocks >> 4).long()]], -1)
        scaled = pairs.flatten(3) * torch.exp2(scales.float() - 127)[..., None]
        wanted[name] = scaled.flatten(2).mT
        weights |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    configured(folder, quantization_config={"quant_method": "mxfp4"}, dtype="bfloat16")
    source = opened(folder)
    assert next(source.read(64, 64)).scored == 64
    assert source.notes == ["weights stored as mxfp4, computed as float32"]
    gate, up, down = source.weights(1)
    both = wanted["model.layers.1.mlp.experts.gate_up_proj"]
    assert torch.equal(gate.float(), both[..., ::2].mT)
    assert torch.equal(up.float(), both[..., 1::2].mT)
    assert torch.equal(down.float(), wanted["model.layers.1.mlp.experts.down_proj"])


def in_fp8(folder: Path) -> dict[str, torch.Tensor]:
    """Store a folder's matrices in fp8 as DeepSeek-V3 does; gives what they are then."""
    weights, wanted = load_file(folder / "model.safetensors"), {}
    for name in [name for name in weights if "proj" in name]:
        scale = weights[name].abs().max() / 448
        stored = (weights[name] / scale).to(torch.float8_e4m3fn)
        wanted[name] = stored.float() * scale
        weights |= {name: stored, f"{name}_scale_inv": scale.reshape(1, 1)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    configured(folder, quantization_config=fp8, dtype="bfloat16")
    return wanted


def test_weights_in_fp8_are_read_as_numbers_or_what_it_takes_is_said(tmp_path: Path) -> None:
    wanted = in_fp8(made("DeepseekV3", tmp_path / "model"))
    if find_spec("accelerate") is None:
        assert "pip install accelerate" in refusal(tmp_path / "model")
        return
    source = opened(tmp_path / "model")
    assert next(source.read(64, 64)).scored == 64
    for part, name in zip(source.weights(0), ("gate_proj", "up_proj", "down_proj"), strict=True):
        found = part[2].mT if name == "down_proj" else part[2]
        expected = wanted[f"model.layers.1.mlp.experts.2.{name}.weight"]
        assert torch.allclose(found.float(), expected, rtol=0.01, atol=1e-6)


def test_the_package_that_fp8_takes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_fp8(made("DeepseekV3", tmp_path / "model"))
    monkeypatch.setattr(model_config.importlib.util, "find_spec", lambda name: None)
    assert "reads these only with accelerate. Install it: pip install accelerate" in refusal(
        tmp_path / "model"
    )


CPU = torch.device("cpu")


def test_a_model_that_must_be_held_whole_needs_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made("Mixtral", tmp_path / "model")
    monkeypatch.setattr(memory, "available", lambda device: 50_000)
    with pytest.raises(UserError, match=r"needs 0\.1 MB of memory, and 0\.1 MB are free") as caught:
        opened(folder, layerwise=False)
    assert caught.value.code == EXIT_OUT_OF_MEMORY
    opened(folder)


def test_running_out_of_memory_is_no_fault_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    def greedy(*args: Any, **options: Any) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    folder = with_tokenizer(made("Mixtral", tmp_path / "model"))
    (tmp_path / "text.txt").write_text("w1 w2 w3")
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", greedy)
    arguments = ["collapse-report", str(folder), "--text", str(tmp_path / "text.txt")]
    assert main.run(arguments) == EXIT_OUT_OF_MEMORY
    assert "out of memory on cpu" in capsys.readouterr().err


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = made("Mixtral", tmp_path / "model")
    opened(folder)
    refusal(reweighted(folder, lambda weights: weights.pop("lm_head.weight")))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"temperature": -1, "max_length": "x"}'])
@pytest.mark.parametrize("layerwise", [True, False])
def test_how_a_model_generates_is_never_read(folder: Path, content: str, layerwise: bool) -> None:
    (folder / "generation_config.json").write_text(content)
    assert len(opened(folder, layerwise=layerwise).layers) == 2
