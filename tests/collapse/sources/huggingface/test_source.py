"""Hugging Face mixtures of experts: tiny random ones, saved and opened as a user's are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.sources.huggingface.source import HuggingFaceSource
from simsmoe_cli.collapse.sources.open_huggingface import open_huggingface
from simsmoe_cli.collapse.subject import Subject
from simsmoe_cli.collapse.verdict.judge import judge
from simsmoe_cli.errors import UserError
from tests.any_moe.models import ListedLayer
from tests.huggingface.models import (
    IDS,
    MORE,
    QUICK,
    VOCABULARY,
    made,
    opened,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves a tiny model of a kind, changed by a function, and gives its folder."""
    folder = tmp_path_factory.mktemp("models")

    def make(kind: str, change: Callable[[nn.Module], object] = lambda model: None) -> Path:
        return made(kind, folder / f"{kind}-{len(list(folder.iterdir()))}", change)

    return make


@pytest.mark.parametrize("kind", [kind for kind in MORE if kind != "Llama"])
def test_each_kind_is_found_and_its_experts_run_as_the_model_runs_them(
    saved: Callable[..., Path], kind: str
) -> None:
    source = opened(saved(kind))
    layers = 1 if kind == "DeepseekV3" else 2
    assert len(source.layers) == layers
    experts = source.layers[0].experts
    assert experts == (6 if kind == "Olmoe" else 4)
    calls: list[tuple[Any, ...]] = []
    source.found[0].experts.register_forward_hook(
        lambda _, args, kwargs, output: calls.append((*args, *kwargs.values(), output)),
        with_kwargs=True,
    )
    batch = next(source.read(256, 256))
    rows, index, weight, output = calls[0]
    routed = batch.layers[0]
    assert torch.equal(routed.index_TK, index)
    assert torch.equal(routed.input_TD, rows)
    assert routed.logits_TN.shape == (len(rows), experts)
    dense = source.dense(0, rows)
    mixed = sum(
        dense[index[:, k], torch.arange(len(rows))] * weight[:, k, None]
        for k in range(index.shape[1])
    )
    assert torch.allclose(mixed, output, atol=1e-5)
    assert [part.shape[:2] for part in source.weights(0)] == [(experts, 24)] * 3
    found = measure(source, QUICK)
    assert found.subject.kind == "huggingface"
    assert found.layers[0].top_k == index.shape[1]
    assert sum(found.layers[0].load) == pytest.approx(1)
    assert found.text.bpc is None
    assert found.text.loss_nats == pytest.approx(np.log(VOCABULARY), abs=0.5)


def test_a_copy_planted_in_a_model_is_found(saved: Callable[..., Path]) -> None:
    def plant(model: nn.Module) -> None:
        order = torch.randperm(24)
        experts = model.model.layers[1].mlp.experts
        with torch.no_grad():
            experts.gate_up_proj[3] = experts.gate_up_proj[0][torch.cat([order, order + 24])]
            experts.down_proj[3] = experts.down_proj[0][:, order]

    found = measure(opened(saved("Mixtral", plant)), QUICK)
    assert found.layers[1].cka[0][3] == pytest.approx(1, abs=1e-3)
    assert found.layers[1].weight_matched[0][3] == pytest.approx(1, abs=1e-4)
    assert found.layers[0].cka[0][3] != pytest.approx(1, abs=0.1)
    assert any("0 and 3 of layer 1" in s.text for s in judge(found).sentences)


def test_interleaved_gates_are_told_apart(saved: Callable[..., Path]) -> None:
    source = opened(saved("GptOss"))
    experts: Any = source.found[0].experts
    gate, up, leaving = source.weights(0)
    assert torch.equal(gate[1], experts.gate_up_proj[1, :, ::2].T)
    assert torch.equal(up[1], experts.gate_up_proj[1, :, 1::2].T)
    assert torch.equal(leaving[1], experts.down_proj[1])


def test_a_model_without_experts_is_described(saved: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"no layer with experts.*LlamaForCausalLM.*15 Linear"):
        opened(saved("Llama"))


def test_what_is_no_model_is_said(saved: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        opened(tmp_path)
    folder = saved("Mixtral")
    (folder / "config.json").write_text('{"model_type": "none such"}')
    with pytest.raises(UserError, match="does not know models of type none such"):
        opened(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights here"):
        opened(folder)


class ListedModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.mlp = ListedLayer()
        self.output = nn.Linear(16, VOCABULARY)

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        hidden = self.embedding(input_ids)
        return SimpleNamespace(logits=self.output(hidden + self.mlp(hidden)))


def listed(model: nn.Module, top_k: int | None) -> HuggingFaceSource:
    subject = Subject(
        kind="huggingface",
        name="listed",
        recipe="",
        router="Linear",
        similarity="none",
        settings={"vocab_size": VOCABULARY},
        parameters=0,
        checkpoint="",
        step=None,
        seed=None,
        simsmoe="0",
        torch="0",
    )
    return HuggingFaceSource(
        model,
        IDS,
        None,
        top_k,
        subject=subject,
        corpus="ids",
        split="text",
        unit="token",
        block=32,
    )


def test_experts_in_a_list_are_found_as_well() -> None:
    torch.manual_seed(0)
    model = ListedModel()
    model.mlp.experts[2].load_state_dict(model.mlp.experts[0].state_dict())
    source = listed(model, top_k=2)
    assert [part.shape for part in source.weights(0)] == [(4, 12, 16)] * 3
    batch = next(source.read(64, 64))
    routed = batch.layers[0]
    assert torch.allclose(routed.input_TD, model.embedding(batch.ids_T))
    assert torch.equal(routed.index_TK, model.mlp.gate(routed.input_TD).topk(2).indices)
    found = measure(source, QUICK)
    assert found.layers[0].cka[0][2] == pytest.approx(1, abs=1e-4)
    assert found.layers[0].weight_matched[0][2] == pytest.approx(1, abs=1e-4)


def test_layers_are_called_what_the_model_calls_them(saved: Callable[..., Path]) -> None:
    """The first layer of DeepSeek-V3 is dense, so the only one with experts here is layer 1."""
    found = measure(opened(saved("DeepseekV3")), QUICK)
    assert [(layer.layer, layer.label) for layer in found.layers] == [(0, "1")]
    text = " ".join(sentence.text for sentence in judge(found).sentences)
    assert "layer 1" in text
    assert "layer 0" not in text


def test_a_weight_that_is_nan_is_found_and_what_follows_is_undefined(
    saved: Callable[..., Path],
) -> None:
    def damage(model: nn.Module) -> None:
        experts = model.get_submodule("model.layers.0.mlp.experts")
        with torch.no_grad():
            experts.get_parameter("down_proj")[2, 0, 0] = torch.nan

    found = measure(opened(saved("Mixtral", damage)), QUICK)
    assert [layer.non_finite for layer in found.layers] == [[2], []]
    assert [layer.load[0] is None for layer in found.layers] == [False, True]
    assert [layer.dead for layer in found.layers] == [None, None]  # too few slots to judge
    assert found.text.loss_nats is None
    verdict = judge(found)
    assert verdict.headline.startswith("Not finite: expert 2 of layer 0")


def test_untrained_weights_are_said_to_predict_no_better_than_a_guess(
    saved: Callable[..., Path],
) -> None:
    found = measure(opened(saved("Mixtral")), QUICK)
    assert found.text.choices == VOCABULARY
    assert "better than a uniform guess" in judge(found).sentences[0].text
    assert "better than a uniform guess" in judge(found).headline


def test_a_text_in_another_tokenizers_language_is_said_to_be_predicted_badly(
    saved: Callable[..., Path],
) -> None:
    """The model knows that one word follows another; the other text has the same words, but
    numbered as another tokenizer would."""

    def plant(model: Any) -> None:
        with torch.no_grad():
            embedding = nn.functional.normalize(model.model.embed_tokens.weight, dim=-1)
            model.model.embed_tokens.weight.copy_(embedding)
            model.lm_head.weight.copy_(2 * embedding.roll(1, 0))
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight *= 1e-3
                layer.mlp.experts.down_proj *= 1e-3

    folder = saved("Mixtral", plant)
    own = np.arange(3000) % VOCABULARY
    other = np.random.default_rng(0).permutation(VOCABULARY)[own]
    said = []
    for ids in (own, other):
        source = open_huggingface(folder, None, device=torch.device("cpu"), token_ids=ids)
        found = measure(source, QUICK)
        said.append(judge(found).headline)
    assert "uniform guess" not in said[0]
    assert "the model predicts this text no better than a uniform guess" in said[1]
