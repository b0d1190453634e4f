"""Models of transformers with one layer changed: the loss of a model that was changed by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simsmoe_cli.collapse.measure.ablation.ablate import ablate
from simsmoe_cli.collapse.measure.ablation.rerouting import hand_over, leave_out
from simsmoe_cli.collapse.measure.ablation.weighting import find_weighting
from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.sources.huggingface.layer_by_layer import LayerwiseSource
from simsmoe_cli.collapse.sources.huggingface.replay import HuggingFaceReplay
from simsmoe_cli.collapse.sources.huggingface.source import HuggingFaceSource
from simsmoe_cli.collapse.sources.replay import CannotReplay, Slots
from tests.huggingface.models import QUICK, made, opened

LAYER, GONE = 1, 2


def routers(model: nn.Module, factor: float = 30.0) -> None:
    """Make the choice of experts, and their outputs, matter."""
    for name, parameter in model.named_parameters():
        if "gate.weight" in name or "router.weight" in name:
            parameter.data *= factor
        elif "down_proj" in name:
            parameter.data *= 20


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HuggingFaceSource]:
    folder = tmp_path_factory.mktemp("models")
    known: dict[str, HuggingFaceSource] = {}

    def source(kind: str) -> HuggingFaceSource:
        if kind not in known:
            path: Path = made(kind, folder / kind, routers)
            known[kind] = opened(path, layerwise=False)
        return known[kind]

    return source


def nats(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Nats of each window by the model as it is: the oracle."""
    found = []
    with torch.no_grad():
        for inputs, targets in batches:
            logits = model(input_ids=inputs, use_cache=False).logits.double()
            lost = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            found.append(lost.view(targets.shape).sum(1))
    return torch.cat(found)


@pytest.mark.parametrize("kind", ["Mixtral", "Olmoe", "Qwen2Moe", "GptOss"])
def test_cases_give_the_loss_of_a_model_changed_by_hand(
    sources: Callable[[str], HuggingFaceSource], kind: str
) -> None:
    source = sources(kind)
    replay = source.replay(256)
    assert isinstance(replay, HuggingFaceReplay)
    (routed,) = replay.record(LAYER)
    assert routed.weight_TK is not None
    assert routed.logits_TN is not None
    slots = Slots(routed.index_TK, routed.weight_TK)
    before = nats(source.model, replay.batches)
    torch.testing.assert_close(replay.run([slots]).nats_W, before, rtol=1e-4, atol=1e-3)

    layer = source.found[LAYER]
    rule = find_weighting(routed.logits_TN, routed.index_TK, routed.weight_TK)
    assert rule.score == "exp"
    left = leave_out(routed.logits_TN, slots, GONE, rule)
    if rule.over == "chosen":
        own = _without(layer.router, GONE)
        missing = nats(source.model, replay.batches)
        own()
        assert (missing - before).abs().max() > 1e-3
        torch.testing.assert_close(replay.run([left]).nats_W, missing, rtol=1e-4, atol=1e-3)

    keep = int((GONE + 1) % layer.number)
    handed = hand_over(slots, keep, GONE)
    weights = {name: part.detach().clone() for name, part in layer.experts.named_parameters()}
    for part in layer.experts.parameters():
        part.data[GONE] = part.data[keep]
    both = nats(source.model, replay.batches)
    for name, part in layer.experts.named_parameters():
        part.data = weights[name]
    torch.testing.assert_close(replay.run([handed]).nats_W, both, rtol=1e-4, atol=1e-3)


def _without(router: nn.Module, expert: int) -> Callable[[], None]:
    """Make a router's linear scores of an expert very low; returns what undoes it."""
    linear = F.linear

    def scored(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        scores = linear(x, weight, bias)
        if any(weight is part for part in router.parameters()):
            scores = scores.index_fill(-1, torch.tensor([expert]), -1e9)
        return scores

    F.linear = scored  # type: ignore[assignment]

    def undo() -> None:
        F.linear = linear  # type: ignore[assignment]

    return undo


def test_weights_are_merged_where_each_belongs_to_a_hidden_unit(
    sources: Callable[[str], HuggingFaceSource],
) -> None:
    replay = sources("Mixtral").replay(128)
    (routed,) = replay.record(0)
    assert routed.weight_TK is not None
    slots = [Slots(routed.index_TK, routed.weight_TK)]
    layer = sources("Mixtral").found[0]
    parts = dict(layer.experts.named_parameters())
    before = {name: part.detach().clone() for name, part in parts.items()}
    order = torch.arange(replay.units()[0].shape[1])
    with replay.merged(1, 3, order, 0.25):
        inside = replay.run(slots).nats_W
        mean = {name: 0.25 * part[1] + 0.75 * part[3] for name, part in before.items()}
        assert all(torch.allclose(parts[name][1], mean[name]) for name in parts)
    assert all(torch.equal(parts[name], before[name]) for name in parts)
    assert not torch.allclose(inside, replay.run(slots).nats_W)
    biased = sources("GptOss").replay(128)
    biased.record(0)
    assert biased.parts() is None  # which hidden unit a bias belongs to is not known


def test_a_model_read_layer_by_layer_is_opened_whole_if_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(made("Mixtral", tmp_path / "m", routers))
    assert isinstance(source, LayerwiseSource)
    findings = measure(source, QUICK)
    found = ablate(source, source.replay(256), findings, QUICK, lambda share: None)
    assert len(found.left_out) == 8
    assert found.unit == "perplexity"
    assert found.similar is not None
    assert found.similar.merged is not None
    monkeypatch.setattr("simsmoe_cli.model.available_memory.available", lambda device: 1000)
    assert "read one at a time" in source.cannot_replay
    with pytest.raises(CannotReplay, match="read one at a time"):
        source.replay(256)
