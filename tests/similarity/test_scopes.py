"""All experts compared at once: scopes layer and experts of similarity learning."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simsmoe_cli.registry import MEASURES, load
from simsmoe_cli.similarity.cka import pairwise_debiased_cka
from simsmoe_cli.similarity.contrastive import expert_confusion
from simsmoe_cli.similarity.learning import SimilarityLearning
from tests.similarity.learners import WIDTH, ToyExperts, batch, build, gradients, stacked

SCOPES = ("layer", "experts")
every_scope = pytest.mark.parametrize("scope", SCOPES)
every_shape = pytest.mark.parametrize(("experts", "top_k"), [(2, 1), (2, 2), (5, 1), (5, 3)])


def expected_layer(learning: SimilarityLearning, toy: ToyExperts, x_TD: Tensor) -> list[Tensor]:
    """T of every pair, one after the other."""
    measure = load("similarity", learning.settings.measure)
    outputs = [learning.head(toy.one(i, x_TD)) for i in range(learning.num_experts)]
    pairs = itertools.combinations(outputs, 2)
    return [measure(first, second, **learning.options) for first, second in pairs]


@every_shape
@pytest.mark.parametrize("head", ["none", "linear", "mlp"])
@pytest.mark.parametrize("measure", MEASURES)
def test_layer_loss_and_gradient_equal_a_loop_over_all_pairs(
    experts: int, top_k: int, head: str, measure: str
) -> None:
    learning = build(experts, top_k, scope="layer", measure=measure, head=head, tokens=50)
    toy = ToyExperts(experts)
    parameters = [*toy.parameters(), *learning.head.parameters()]
    x_TD, index_TK, logits_TN = batch(0, 50, experts, top_k)
    result = learning(x_TD, index_TK, logits_TN, toy)
    values = expected_layer(learning, toy, x_TD)
    assert len(values) == experts * (experts - 1) // 2 == result.pairs_due
    torch.testing.assert_close(result.mean, torch.stack(values).mean().detach(), atol=1e-5, rtol=0)
    loss = sum((v for v in values if v > 0), torch.zeros(())) / len(values)
    torch.testing.assert_close(result.loss, loss, atol=1e-5, rtol=1e-5)
    if not loss.requires_grad:
        return
    got = torch.autograd.grad(result.loss, parameters)
    wanted = torch.autograd.grad(loss, parameters, materialize_grads=True)
    for ours, theirs in zip(got, wanted, strict=True):
        tolerance = 1e-4 * theirs.abs().max().item() + 2e-5
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@every_shape
@pytest.mark.parametrize("head", ["none", "linear", "mlp"])
def test_experts_loss_is_the_mean_confusion(experts: int, top_k: int, head: str) -> None:
    learning = build(experts, top_k, scope="experts", head=head, tokens=50, temperature=0.5)
    toy = ToyExperts(experts)
    x_TD, index_TK, logits_TN = batch(0, 50, experts, top_k)
    result = learning(x_TD, index_TK, logits_TN, toy)
    outputs = torch.stack([learning.head(toy.one(i, x_TD)) for i in range(experts)])
    value_N = expert_confusion(outputs, 0.5)
    torch.testing.assert_close(result.loss, value_N.mean())
    torch.testing.assert_close(result.mean, value_N.mean().detach())
    assert result.pairs_due == experts * (experts - 1) / 2


@every_scope
def test_what_is_at_or_below_the_threshold_adds_no_loss_but_is_reported(scope: str) -> None:
    toy = ToyExperts(4)
    inputs = batch(0, 60, 4, 2)
    plain = build(4, 2, scope=scope, tokens=60)(*inputs, toy)
    outputs = torch.stack([toy.one(i, inputs[0]) for i in range(4)])
    values = expert_confusion(outputs)
    if scope == "layer":
        values = pairwise_debiased_cka(outputs)[*torch.triu_indices(4, 4, 1)]
    middle = values.median().item()
    result = build(4, 2, scope=scope, tokens=60, threshold=middle)(*inputs, toy)
    torch.testing.assert_close(result.loss, values[values > middle].sum() / len(values))
    assert 0 < result.loss < plain.loss
    assert result.mean == plain.mean
    nothing = build(4, 2, scope=scope, tokens=60, threshold=1.0)(*inputs, toy)
    assert nothing.loss == 0
    assert nothing.mean == plain.mean


@every_scope
def test_every_expert_is_given_the_same_sample_of_the_batch(scope: str) -> None:
    learning = build(3, 2, scope=scope, tokens=16)
    seen: list[Tensor] = []

    def experts(rows_RD: Tensor, count_N: Tensor) -> Tensor:
        seen.extend([rows_RD, count_N])
        return rows_RD

    x_TD, index_TK, logits_TN = batch(0, 100, 3, 2)
    result = learning(x_TD, index_TK, logits_TN, experts)
    rows_RD, count_N = seen
    assert count_N.dtype == torch.int64
    assert count_N.tolist() == [16, 16, 16]
    first, *others = rows_RD.split(16)
    assert all(torch.equal(first, other) for other in others)
    places = [(x_TD == row).all(1).nonzero().item() for row in first]
    assert len(set(places)) == 16
    assert result.mean.item() == pytest.approx(1, abs=1e-5)
    learning(x_TD, index_TK, logits_TN, experts)
    assert not torch.equal(seen[2], rows_RD)


@every_scope
def test_all_tokens_are_taken_when_they_fit_and_nothing_is_drawn(scope: str) -> None:
    learning = build(3, 1, scope=scope, tokens=40)
    state = torch.get_rng_state()
    inputs = batch(0, 30, 3, 1)
    first, again = (learning(*inputs, ToyExperts(3)).loss for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)


@every_scope
@pytest.mark.parametrize("head", ["none", "linear", "mlp"])
def test_gradient_reaches_every_expert_and_the_head_alone(scope: str, head: str) -> None:
    learning = build(4, 2, scope=scope, head=head, threshold=0.0, measure="cka-linear")
    toy = ToyExperts(4)
    x_TD, index_TK, logits_TN = batch(0, 60, 4, 2)
    x_TD.requires_grad_()
    logits_TN.requires_grad_()
    learning(x_TD, index_TK, logits_TN, toy).loss.backward()
    reached = gradients(learning, toy)
    assert {name for name in reached if name.startswith("weights")} == {
        f"weights.{i}" for i in range(4)
    }
    assert any(name.startswith("head") for name in reached) == (head != "none")
    assert x_TD.grad is None
    assert logits_TN.grad is None


@every_scope
def test_an_undefined_expert_takes_nothing_from_the_others(scope: str) -> None:
    learning = build(4, 2, scope=scope, tokens=60)
    toy = ToyExperts(4)
    nn.init.zeros_(toy.weights[1])
    inputs = batch(0, 60, 4, 2)
    result = learning(*inputs, toy)
    assert result.pairs_due == 3
    result.loss.backward()
    assert not toy.weights[1].grad.any()
    assert all(toy.weights[i].grad.isfinite().all() for i in range(4))
    for weight in toy.weights:
        nn.init.zeros_(weight)
    toy.zero_grad()
    result = learning(*inputs, toy)
    result.loss.backward()
    assert (result.loss, result.pairs_due) == (0, 0)
    assert result.mean.isnan()
    assert all(not p.grad.any() for p in toy.parameters())


@every_scope
def test_gradient_descent_on_the_loss_separates_experts(scope: str) -> None:
    experts = 4
    learning = build(experts, 2, scope=scope, tokens=128)
    torch.manual_seed(0)
    weight_NDD = (torch.eye(WIDTH) + 0.3 * torch.randn(experts, WIDTH, WIDTH)).requires_grad_()
    probe_TD = torch.randn(256, WIDTH)
    optimizer = torch.optim.Adam([weight_NDD], lr=0.02)

    def similarity() -> float:
        outputs_NTD = probe_TD @ weight_NDD.detach()
        if scope == "experts":
            return float(expert_confusion(outputs_NTD).mean())
        return float(pairwise_debiased_cka(outputs_NTD)[*torch.triu_indices(4, 4, 1)].mean())

    before = similarity()
    for step in range(30):
        optimizer.zero_grad()
        learning(*batch(step, 400, experts, 2), stacked(weight_NDD)).loss.backward()
        optimizer.step()
    assert before > 0.2
    assert similarity() < before / 2


@pytest.mark.parametrize(
    "given",
    [
        {"scope": "layer"},
        {"scope": "layer", "measure": "cka-rbf"},
        {"scope": "layer", "measure": "dcl"},
        {"scope": "experts"},
    ],
)
def test_sixty_four_experts_are_one_call(given: dict[str, Any]) -> None:
    learning = build(64, 2, tokens=16, **given)
    weight_NDD = torch.randn(64, WIDTH, WIDTH, requires_grad=True)
    calls: list[int] = []
    run = stacked(weight_NDD)

    def experts(rows_RD: Tensor, count_N: Tensor) -> Tensor:
        calls.append(len(rows_RD))
        return run(rows_RD, count_N)

    result = learning(*batch(0, 100, 64, 2), experts)
    result.loss.backward()
    assert calls == [64 * 16]
    assert result.pairs_due == 64 * 63 / 2
    assert weight_NDD.grad is not None
    assert weight_NDD.grad.isfinite().all()


@every_scope
def test_no_tracker_where_no_pair_waits(scope: str) -> None:
    assert not [name for name, _ in build(4, 2, scope=scope).named_buffers()]
    assert [name for name, _ in build(4, 2).named_buffers()] == ["tracker.shared_NN"]


# --- schedules ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["pairs", *SCOPES])
@pytest.mark.parametrize("step", [0, 30, 50, 75, 99])
def test_a_schedule_is_the_number_it_has_at_the_step(scope: str, step: int) -> None:
    """T* from 0 at a half of training to 1 at its end."""
    schedule = [[0.5, 0.0], [1.0, 0.8]]
    number = 0.0 if step <= 50 else 0.8 * (step - 50) / 50
    toy = ToyExperts(4)
    inputs = batch(0, 100, 4, 2)
    common: dict[str, Any] = {"scope": scope, "tokens": 100}
    scheduled = build(4, 2, threshold=schedule, **common)(*inputs, toy, step, 100)
    fixed = build(4, 2, threshold=number, **common)(*inputs, toy, step, 100)
    assert scheduled.loss == fixed.loss
    assert scheduled.mean == fixed.mean


def test_a_schedule_of_f_decides_when_pairs_are_due() -> None:
    learning = build(4, 2, check_every=[[0.0, 100.0], [0.5, 100.0], [0.6, 0.0]])
    toy = ToyExperts(4)
    assert learning(*batch(0, 200, 4, 2), toy, 4, 10).pairs_due == 0
    assert learning(*batch(0, 200, 4, 2), toy, 6, 10).pairs_due > 0


@pytest.mark.parametrize("scope", ["pairs", "layer"])
def test_a_schedule_of_sigma_is_the_bandwidth_of_the_step(scope: str) -> None:
    toy = ToyExperts(3)
    inputs = batch(0, 60, 3, 2)
    common: dict[str, Any] = {"scope": scope, "measure": "cka-rbf", "tokens": 60}
    scheduled = build(3, 2, sigma=[[0.0, 1.0], [1.0, 3.0]], **common)(*inputs, toy, 1, 4)
    assert scheduled.mean == build(3, 2, sigma=1.5, **common)(*inputs, toy).mean
    assert scheduled.mean != build(3, 2, sigma=1.0, **common)(*inputs, toy).mean


@pytest.mark.parametrize("scope", ["pairs", "layer"])
def test_schedules_compile_into_few_graphs(scope: str) -> None:
    """One for the first steps each, then one a segment; not one a step."""
    common = {"scope": scope, "measure": "cka-rbf", "tokens": 60, "sigma": [[0, 1.0], [1, 3.0]]}
    given = {**common, "threshold": [[0.0, 0.0], [1.0, 0.5]]}
    plain, compiled = build(3, 2, **given), build(3, 2, **given)
    weight_NDD = torch.randn(3, WIDTH, WIDTH, requires_grad=True)
    graphs = 0

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    torch._dynamo.reset()
    step_once = torch.compile(compiled, fullgraph=True, backend=count)
    for step in range(12):
        inputs = (*batch(step, 60, 3, 2), stacked(weight_NDD), step, 12)
        torch.testing.assert_close(step_once(*inputs).loss, plain(*inputs).loss)
    assert graphs <= 4
