"""A replay with one layer changed: the loss of a model that was changed by hand.

The router is edited through its bias, experts through their weights, and the changed model reads
everything from the start, carried memory too.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from simsmoe_cli.collapse.measure.ablation.rerouting import average, hand_over, leave_out
from simsmoe_cli.collapse.measure.ablation.weighting import Weighting
from simsmoe_cli.collapse.sources.replay import Slots
from simsmoe_cli.collapse.sources.run_replay import RunReplay
from simsmoe_cli.data.tasks.batches import Batch
from simsmoe_cli.model.classifier import Classifier, real_positions
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.layer import MoELayer
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.similarity.routed import Routed
from tests.collapse.measure.ablation import models
from tests.collapse.measure.ablation.models import EXPERTS, HIDDEN, VOCABULARY
from tests.train.tiny import recipe

RULE = Weighting("exp", "chosen")
KINDS: dict[str, dict[str, Any]] = {
    "rotary": {"activation": "swiglu", "bias": False},
    "carried memory": {
        "attention": "relative",
        "span": 12,
        "norm_position": "post",
        "moe_norm": "double",
        "activation": "relu",
        "bias": True,
    },
}


def slots_of(routed: list[Routed]) -> list[Slots]:
    return [Slots(one.index_TK, one.weight_TK) for one in routed if one.weight_TK is not None]


def without(found: LanguageModel, layer: int, expert: int) -> LanguageModel:
    """A copy of the model whose router never chooses an expert."""
    edited = copy.deepcopy(found)
    gate = edited.moe_layers[layer].router.gate
    if gate.bias is None:
        gate.bias = torch.nn.Parameter(torch.zeros(EXPERTS))
    gate.bias.data[expert] = -1e9
    return edited


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 1])
def test_cases_give_the_loss_of_a_model_changed_by_hand(kind: str, layer: int) -> None:
    found = models.model(model=KINDS[kind])
    some = models.batches(found, parts=3)
    replay = models.replay(found, some)
    for below in range(layer):  # as an ablation does: layer by layer
        replay.record(below)
    routed = replay.record(layer)
    slots = slots_of(routed)
    before = models.nats(found, some)
    torch.testing.assert_close(replay.run(slots).nats_W, before, rtol=1e-4, atol=1e-3)

    left = [
        leave_out(one.logits_TN, own, 2, RULE)
        for one, own in zip(routed, slots, strict=True)
        if one.logits_TN is not None
    ]
    missing = models.nats(without(found, layer, 2), some)
    assert (missing - before).abs().mean() > 1e-2
    torch.testing.assert_close(replay.run(left).nats_W, missing, rtol=1e-4, atol=1e-3)

    twice = copy.deepcopy(found)
    own = models.experts(twice, layer)
    for part in (own.w_in, own.w_out, own.b_in, own.b_out):
        if part is not None:
            part.data[4] = part.data[1]
    handed = [hand_over(one, keep=1, give=4) for one in slots]
    both = models.nats(twice, some)
    torch.testing.assert_close(replay.run(handed).nats_W, both, rtol=1e-4, atol=1e-3)

    averaged = [average(one, 1, 4, 0.3, EXPERTS) for one in slots]
    mean = models.nats(_averaging(found, layer, 1, 4, 0.3), some)
    torch.testing.assert_close(replay.run(averaged).nats_W, mean, rtol=1e-4, atol=1e-3)

    order = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(3))
    weights = {name: part.clone() for name, part in found.named_parameters()}
    with replay.merged(1, 4, order, 0.3):
        merged = replay.run(handed).nats_W
    assert all(torch.equal(part, weights[name]) for name, part in found.named_parameters())
    torch.testing.assert_close(
        merged, models.nats(_merged(found, layer, 1, 4, order, 0.3), some), rtol=1e-4, atol=1e-3
    )


def _averaging(
    found: LanguageModel, layer: int, keep: int, give: int, share: float
) -> LanguageModel:
    """A copy whose experts run one by one, where two give the mean of their outputs."""
    edited = copy.deepcopy(found)
    moe = edited.moe_layers[layer]

    def mixture(x_TD: Tensor, index_TK: Tensor, weight_TK: Tensor, **_: Any) -> Tensor:
        out_NTD = type(moe.experts).dense(moe.experts, x_TD)
        out_NTD[keep] = out_NTD[give] = share * out_NTD[keep] + (1 - share) * out_NTD[give]
        return sum(
            (
                weight_TK[:, k, None] * out_NTD[index_TK[:, k], torch.arange(len(x_TD))]
                for k in range(index_TK.shape[1])
            ),
            start=torch.zeros_like(x_TD),
        )

    moe.experts.mixture = mixture  # type: ignore[method-assign]
    return edited


def _merged(
    found: LanguageModel, layer: int, keep: int, give: int, order: Tensor, share: float
) -> LanguageModel:
    """A copy where two experts have the mean of their weights."""
    edited = copy.deepcopy(found)
    own = models.experts(edited, layer)
    rows = torch.cat([order, order + HIDDEN]) if own.swiglu else order
    mean = {
        "w_in": share * own.w_in[keep] + (1 - share) * own.w_in[give][rows],
        "w_out": share * own.w_out[keep] + (1 - share) * own.w_out[give][:, order],
    }
    if own.b_in is not None and own.b_out is not None:
        mean["b_in"] = share * own.b_in[keep] + (1 - share) * own.b_in[give][rows]
        mean["b_out"] = share * own.b_out[keep] + (1 - share) * own.b_out[give]
    for name, value in mean.items():
        getattr(own, name).data[keep] = getattr(own, name).data[give] = value.detach()
    return edited


def test_a_classifier_of_padded_texts_is_replayed() -> None:
    made = recipe(
        model={"width": 16, "bias": True}, moe={"experts": 4, "hidden": 8}, finetune={"task": "x"}
    )
    torch.manual_seed(0)
    found = Classifier(made, VOCABULARY, 3).eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (5, 12), generator=generator)
    length = torch.tensor([12, 3, 7, 1, 9])
    mask = torch.arange(12) < length[:, None]
    labels = torch.tensor([0, 2, 1, 1, 0])
    replay = RunReplay(found, StepContext(), texts=[Batch(ids, mask, labels, torch.arange(5))])
    assert replay.tokens == int(length.sum())
    (routed,) = replay.record(1)
    assert len(routed.input_TD) == replay.tokens
    assert routed.logits_TN is not None
    (own,) = slots_of([routed])
    scores = replay.run([leave_out(routed.logits_TN, own, 0, RULE)])

    layer: MoELayer = found.moe_layers[1]
    layer.router.gate.bias.data[0] = -1e9  # type: ignore[union-attr]
    context = StepContext(real_T=real_positions(length, 12))
    logits = found(ids, length, context).logits.double()
    nats = -logits.log_softmax(-1).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(scores.nats_W, nats.detach(), rtol=1e-4, atol=1e-5)
    assert scores.right_W is not None
    assert torch.equal(scores.right_W, logits.argmax(1) == labels)
