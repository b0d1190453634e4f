"""On planted experts, leaving out and merging cost what a model changed by hand loses.

Layer 0: experts 0 and 1 are copies with renumbered hidden units, expert 3 is expert 2 with rotated
outputs: both pairs have CKA 1. Layer 1: expert 3 is never chosen, expert 0 is chosen with a weight
near 0, and the outputs of expert 4 are three times those of expert 5.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from simsmoe_cli.collapse.ablation import Ablation, PairCost
from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.measure.ablation.ablate import ablate
from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.measure.options import Options
from simsmoe_cli.collapse.sources.base import LayerSpec
from simsmoe_cli.collapse.sources.run import CorpusSource
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.routers.base import StepContext
from tests.collapse.measure.ablation import models
from tests.collapse.measure.ablation.models import EXPERTS, HIDDEN, WIDTH
from tests.collapse.planted import Planted

OPTIONS = Options(rows=512, tokens=1024, blocks=8, resamples=300, rbf_rows=64, rank_rows=64)
Windows = list[tuple[Tensor, Tensor]]


@dataclass
class Truth:
    model: LanguageModel
    windows: Windows
    findings: Findings
    ablation: Ablation
    before: Tensor

    def cost(self, edited: LanguageModel) -> float:
        """The change of the mean loss if the model is this one instead."""
        changed = models.nats(edited, self.windows) - self.before
        return float(changed.sum()) / self.ablation.predictions

    def pair(self, layer: int, *experts: int) -> PairCost:
        (found,) = [
            pair
            for pair in self.ablation.pairs
            if pair.layer == layer and pair.experts == experts and pair.kind == "similar"
        ]
        return found

    def tokens(self, layer: int, expert: int) -> int:
        (found,) = [
            one.tokens
            for one in self.ablation.left_out
            if (one.layer, one.expert) == (layer, expert)
        ]
        return found


@pytest.fixture(scope="module")
def truth(store: TokenStore) -> Truth:
    vocabulary = store.manifest.vocab_size
    model = models.model(model={"bias": True, "activation": "swiglu"}, vocabulary=vocabulary)
    turn_DD = torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q
    models.copy_expert(model, 0, 0, 1)
    models.copy_expert(model, 0, 2, 3, turn_DD)
    with torch.no_grad():
        gate = model.moe_layers[1].router.gate
        gate.bias[3] = -1e9
        gate.weight[0], gate.bias[0] = 0, 0
        gate.weight[1:] = 0
        gate.weight[1:, 0] = torch.tensor([60.0, -50.0, 0.0, -50.0, -50.0])
        gate.weight[4, 1], gate.weight[5, 1] = 8, -8
        models.copy_expert(model, 1, 5, 4)
        models.experts(model, 1).w_out[4] *= 3
        models.experts(model, 1).b_out[4] *= 3  # type: ignore[index]
    source = CorpusSource(
        model,
        StepContext(),
        store,
        subject=Planted().subject,
        layers=[LayerSpec(name, EXPERTS) for name, _ in model.expert_layers],
        corpus="planted",
        split="valid",
        unit="byte",
        block=models.BLOCK,
    )
    findings = measure(source, OPTIONS)
    windows = models.batches(model)
    shares: list[float] = []
    ablation = ablate(source, models.replay(model, windows), findings, OPTIONS, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    return Truth(model, windows, findings, ablation, models.nats(model, windows))


def test_every_expert_costs_what_a_router_without_it_loses(truth: Truth) -> None:
    assert truth.ablation.loss_nats == pytest.approx(
        float(truth.before.sum()) / truth.ablation.predictions, rel=1e-5
    )
    assert [(one.layer, one.expert) for one in truth.ablation.left_out] == [
        (layer, expert) for layer in (0, 1) for expert in range(EXPERTS)
    ]
    for one in truth.ablation.left_out:
        edited = copy.deepcopy(truth.model)
        edited.moe_layers[one.layer].router.gate.bias.data[one.expert] = -1e9  # type: ignore[union-attr]
        assert one.change.nats == pytest.approx(truth.cost(edited), abs=2e-5)


def test_a_dead_expert_and_one_of_weight_zero_are_not_missed(truth: Truth) -> None:
    found = {(one.layer, one.expert): one for one in truth.ablation.left_out}
    dead, unweighted, needed = found[1, 3], found[1, 0], found[1, 1]
    assert dead.tokens == 0
    assert (dead.change.nats, dead.change.low, dead.change.high) == (0, 0, 0)
    assert truth.findings.layers[1].load[3] == 0
    assert unweighted.tokens > 50
    assert abs(unweighted.change.nats or 1) < 0.01 * (needed.change.nats or 0)
    assert (needed.change.low or 0) > 0
    assert truth.ablation.cheapest is not None
    assert truth.ablation.cheapest.tokens > 0


def test_copies_are_merged_for_nothing(truth: Truth) -> None:
    layer, pair = truth.findings.layers[0], truth.pair(0, 0, 1)
    assert layer.copies_of(0, 1) is not None
    assert layer.apart[0][1] == pytest.approx(0, abs=1e-2)
    for change in (pair.hand_over, pair.merged, pair.mean_output):
        assert change is not None
        assert change.nats == pytest.approx(0, abs=1e-5)


def test_rotated_experts_of_the_same_cka_are_both_needed(truth: Truth) -> None:
    layer, pair = truth.findings.layers[0], truth.pair(0, 2, 3)
    assert layer.cka[2][3] == pytest.approx(1, abs=1e-3)
    assert (layer.apart[2][3] or 0) > 1
    for change in (pair.hand_over, pair.merged, pair.mean_output):
        assert change is not None
        assert (change.low or 0) > 0
    assert layer.copies_of(2, 3) is None


def test_a_scaled_copy_is_not_a_copy(truth: Truth) -> None:
    layer, pair = truth.findings.layers[1], truth.pair(1, 4, 5)
    assert layer.cka[4][5] == pytest.approx(1, abs=1e-3)
    assert layer.apart[4][5] == pytest.approx(2 / 5**0.5, abs=1e-3)
    assert layer.copies_of(4, 5) is None
    assert (pair.hand_over.low or 0) > 0


def test_a_pair_costs_what_experts_changed_by_hand_lose(truth: Truth) -> None:
    for layer, i, j in ((0, 2, 3), (1, 4, 5)):
        pair = truth.pair(layer, i, j)
        tokens = {expert: truth.tokens(layer, expert) for expert in (i, j)}
        keep, give = sorted((i, j), key=lambda expert: -tokens[expert])
        assert pair.keeper == keep
        share = tokens[keep] / (tokens[keep] + tokens[give])

        handed = copy.deepcopy(truth.model)
        own = models.experts(handed, layer)
        for _, part in own.named_parameters():
            part.data[give] = part.data[keep]
        assert pair.hand_over.nats == pytest.approx(truth.cost(handed), abs=2e-5)

        merged = copy.deepcopy(truth.model)
        own = models.experts(merged, layer)
        # Both were made by the same renumbering of the hidden units, which is known.
        order = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(5))
        order = order.argsort() if keep == i else order
        order = order if layer == 0 else order.argsort()
        for name, part in own.named_parameters():
            other = part.data[give]
            if name in ("w_in", "b_in"):
                other = other[torch.cat([order, order + HIDDEN])]
            elif name == "w_out":
                other = other[:, order]
            part.data[keep] = share * part.data[keep] + (1 - share) * other
            part.data[give] = part.data[keep]
        assert pair.merged is not None
        assert pair.merged.nats == pytest.approx(truth.cost(merged), abs=2e-5)


def test_means_over_pairs_and_their_difference_are_those_of_the_pairs(truth: Truth) -> None:
    ablation = truth.ablation
    assert len(ablation.pairs) == 8  # two similar and two random ones in each layer
    assert len({(pair.layer, pair.experts) for pair in ablation.pairs}) == 8
    similar, random = (
        float(np.mean([pair.merged.nats for pair in ablation.pairs if pair.kind == kind]))  # type: ignore[union-attr]
        for kind in ("similar", "random")
    )
    for mean, expected in (
        (ablation.similar, similar),
        (ablation.random, random),
        (ablation.similar_minus_random, similar - random),
    ):
        assert mean is not None
        assert mean.merged is not None
        assert mean.merged.nats == pytest.approx(expected)
        low, high = mean.merged.low, mean.merged.high
        assert low is not None
        assert high is not None
        assert low < expected < high
