"""Folders that are no whole model are refused before transformers sees them, in one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from simsmoe_cli.collapse.sources.huggingface import loading as model_loading
from simsmoe_cli.collapse.sources.huggingface.source import HuggingFaceSource, open_huggingface
from simsmoe_cli.errors import EXIT_DATA, UserError
from tests.collapse.models import IDS, VOCABULARY, made, with_tokenizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tokenizer(made("Mixtral", tmp_path_factory.mktemp("whole") / "model"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A whole model to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"w{number}" for number in IDS))
    return path


def opened(folder: Path, text: Path | None = None) -> HuggingFaceSource:
    ids = IDS if text is None else None
    return open_huggingface(folder, text, device=torch.device("cpu"), token_ids=ids)


def refusal(folder: Path, text: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        next(opened(folder, text).read(64, 64))
    assert caught.value.code == EXIT_DATA
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 1500
    return said


def configured(folder: Path, **changes: Any) -> Path:
    """The folder with settings of config.json changed."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_a_whole_folder_opens(folder: Path, text: Path) -> None:
    assert opened(folder, text).tokens.tolist() == IDS.tolist()


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
        [] if predicts else ["the model predicts no next token, so no loss is measured"]
    )


def test_a_folder_that_needs_its_own_code(folder: Path) -> None:
    (folder / "modeling_own.py").write_text("raise SystemExit('this was run')")
    configured(
        folder,
        model_type="own",
        auto_map={"AutoConfig": "modeling_own.A", "AutoModelForCausalLM": "modeling_own.B"},
    )
    assert "brings code of its own for them, which is never run" in refusal(folder)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "new"])
def test_quantised_weights_that_are_not_read_are_named(folder: Path, method: str) -> None:
    configured(folder, quantization_config={"quant_method": method, "bits": 4})
    assert f"the weights are quantised ({method})" in refusal(folder)


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
    monkeypatch.setattr(model_loading.importlib.util, "find_spec", lambda name: None)
    assert "reads these only with accelerate. Install it: pip install accelerate" in refusal(
        tmp_path / "model"
    )


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def pickled(path: Path) -> None:
    path.rename(path.with_name("pytorch_model.bin"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut, "model.safetensors: damaged or cut short"),
        (lambda path: path.write_bytes(b""), "model.safetensors: damaged or cut short"),
        (lambda path: path.write_bytes(b"\xff" * 999), "model.safetensors: damaged or cut short"),
        (pointer, "a pointer of Git LFS, not weights. Fetch the file: git lfs pull"),
        (pickled, "the weights are pickled (pytorch_model.bin)"),
        (lambda path: path.unlink(), "no weights here"),
        (
            lambda path: path.rename(path.with_name("x.safetensors")),
            "(x.safetensors) are not named",
        ),
        (lambda path: path.rename(path.with_name("x.gguf")), "GGUF, the format of llama.cpp"),
    ],
)
def test_weights_that_cannot_be_read(
    folder: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(folder / "model.safetensors")
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("[]", "model.safetensors.index.json is not a JSON object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"lm_head.weight": "x.safetensors"}}', "no metadata"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "/etc/passwd is not a safetensors file"),
        ('{"weight_map": {"a": "/x/a.safetensors"}}', "/x/a.safetensors lies outside the folder"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "../a.safetensors lies outside the folder"),
        ('{"weight_map": {"a": 3}}', "3 is not a safetensors file"),
        (
            json.dumps(
                {"metadata": {}, "weight_map": {f"{n}": f"{n:02}.safetensors" for n in range(12)}}
            ),
            "12 files of the weights missing: 00.safetensors, 01.safetensors, 02.safetensors, "
            "03.safetensors, 04.safetensors, 05.safetensors, 06.safetensors, 07.safetensors, "
            "08.safetensors, 09.safetensors and 2 more. Download the folder again",
        ),
        (
            '{"metadata": {}, "weight_map": {"none": "x.safetensors"}}',
            "that x.safetensors does not hold: none",
        ),
    ],
)
def test_an_index_that_leads_astray(folder: Path, index: str, said: str) -> None:
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    assert said in refusal(folder)


def test_a_folder_in_several_files_opens(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"part-{place % 2}.safetensors" for place, name in enumerate(weights)}
    for part in set(places.values()):
        save_file({n: w for n, w in weights.items() if places[n] == part}, folder / part)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert len(opened(folder).layers) == 2
    (folder / "part-1.safetensors").unlink()
    assert "1 file of the weights missing: part-1.safetensors" in refusal(folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: [p.unlink() for p in path.glob("tokenizer*")], "no tokenizer in this folder"),
        (lambda path: (path / "tokenizer.json").write_text("{"), "cannot open the tokenizer"),
        (
            lambda path: (path / "tokenizer.json").write_text("[" * 9999),
            "cannot open the tokenizer",
        ),
        (
            lambda path: (path / "tokenizer_config.json").write_text("3"),
            "cannot open the tokenizer",
        ),
        (
            lambda path: with_tokenizer(path, words=100),
            f"gives the id 99, and the model knows 0 to {VOCABULARY - 1}",
        ),
    ],
)
def test_a_tokenizer_that_does_not_fit(
    folder: Path, text: Path, spoil: Callable[[Path], object], said: str
) -> None:
    text.write_text(" ".join(f"w{number}" for number in range(100)))
    spoil(folder)
    assert said in refusal(folder, text)


def test_a_text_the_tokenizer_does_not_know_is_noted(folder: Path, text: Path) -> None:
    text.write_bytes(b"w1 w2 \xff w3 \xff\xff other words and more of them " * 20)
    notes = opened(folder, text).notes
    assert "the text is not UTF-8: 60 places of it were replaced" in notes
    assert "73% of the text's tokens are unknown to the tokenizer" in notes


def test_a_pipe_is_not_waited_for(folder: Path, text: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    assert "tokenizer.json is not a regular file" in refusal(folder, text)
