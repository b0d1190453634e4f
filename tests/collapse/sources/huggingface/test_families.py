"""Every mixture of experts of transformers: reported as the model computes, or refused by name.

Tiny random models are saved, opened as a user's folder is, and run. What is read of a layer is then
compared with the model's own tensors: the rows, the choice, and every expert's output, which mixed
with the model's weights must be what the layer gives.

Shapes: T tokens, D width, H expert hidden width, N experts, K experts per token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from simsmoe_cli.any_moe.find_layers import (
    ExpertLayer,
    ListedLayer,
    PairedLayer,
    RepeatedLayer,
    find_expert_layers,
)
from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.sources.huggingface.source import HuggingFaceSource
from simsmoe_cli.collapse.sources.open_huggingface import open_huggingface
from simsmoe_cli.collapse.verdict.judge import judge
from simsmoe_cli.errors import UserError
from simsmoe_cli.similarity.routed import Routed
from tests.huggingface.families import (
    NOT_REPORTED,
    REPORTED,
    VOCABULARY,
    families,
    listed,
    searched,
    tiny,
)
from tests.huggingface.models import QUICK

TOKENS = 128
IDS = np.random.default_rng(0).integers(1, VOCABULARY - 4, 600).astype(np.uint32)


def whole_model(config: Any) -> nn.Module | None:
    """The model a user's folder of this configuration is of; None where there is no class."""
    autos = ["AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModel"]
    if "text_config" in config.sub_configs:
        autos.insert(0, "AutoModelForImageTextToText")
    for auto in autos:
        try:
            return getattr(transformers, auto).from_config(config)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
    return None


def saved(model_type: str, folder: Path, **changes: Any) -> Path:
    """A folder of a tiny model whose routers decide clearly."""
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = tiny(transformers.CONFIG_MAPPING[model_type], **changes)
    try:
        model = whole_model(config)
    except ImportError:
        model = None
    if model is None:
        config.save_pretrained(folder)
        weights = {f"weight.{number}": torch.ones(9) for number in range(9)}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder
    with torch.no_grad():
        for layer in find_expert_layers(model):
            for parameter in layer.router.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0, 0.4)
    model.save_pretrained(folder)
    return folder


def opened(folder: Path) -> HuggingFaceSource:
    return open_huggingface(
        folder, None, device=torch.device("cpu"), token_ids=IDS, layerwise=False
    )


def test_every_family_is_on_one_of_the_lists() -> None:
    """Of the version the lists were made with; a later one may have more."""
    assert not set(REPORTED) & set(NOT_REPORTED)
    if listed():
        assert {*REPORTED, *NOT_REPORTED} == set(searched())


@pytest.mark.parametrize("model_type", families())
def test_a_family_is_read_as_the_model_computes_or_refused(model_type: str, tmp_path: Path) -> None:
    if model_type in REPORTED:
        require_right(opened(saved(model_type, tmp_path / "model")))
        return
    try:
        source = opened(saved(model_type, tmp_path / "model"))
        require_right(source)
        said = "it is reported"
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert NOT_REPORTED.get(model_type, "").format(model_type) in said


def require_right(source: HuggingFaceSource) -> None:
    """Compare what is read of each layer with the tensors of the model."""
    calls: list[dict[str, Any]] = [{} for _ in source.found]

    def keep(into: dict[str, Any], name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = (*args, *kwargs.values())
            if name != "experts" or given[0].numel() // given[0].shape[-1] >= TOKENS:
                into[name] = (given, output)

        return hook

    for layer, call in zip(source.found, calls, strict=True):
        layer.module.register_forward_hook(keep(call, "module"), with_kwargs=True)
        layer.router.register_forward_hook(keep(call, "router"), with_kwargs=True)
        layer.experts.register_forward_hook(keep(call, "experts"), with_kwargs=True)
    batch = next(source.read(TOKENS, TOKENS))
    calls = [dict(call) for call in calls]
    assert len(batch.ids_T) >= TOKENS
    if batch.scored:
        assert batch.nats / batch.scored == pytest.approx(np.log(VOCABULARY), abs=0.5)
    names = [name for name, _ in source.model.named_modules()]
    for layer, call, routed, spec in zip(
        source.found, calls, batch.layers, source.layers, strict=True
    ):
        assert spec.name in names
        assert spec.experts == layer.number == 4
        require_right_choice(layer, call, routed)
        require_right_outputs(source, layer, call, routed)
        require_all_weights(layer)
        if routed.logits_TN is not None:
            assert routed.logits_TN.shape == (len(batch.ids_T), 4)
            assert not routed.logits_TN.isnan().any()


def require_right_choice(layer: ExpertLayer, call: dict[str, Any], routed: Routed) -> None:
    rows_TD = call["router"][0][0].flatten(0, -2)
    index_TK = routed.index_TK
    if isinstance(layer, RepeatedLayer):  # Llama 4: the largest of logits
        logits_TN = rows_TD @ layer.router.weight.T
        assert torch.equal(index_TK, logits_TN.topk(index_TK.shape[1]).indices)
        assert torch.equal(routed.input_TD, rows_TD)
    elif isinstance(layer, PairedLayer):  # JetMoE: likewise
        logits_TN = rows_TD @ layer.router.layer.weight.T
        assert torch.equal(index_TK, logits_TN.topk(2).indices)
    elif isinstance(layer, ListedLayer):  # Switch: the one most likely
        logits_TN = rows_TD @ layer.router.classifier.weight.T
        within_T = index_TK[:, 0] < layer.number  # the expert is not yet full
        assert torch.equal(index_TK[within_T, 0], logits_TN.argmax(1)[within_T])
    else:
        (rows, index, weight), _ = call["experts"]
        assert torch.equal(routed.input_TD, rows.flatten(0, -2))
        used = weight > 0
        assert torch.equal(index_TK[used], index[used].clamp(max=layer.number))
        assert (index_TK[~used] == layer.number).all()


def require_right_outputs(
    source: HuggingFaceSource, layer: ExpertLayer, call: dict[str, Any], routed: Routed
) -> None:
    rows_TD, number = routed.input_TD, layer.number
    place = source.found.index(layer)
    dense_NTD = source.dense(place, rows_TD)
    assert dense_NTD.shape == (number, *rows_TD.shape)
    if isinstance(layer, RepeatedLayer):
        gate, up = (rows_TD @ layer.experts.gate_up_proj).chunk(2, dim=-1)
        by_hand_NTD = (up * layer.experts.act_fn(gate)) @ layer.experts.down_proj
        close(dense_NTD, by_hand_NTD)
        return
    mixed_size = 0.0
    if isinstance(layer, PairedLayer):
        (_, output), router = call["module"], call["router"][1]
        weight_TK = router[-1].topk(2).values.softmax(1)
        output = (output - layer.module.bias).flatten(0, 1)
    elif isinstance(layer, ListedLayer):
        output = call["module"][1].flatten(0, 1)
        (router_rows,), _ = call["router"]
        logits_TN = router_rows.flatten(0, 1) @ layer.router.classifier.weight.T
        weight_TK = logits_TN.softmax(1).max(1, keepdim=True).values
    else:
        (_, index_TK, weight_TK), output = call["experts"]
        output = output.reshape(len(rows_TD), -1)
        idle_TK = (index_TK >= number) * weight_TK  # LongCat-Flash: these give the row as it is
        mixed_size = float(output.abs().max())
        output = output - idle_TK.sum(1, keepdim=True) * rows_TD
    padded_NTD = torch.cat([dense_NTD, torch.zeros_like(dense_NTD[:1])])
    mixed = sum(
        padded_NTD[routed.index_TK[:, k], torch.arange(len(rows_TD))] * weight_TK[:, k, None]
        for k in range(weight_TK.shape[1])
    )
    close(mixed, output, mixed_size)


def require_all_weights(layer: ExpertLayer) -> None:
    """The hidden units hold each number of the experts' matrices once."""
    parts = layer.hidden_units()
    hidden = parts[0].shape[1]
    assert all(part.shape[:2] == (layer.number, hidden) for part in parts)
    owner = layer.module if isinstance(layer, PairedLayer) else layer.experts
    own = [
        parameter[: layer.number] if layer.idle else parameter
        for name, parameter in owner.named_parameters()
        if parameter.ndim >= 2 and "bias" not in name and "router" not in name
    ]
    assert sum(part.numel() for part in parts) == sum(parameter.numel() for parameter in own)
    squares = sum(parameter.detach().square().sum() for parameter in own)
    close(sum(part.detach().square().sum() for part in parts), squares)


def close(found: Any, wanted: Tensor, size: float = 0.0) -> None:
    """Equal up to rounding of numbers of a size; 0: of the largest of them."""
    size = max(size, float(wanted.detach().abs().max()))
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6 * size + 1e-9)


def softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def shares_of(score: Any) -> Any:
    return lambda logits: score(logits) / score(logits).sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("model_type", "output", "probability", "changes"),
    [
        ("mixtral", 0, softmax, {}),
        ("gpt_oss", 0, softmax, {}),
        ("longcat_flash", 0, lambda logits: softmax(logits[:, :4]), {}),
        ("switch_transformers", 2, lambda logits: softmax(logits.flatten(0, -2)), {}),
        ("gemma4_text", 0, lambda probabilities: probabilities, {}),
        ("deepseek_v3", 0, shares_of(torch.sigmoid), {}),
        ("minimax_m2", 0, shares_of(torch.sigmoid), {}),
        ("llama4_text", 1, shares_of(torch.sigmoid), {}),
        (
            "deepseek_v4",
            0,
            shares_of(lambda logits: F.softplus(logits).sqrt()),
            {"mlp_layer_types": ["moe", "moe"]},
        ),
        ("phimoe", 0, None, {}),
    ],
)
def test_what_a_router_gives_is_told_apart(
    model_type: str, output: int, probability: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Logits, scores of a sigmoid or another function, or probabilities; None: none of these."""
    source = opened(saved(model_type, tmp_path / "model", **changes))
    given: list[Any] = []
    source.found[-1].router.register_forward_hook(lambda module, args, out: given.append(out))
    routed = next(source.read(128, 128)).layers[-1]
    if probability is None:
        assert routed.logits_TN is None
        found = measure(source, QUICK)
        assert [layer.entropy_nats for layer in found.layers] == [None, None]
        said = [sentence.text for sentence in judge(found).sentences]
        assert any("entropy is unknown in 2 layers" in text for text in said)
        assert not any("hardly decides" in text for text in said)
        return
    assert routed.logits_TN is not None
    first = given[0][output] if isinstance(given[0], tuple) else given[0]
    close(routed.logits_TN.softmax(-1), probability(first.float()))


def test_the_text_part_says_how_large_vocabulary_and_window_are(tmp_path: Path) -> None:
    source = opened(saved("qwen3_vl_moe", tmp_path / "model"))
    assert json.loads((tmp_path / "model" / "config.json").read_text()).get("vocab_size") is None
    assert source.vocab_size == VOCABULARY
    assert source.block == 64
