"""Similarity learning as a whole: what is measured, and what the gradient reaches."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simsmoe_cli.errors import UserError
from simsmoe_cli.kernels.cpu import as_on_accelerators
from simsmoe_cli.registry import MEASURES, load
from simsmoe_cli.similarity.cka import debiased_linear_cka, pairwise_debiased_cka
from simsmoe_cli.similarity.learning import SimilarityResult
from tests.similarity.learners import WIDTH, ToyExperts, batch, build, gradients, stacked


@pytest.mark.parametrize(("experts", "top_k"), [(2, 1), (2, 2), (4, 1), (4, 2), (5, 3)])
@pytest.mark.parametrize(
    "given",
    [
        {"preset": "calibrated"},
        {"preset": "published"},
        {"preset": "paper"},
        {"measure": "cka-rbf", "sigma": "median", "head": "mlp"},
        {"measure": "cka-linear", "threshold": 0.6, "head": "linear"},
        *({"measure": measure} for measure in MEASURES if not measure.startswith("cka")),
    ],
)
def test_loss_and_gradient_equal_a_plain_loop(
    experts: int, top_k: int, given: dict[str, Any]
) -> None:
    """Several steps; all tokens are measured, pair after pair, without padding or masks."""
    common = {"pairs": 3, "tokens": 200, "min_tokens": 10, "check_every": 0.2}
    learning = build(experts, top_k, **{**given, **common})
    settings, toy = learning.settings, ToyExperts(experts)
    measure = load("similarity", settings.measure)
    parameters = [*toy.parameters(), *learning.head.parameters()]
    sums: dict[tuple[int, int], float] = {}
    for step in range(4):
        x_TD, index_TK, logits_TN = batch(step, 90, experts, top_k)
        result = learning(x_TD, index_TK, logits_TN, toy)

        received = [set(row) for row in logits_TN.topk(max(2, top_k)).indices.tolist()]
        shared = {
            (i, j): [t for t, row in enumerate(received) if {i, j} <= row]
            for i in range(experts)
            for j in range(i + 1, experts)
        }
        for pair, tokens in shared.items():
            sums[pair] = sums.get(pair, 0.0) + len(tokens) / 90
        able = [p for p in shared if sums[p] > 0.2 and len(shared[p]) >= 10]
        due = sorted(able, key=lambda p: -sums[p])[:3]
        values = []
        for i, j in due:
            for rows in (x_TD[shared[i, j]], x_TD)[: 2 if settings.anywhere else 1]:
                outputs = learning.head(toy.one(i, rows)), learning.head(toy.one(j, rows))
                values.append(measure(*outputs, **learning.options))
            sums[i, j] = 0.0
        expected = sum((v for v in values if v > settings.threshold), torch.zeros(()))

        assert result.pairs_due.item() == len(due)
        torch.testing.assert_close(result.loss, expected, atol=1e-5, rtol=1e-5)
        if due:
            mean = torch.stack(values).mean().detach()
            torch.testing.assert_close(result.mean, mean, atol=1e-5, rtol=1e-5)
        else:
            assert result.mean.isnan()
        if not expected.requires_grad:
            continue
        got = torch.autograd.grad(result.loss, parameters)
        wanted = torch.autograd.grad(expected, parameters, materialize_grads=True)
        for ours, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("head", ["none", "linear", "mlp"])
def test_gradient_reaches_the_two_experts_and_the_head_alone(head: str) -> None:
    learning = build(5, 2, head=head, pairs=1, tokens=40, threshold=0.0, measure="cka-linear")
    tracker = learning.tracker
    tracker.shared_NN[1, 3] = tracker.shared_NN[3, 1] = 100.0
    toy = ToyExperts(5)
    x_TD, index_TK, logits_TN = batch(0, 200, 5, 2)
    x_TD.requires_grad_()
    logits_TN.requires_grad_()
    learning(x_TD, index_TK, logits_TN, toy).loss.backward()
    reached = gradients(learning, toy)
    assert {name for name in reached if name.startswith("weights")} == {"weights.1", "weights.3"}
    assert reached["bias"].abs().sum(1).nonzero()[:, 0].tolist() == [1, 3]
    assert {name for name in reached if name.startswith("head") and "weight" in name} == {
        "none": set(),
        "linear": {"head.weight"},
        "mlp": {"head.0.weight", "head.2.weight"},
    }[head]
    assert x_TD.grad is None
    assert logits_TN.grad is None
    assert not tracker.shared_NN.requires_grad


def test_frozen_head_stays_at_its_start() -> None:
    learning = build(4, 2, preset="paper", head_frozen=True, check_every=0.0, threshold=0.0)
    toy = ToyExperts(4)
    assert not [p for p in learning.parameters() if p.requires_grad]
    learning(*batch(0, 200, 4, 2), toy).loss.backward()
    reached = gradients(learning, toy)
    assert reached
    assert not [name for name in reached if name.startswith("head")]


def test_gradient_descent_on_the_loss_separates_experts() -> None:
    experts = 4
    learning = build(experts, 2, pairs=6)
    torch.manual_seed(0)
    weight_NDD = (torch.eye(WIDTH) + 0.3 * torch.randn(experts, WIDTH, WIDTH)).requires_grad_()
    probe_TD = torch.randn(256, WIDTH)
    optimizer = torch.optim.Adam([weight_NDD], lr=0.02)

    def similarity() -> float:
        outputs_NTD = probe_TD @ weight_NDD.detach()
        return float(pairwise_debiased_cka(outputs_NTD)[*torch.triu_indices(4, 4, 1)].mean())

    before = similarity()
    for step in range(30):
        optimizer.zero_grad()
        learning(*batch(step, 400, experts, 2), stacked(weight_NDD)).loss.backward()
        optimizer.step()
    assert before > 0.4
    assert similarity() < before / 2


# --- thresholds, waiting, undefined --------------------------------------------------------------


def zero(result: SimilarityResult, parameters: list[nn.Parameter]) -> None:
    assert result.loss.item() == 0
    if not result.loss.requires_grad:
        return
    got = torch.autograd.grad(result.loss, parameters, allow_unused=True)
    assert all(gradient is None or (gradient == 0).all() for gradient in got)


def test_pairs_at_or_below_the_threshold_add_no_loss_but_are_reported() -> None:
    learning = build(3, 2, threshold=1.0)
    toy = ToyExperts(3)
    result = learning(*batch(0, 200, 3, 2), toy)
    zero(result, list(toy.parameters()))
    assert result.pairs_due == 3
    assert -1 < result.mean < 1


def test_a_pair_with_too_few_shared_tokens_waits() -> None:
    learning = build(3, 2, min_tokens=16, pairs=3)
    toy = ToyExperts(3)
    x_TD = torch.randn(60, WIDTH)
    index_TK = torch.tensor([[0, 1]] * 15 + [[1, 2]] * 45)
    logits_TN = torch.randn(60, 3)
    result = learning(x_TD, index_TK, logits_TN, toy)
    assert result.pairs_due == 1
    assert learning.tracker.shared_NN[0, 1] == 15 / 60
    assert learning.tracker.shared_NN[1, 2] == 0
    expected = debiased_linear_cka(toy.one(1, x_TD[15:]), toy.one(2, x_TD[15:]))
    torch.testing.assert_close(result.mean, expected.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokens", [2, 40])
def test_nothing_due_is_zero_loss_and_no_mean(tokens: int) -> None:
    learning = build(4, 2, check_every=50.0)
    toy = ToyExperts(4)
    result = learning(*batch(0, tokens, 4, 2), toy)
    zero(result, list(toy.parameters()))
    assert result.pairs_due == 0
    assert result.mean.isnan()
    assert learning.tracker.shared_NN.any()


@pytest.mark.parametrize("on_a_cpu", [True, False])
@pytest.mark.parametrize(
    ("given", "micro_batches"),
    [
        ({"preset": "published"}, 2),
        ({"preset": "paper"}, 2),
        ({"preset": "published", "check_every": 1.0}, 1),
        ({"preset": "calibrated", "check_every": 16.0}, 2),
        ({"preset": "calibrated", "check_every": 4.0}, 1),
    ],
)
def test_each_pair_is_checked_as_often_as_f_star_says(
    given: dict[str, Any], micro_batches: int, on_a_cpu: bool
) -> None:
    """The rule itself, after every batch: S_ij += shared / T; past f*, check and set S_ij = 0.

    Experts 0 and 1 share most tokens, as pairs that collapse do.
    """
    learning, toy = build(4, 2, **given, tokens=8, min_tokens=4, pairs=6), ToyExperts(4)
    f_star, steps, tokens = learning.settings.check_every, 200, 64  # sums are exact
    assert isinstance(f_star, float)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    sums, expected, got = [0.0] * 6, [0] * 6, [0] * 6
    generator = torch.Generator().manual_seed(0)
    skewed = torch.tensor([0.7, 0.1, 0.05, 0.05, 0.05, 0.05])
    for step in range(steps):
        for _ in range(micro_batches):
            of_T = torch.multinomial(skewed, tokens, True, generator=generator)
            index_TK = torch.tensor(pairs)[of_T]
            logits_TN = torch.zeros(tokens, 4).scatter(1, index_TK, 1.0)
            x_TD = torch.randn(tokens, WIDTH, generator=generator)
            shared = of_T.bincount(minlength=6).tolist()
            for pair in range(6):
                sums[pair] += shared[pair] / tokens
                if sums[pair] > f_star and shared[pair] >= 4:
                    sums[pair], expected[pair] = 0.0, expected[pair] + 1
            before_NN = learning.tracker.shared_NN.clone()
            with contextlib.nullcontext() if on_a_cpu else as_on_accelerators():
                learning(x_TD, index_TK, logits_TN, toy, step, steps)
            for pair, (i, j) in enumerate(pairs):
                fell = (
                    learning.tracker.shared_NN[i, j] < before_NN[i, j] + shared[pair] / tokens / 2
                )
                got[pair] += int(fell and shared[pair] > 0)
    assert got == expected
    assert expected[0] > 0


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_head_learns_alike_on_every_device_when_nothing_is_due(head: str) -> None:
    """Its gradient is 0 and not missing, so that the optimizer does the same with it."""
    learning = build(4, 2, head=head, check_every=50.0)
    for path in (contextlib.nullcontext(), as_on_accelerators()):
        learning.zero_grad(set_to_none=True)
        with path:
            learning(*batch(0, 40, 4, 2), ToyExperts(4)).loss.backward()
        assert all((parameter.grad == 0).all() for parameter in learning.head.parameters())


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("head", ["none", "linear", "mlp"])
def test_undefined_pairs_add_no_loss_and_no_gradient(measure: str, head: str) -> None:
    learning = build(3, 2, measure=measure, head=head, pairs=3)
    toy = ToyExperts(3)
    nn.init.zeros_(toy.weights[0])
    parameters = [*toy.parameters(), *learning.head.parameters()]
    x_TD, _, logits_TN = batch(0, 200, 3, 2)
    result = learning(x_TD, torch.tensor([[0, 1], [0, 2]]).repeat(100, 1), logits_TN, toy)
    zero(result, parameters)
    assert result.pairs_due == 0
    # The pair 1, 2 is defined: a constant expert takes nothing away from the others.
    result = learning(x_TD, torch.tensor([[0, 1], [1, 2]]).repeat(100, 1), logits_TN, toy)
    assert result.pairs_due == 1
    got = torch.autograd.grad(result.loss, parameters)
    assert all(gradient.isfinite().all() for gradient in got)


def test_at_most_the_given_number_of_tokens_is_measured() -> None:
    learning = build(2, 2, tokens=32)
    seen: list[Tensor] = []

    def experts(rows_RD: Tensor, count_N: Tensor) -> Tensor:
        seen.extend([rows_RD, count_N])
        return rows_RD

    x_TD, index_TK, logits_TN = batch(0, 200, 2, 2)
    result = learning(x_TD, index_TK, logits_TN, experts)
    rows_RD, count_N = seen
    assert count_N.dtype == torch.int64
    assert count_N.tolist() == [32, 32]
    assert torch.equal(rows_RD[:32], rows_RD[32:])
    assert all((x_TD == row).all(1).any() for row in rows_RD[:32])
    assert result.mean.item() == pytest.approx(1, abs=1e-5)


def test_pairs_are_compared_on_tokens_they_share_and_on_any() -> None:
    """Tokens are their own numbers, and experts give back what they are given."""
    learning = build(3, 2, tokens=60, anywhere=True, pairs=1)
    seen: list[Tensor] = []

    def compare(first_PnD: Tensor, second_PnD: Tensor, mask_Pn: Tensor) -> Tensor:
        assert torch.equal(first_PnD, second_PnD)
        assert mask_Pn.all()
        seen.append(first_PnD[..., 0])
        return torch.tensor([0.5, 0.25])

    learning.measure = compare
    x_TD = torch.arange(300.0)[:, None].repeat(1, WIDTH)
    # Experts 0 and 1 share the first hundred tokens; all others go to experts 1 and 2.
    index_TK = torch.tensor([[0, 1]] * 100 + [[1, 2]] * 200)
    logits_TN = torch.zeros(300, 3).scatter(1, index_TK, 1.0)
    for _ in range(60):
        result = learning(x_TD, index_TK, logits_TN, lambda rows_RD, count_N: rows_RD)
        assert result.loss.item() == 0.75
        assert result.mean.item() == 0.375
        assert result.pairs_due.item() == 1
    first, anywhere = torch.stack(seen).unbind(1)
    assert first.shape == anywhere.shape == (60, 30)
    assert {bool(low) for low in (first < 100).all(1)} == {True, False}
    assert ((first < 100).all(1) | (first >= 100).all(1)).all()
    assert all(len(set(row.tolist())) == 30 for row in (*first, *anywhere))
    # A third of 1,800 expected below 100, with a standard deviation below sqrt(1800 * 2) / 3 = 20.
    assert abs(int((anywhere < 100).sum()) - 600) < 5 * 20


def test_a_pair_that_waits_is_not_compared_anywhere() -> None:
    learning = build(2, 1, tokens=32, anywhere=True, min_tokens=16)
    x_TD, index_TK, logits_TN = batch(0, 12, 2, 1)
    result = learning(x_TD, index_TK, logits_TN, ToyExperts(2))
    assert result.loss.item() == 0
    assert result.pairs_due.item() == 0
    assert result.mean.isnan()


def test_a_comparison_that_stands_for_more_steps_counts_as_often() -> None:
    given = batch(0, 200, 4, 2)
    once, often = (build(4, 2, tokens=1000, check_every=1.0) for _ in range(2))
    toy = ToyExperts(4)
    first, second = (one(*given, toy, stands_for=1) for one in (once, once))
    assert first.pairs_due == 0
    assert not once(*given, toy, stands_for=0).pairs_due
    assert torch.equal(second.loss, first.loss)
    result = often(*given, toy, stands_for=20)  # shared tokens count 20 times: all are due
    assert result.pairs_due == 4
    plain = build(4, 2, tokens=1000)(*given, toy)
    torch.testing.assert_close(result.loss, 20 * plain.loss)
    torch.testing.assert_close(result.mean, plain.mean)


def test_one_expert_alone_is_refused() -> None:
    with pytest.raises(UserError, match=r"moe\.experts: .*at least 2 experts"):
        build(1, 1)


def test_unknown_measure_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'cka-linear'"):
        build(4, 2, measure="cka-linaer")
