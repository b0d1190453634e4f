"""Load, shared tokens and entropy of a routing that can be counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from simsmoe_cli.collapse.measure.layer import Layer
from simsmoe_cli.collapse.measure.routing import Counts, expected_shared, measure_layer
from simsmoe_cli.collapse.sources.base import Judged
from simsmoe_cli.similarity.routed import Routed
from simsmoe_cli.similarity.shared import received
from tests.collapse.planted import EXPERTS, QUICK, WIDTH, Planted

INDEX = torch.tensor([[0, 1], [0, 1], [0, 2], [3, EXPERTS]])  # one slot is empty


def routed(logits: torch.Tensor | None) -> Routed:
    return Routed(torch.ones(4, WIDTH), INDEX, logits)


def layer(*parts: Routed) -> Layer:
    counts = Counts.of(EXPERTS)
    for part in parts:
        counts.add(part)
    return Layer(Planted(), 0, counts, torch.ones(4, WIDTH), INDEX, QUICK)


def test_an_empty_slot_counts_for_no_expert() -> None:
    assert received(INDEX, EXPERTS).sum(0).tolist() == [3, 2, 1, 1, 0]


def test_load_and_shared_tokens_are_counted_over_all_parts() -> None:
    found = measure_layer(layer(routed(torch.zeros(4, EXPERTS)), routed(torch.zeros(4, EXPERTS))))
    assert found["load"] == pytest.approx([3 / 7, 2 / 7, 1 / 7, 1 / 7, 0])
    assert found["load_max_over_mean"] == pytest.approx(15 / 7)
    assert (found["dead"], found["dead_slots"]) == (None, 14)  # too few to judge
    assert found["shared"][0] == pytest.approx([0, 0.5, 0.25, 0, 0])
    assert found["top_k"] == 2
    assert found["entropy_nats"] == pytest.approx(math.log(EXPERTS))
    assert found["entropy_of_mean_nats"] == pytest.approx(math.log(EXPERTS))


def test_dead_experts_are_judged_on_enough_slots_or_as_training_did() -> None:
    many = Routed(torch.ones(4000, WIDTH), INDEX.repeat(1000, 1), None)
    counted = layer(many)
    found = measure_layer(counted)
    assert (found["dead"], found["dead_slots"], found["dead_on"]) == ([4], 7000, "held-out text")
    counted.source.judged = {0: Judged([2], 90_000)}
    found = measure_layer(counted)
    assert (found["dead"], found["dead_slots"]) == ([2], 90_000)
    assert found["dead_on"] == "training batches"


def test_measures_of_balance_are_those_of_the_loads() -> None:
    found = measure_layer(layer(routed(torch.zeros(4, EXPERTS))))
    load = [3 / 7, 2 / 7, 1 / 7, 1 / 7]
    assert found["frequency"] == pytest.approx([0.75, 0.5, 0.25, 0.25, 0])
    assert found["max_violation"] == pytest.approx(EXPERTS * max(load) - 1)
    entropy = -sum(share * math.log(share) for share in load)
    assert found["effective_experts"] == pytest.approx(math.exp(entropy) / EXPERTS)


def test_experts_combined_at_random_share_as_many_tokens_as_expected() -> None:
    generator = torch.Generator().manual_seed(0)
    index_TK = torch.rand(40_000, EXPERTS, generator=generator).topk(2).indices
    counts = Counts.of(EXPERTS)
    counts.add(Routed(torch.ones(len(index_TK), 1), index_TK, None))
    shared_NN = (counts.shared_NN / counts.tokens).fill_diagonal_(0)
    expected_NN = expected_shared(counts.chosen_N / counts.tokens, shared_NN)
    off = ~torch.eye(EXPERTS, dtype=torch.bool)
    assert torch.allclose(expected_NN[off], torch.tensor(0.1, dtype=torch.float64), atol=4e-3)
    assert torch.allclose(shared_NN[off] / expected_NN[off], torch.ones(20).double(), atol=0.05)
    assert expected_NN.sum() == pytest.approx(2.0)  # a token has 2 ordered pairs


def test_the_margin_is_that_between_the_last_chosen_and_the_first_left_out() -> None:
    logits = torch.tensor(
        [[4.0, 3, 1, 0, -1], [5, 1, 0, -2, -9], [2, 0, 1, -1, -1], [0, 0, 0, 1, 0]]
    )
    found = measure_layer(layer(routed(logits)))["margin"]
    margins = [2.0, 1.0, 1.0, 1.0]
    assert found.mean == pytest.approx(sum(margins) / 4)
    assert (found.median, found.quantile_10) == (1, 1)
    assert measure_layer(layer(routed(None)))["margin"] is None


def test_a_router_that_gives_no_distribution_has_no_entropy() -> None:
    found = measure_layer(layer(routed(None)))
    assert found["entropy_nats"] is found["entropy_of_mean_nats"] is None


def test_scores_that_are_not_finite_undefine_the_routing() -> None:
    logits = torch.zeros(4, EXPERTS)
    logits[2, 1] = math.nan
    counted = layer(routed(logits))
    assert counted.counts.non_finite_scores == 1
    found = measure_layer(counted)
    assert found["load"] == [None] * EXPERTS
    assert found["dead"] is found["load_cv"] is found["entropy_nats"] is None
