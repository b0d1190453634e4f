"""An upcycled model is a mixture of experts that computes what the dense model does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from simsmoe_cli.any_moe.handle import attach
from simsmoe_cli.upcycle.experts import Settings
from simsmoe_cli.upcycle.write import upcycle
from tests.upcycle.models import KINDS, dense, logits, tensors

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e3,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_function_is_that_of_the_dense_model(kind: str, tmp_path: Path) -> None:
    source = dense(kind, tmp_path / "dense")
    done = upcycle(source, tmp_path / "moe", Settings(experts=4, top_k=2))
    assert (logits(tmp_path / "moe") - logits(source)).abs().max() < 1e-5
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "moe")
    assert type(model).__name__ == done.architecture
    assert sum(weight.numel() for weight in model.parameters()) == done.parameters
    expert = 3 * 32 * 40
    assert done.parameters - done.active == 2 * 2 * expert


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_those_that_transformers_itself_writes(kind: str, tmp_path: Path) -> None:
    upcycle(dense(kind, tmp_path / "dense"), tmp_path / "moe", Settings(4, 2))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "moe")
    model.save_pretrained(tmp_path / "again")
    found, again = tensors(tmp_path / "moe"), tensors(tmp_path / "again")
    assert set(found) == set(again)
    assert all(torch.equal(found[name], again[name]) for name in found)
    before, after = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("moe", "again")
    )
    assert before == after


@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
@pytest.mark.parametrize("top_k", [1, 3])
def test_any_number_of_experts_a_token(kind: str, top_k: int, tmp_path: Path) -> None:
    source = dense(kind, tmp_path / "dense", tie_word_embeddings=True, rope_parameters=LLAMA3)
    upcycle(source, tmp_path / "moe", Settings(experts=3, top_k=top_k))
    assert "lm_head.weight" not in tensors(tmp_path / "moe")
    assert (logits(tmp_path / "moe") - logits(source)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["Mistral", "Qwen2"])
def test_bf16_in_several_files_stays_bf16(kind: str, tmp_path: Path) -> None:
    source = dense(kind, tmp_path / "dense", shard="20KB", dtype=torch.bfloat16)
    assert len(list(source.glob("*.safetensors"))) > 1
    seen: list[tuple[int, int | None]] = []

    def progress(stage: str, done: int, total: int | None) -> None:
        seen.append((done, total))

    upcycle(source, tmp_path / "moe", Settings(4, 2), shard_bytes=30_000, progress=progress)
    size = sum(tensor.nbytes for tensor in tensors(tmp_path / "moe").values())
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)
    files = sorted(tmp_path.glob("moe/*.safetensors"))
    assert len(files) > 2
    assert all(file.stat().st_size < 35_000 for file in files)
    assert {tensor.dtype for tensor in tensors(tmp_path / "moe").values()} == {torch.bfloat16}
    assert AutoConfig.from_pretrained(tmp_path / "moe").dtype == torch.bfloat16
    difference = (logits(tmp_path / "moe") - logits(source)).abs().max()
    assert difference < 0.05 * logits(source).abs().max()
    upcycle(source, tmp_path / "whole", Settings(4, 2))
    whole = tensors(tmp_path / "whole")
    assert all(torch.equal(whole[name], it) for name, it in tensors(tmp_path / "moe").items())


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    source = dense("Llama", tmp_path / "dense")
    names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"]
    for name in names:
        (source / name).write_text(f'{{"{name}": 1}}')
    (source / "notes.txt").write_text("private")
    upcycle(source, tmp_path / "moe", Settings(2, 2))
    for name in [*names, "generation_config.json"]:
        assert (tmp_path / "moe" / name).read_text() == (source / name).read_text()
    assert not (tmp_path / "moe" / "notes.txt").exists()


@pytest.mark.parametrize("kind", ["Mistral", "Qwen2"])
def test_drop_upcycling_draws_the_same_units_of_all_three_matrices(
    kind: str, tmp_path: Path
) -> None:
    source = dense(kind, tmp_path / "dense", hidden_size=128, intermediate_size=120)
    upcycle(source, tmp_path / "moe", Settings(3, 2, drop_ratio=0.25))
    old, new = tensors(source), tensors(tmp_path / "moe")
    names, block, scale = {
        "Mistral": (("w1", "w3", "w2"), "block_sparse_moe", 1.0),
        "Qwen2": (("gate_proj", "up_proj", "down_proj"), "mlp", 0.5),
    }[kind]
    chosen = []
    for layer in range(2):
        for expert in range(3):
            changed = []
            for part, name in zip(("gate", "up", "down"), names, strict=True):
                before = old[f"model.layers.{layer}.mlp.{part}_proj.weight"]
                after = new[f"model.layers.{layer}.{block}.experts.{expert}.{name}.weight"]
                if part == "down":
                    before, after = before.T, after.T / scale
                units = (before != after).any(dim=1)
                assert (before != after)[units].all()
                drawn = after[units]  # 30 x 128 numbers
                assert drawn.mean() - before.mean() == pytest.approx(0, abs=0.1 * before.std())
                assert drawn.std() == pytest.approx(before.std(), rel=0.06)
                changed.append(units)
            assert changed[0].sum() == 30
            assert torch.equal(changed[0], changed[1])
            assert torch.equal(changed[0], changed[2])
            chosen.append(tuple(changed[0].tolist()))
    assert len(set(chosen)) == len(chosen)


def test_noise_has_the_scale_that_was_asked_for(tmp_path: Path) -> None:
    source = dense("Qwen3", tmp_path / "dense", hidden_size=128, intermediate_size=120)
    upcycle(source, tmp_path / "moe", Settings(2, 1, noise=0.2))
    old, new = tensors(source), tensors(tmp_path / "moe")
    for part in ("gate_proj", "up_proj", "down_proj"):
        before = old[f"model.layers.1.mlp.{part}.weight"]
        drawn = [
            new[f"model.layers.1.mlp.experts.{expert}.{part}.weight"] - before
            for expert in range(2)
        ]
        for one in drawn:
            assert one.std() == pytest.approx(0.2 * before.std(), rel=0.05)
            assert one.mean() == pytest.approx(0, abs=0.02 * before.std())
        together = torch.stack([one.flatten() for one in drawn])
        assert torch.corrcoef(together)[0, 1].abs() < 0.05


@pytest.mark.parametrize("how", [{}, {"drop_ratio": 0.5}, {"noise": 0.1}])
def test_a_seed_repeats(how: dict[str, float], tmp_path: Path) -> None:
    source = dense("Llama", tmp_path / "dense")
    found = []
    for number, seed in enumerate((7, 7, 8)):
        upcycle(source, tmp_path / f"{number}", Settings(2, 1, seed=seed, **how))
        found.append(tensors(tmp_path / f"{number}"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    gate = "model.layers.0.block_sparse_moe.gate.weight"
    assert not torch.equal(found[0][gate], found[2][gate])
    assert found[0][gate].std() == pytest.approx(0.15, rel=0.5)


EVERY_STEP = {"preset": "calibrated", "weight": 1.0, "tokens": 64, "budget": None}


def similarity_of(folder: Path) -> tuple[float, float]:
    """Mean CKA of the experts, and the similarity gradient over that of the loss."""
    tokens = torch.randint(1, 61, (8, 40), generator=torch.Generator().manual_seed(0))
    both = []
    for similarity in ("none", EVERY_STEP):
        model = AutoModelForCausalLM.from_pretrained(folder).train()
        handle = attach(model, similarity, probe_every=1)
        for _ in range(2):
            model.zero_grad()
            model(tokens, labels=tokens).loss.backward()
            handle.step()
        both.append([it.grad for name, it in model.named_parameters() if "experts" in name])
    cka = handle.metrics()["cka_mean"]
    pairs = zip(*both, strict=True)
    extra = max((learning - without).abs().max().item() for without, learning in pairs)
    return cka, extra / max(without.abs().max().item() for without in both[0])


def test_copies_have_a_cka_of_1_and_no_similarity_gradient(tmp_path: Path) -> None:
    source = dense("Mistral", tmp_path / "dense")
    upcycle(source, tmp_path / "copies", Settings(4, 2))
    upcycle(source, tmp_path / "dropped", Settings(4, 2, drop_ratio=0.5))
    cka, gradient = similarity_of(tmp_path / "copies")
    assert cka == pytest.approx(1, abs=1e-3)
    assert gradient < 1e-3
    cka, gradient = similarity_of(tmp_path / "dropped")
    assert cka < 0.9
    assert gradient > 0.05
