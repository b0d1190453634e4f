"""Every expert backend computes what a plain loop over tokens computes, gradients too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli import registry
from simsmoe_cli.moe import dispatch
from simsmoe_cli.moe.experts.base import Experts

# fastmoe's part is played by its stand-in.
pytestmark = pytest.mark.usefixtures("standin")

TOKENS, WIDTH, HIDDEN, EXPERTS = 37, 16, 24, 5
VARIANTS = [
    {"activation": "relu", "bias": True},
    {"activation": "swiglu", "bias": False},
    {"activation": "swiglu", "bias": True},
]


def make(backend: str, **options: Any) -> Experts:
    torch.manual_seed(0)
    experts = registry.load("experts", backend)(EXPERTS, WIDTH, HIDDEN, **options)
    assert isinstance(experts, Experts)
    return experts


def one_expert(experts: Experts, number: int, x_TD: Tensor) -> Tensor:
    """An expert by its formula."""
    inner = x_TD @ experts.w_in[number].T
    if experts.b_in is not None:
        inner = inner + experts.b_in[number]
    if experts.swiglu:
        hidden = F.silu(inner[:, :HIDDEN]) * inner[:, HIDDEN:]
    else:
        hidden = inner.clamp(min=0)
    out = hidden @ experts.w_out[number].T
    return out if experts.b_out is None else out + experts.b_out[number]


def token_by_token(experts: Experts, x_TD: Tensor, index_TK: Tensor, weight_TK: Tensor) -> Tensor:
    rows = []
    for x_D, chosen, weights in zip(x_TD, index_TK.tolist(), weight_TK, strict=True):
        parts = [
            weight * one_expert(experts, number, x_D[None])[0]
            for number, weight in zip(chosen, weights, strict=True)
        ]
        rows.append(torch.stack(parts).sum(0))
    return torch.stack(rows)


def routed(top_k: int, skip: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_TD = torch.randn(TOKENS, WIDTH, generator=generator)
    score_TN = torch.rand(TOKENS, EXPERTS, generator=generator)
    if skip is not None:
        score_TN[:, skip] = -1
    weight_TK, index_TK = score_TN.topk(top_k)
    return x_TD, index_TK, weight_TK


@pytest.mark.parametrize("backend", registry.EXPERTS)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_backend_equals_token_by_token(backend: str, options: dict[str, Any], top_k: int) -> None:
    experts = make(backend, **options)
    x_TD, index_TK, weight_TK = routed(top_k, skip=2)
    results = []
    for compute in ("backend", "oracle"):
        x = x_TD.clone().requires_grad_()
        weight = weight_TK.clone().requires_grad_()
        experts.zero_grad()
        if compute == "backend":
            plan = dispatch.plan(index_TK, EXPERTS)
            rows_RD = experts(dispatch.gather(x, plan), plan.count_N)
            out = dispatch.combine(rows_RD, weight, plan)
        else:
            out = token_by_token(experts, x, index_TK, weight)
        out.square().sum().backward()
        grads = {name: p.grad for name, p in experts.named_parameters()}
        results.append({"out": out, "x": x.grad, "weight": weight.grad} | grads)
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("backend", registry.EXPERTS)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_dense_runs_every_expert_on_every_token(backend: str, options: dict[str, Any]) -> None:
    experts = make(backend, **options)
    x_TD = routed(2)[0]
    expected = torch.stack([one_expert(experts, number, x_TD) for number in range(EXPERTS)])
    torch.testing.assert_close(experts.dense(x_TD), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("backend", registry.EXPERTS)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_further_rows_equal_a_call_of_their_own(
    backend: str, options: dict[str, Any], partial: bool
) -> None:
    experts = make(backend, **options)
    if not experts.takes_further_rows:
        assert backend == "fastmoe"
        return
    x_TD, index_TK, weight_TK = routed(2, skip=2)
    if partial:
        index_TK = index_TK.index_fill(0, torch.arange(0, TOKENS, 3), EXPERTS)
    expert_F, token_F = torch.tensor([0, 0, 0, 2, 4]), torch.tensor([3, 1, 3, 30, 7])
    results = []
    for together in (True, False):
        experts.zero_grad()
        if together:
            further = dispatch.FurtherRows(expert_F, token_F)
            out, rows_FD = experts.mixture_and_further(
                x_TD, index_TK, weight_TK, further, partial=partial
            )
        else:
            out = experts.mixture(x_TD, index_TK, weight_TK, partial=partial)
            rows_FD = experts(x_TD[token_F], expert_F.bincount(minlength=EXPERTS))
        (out.square().sum() + rows_FD.pow(3).sum()).backward()
        grads = {name: p.grad for name, p in experts.named_parameters()}
        results.append({"out": out, "rows": rows_FD} | grads)
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_further_rows_are_not_taken_along_where_dropout_is_drawn() -> None:
    experts = make("grouped", dropout=0.1)
    assert not experts.takes_further_rows
    assert experts.eval().takes_further_rows


@pytest.mark.parametrize("backend", registry.EXPERTS)
def test_dropout_can_be_left_out_while_training(backend: str) -> None:
    experts = make(backend, dropout=0.9)
    rows_RD, count_N = torch.randn(10, WIDTH), torch.tensor([2, 2, 2, 2, 2])
    with_dropout = experts(rows_RD, count_N)
    assert not torch.equal(with_dropout, experts(rows_RD, count_N))
    without = experts(rows_RD, count_N, dropout=False)
    experts.eval()
    assert torch.equal(without, experts(rows_RD, count_N))


def test_a_checkpoint_fits_every_backend() -> None:
    states = {name: make(name).state_dict() for name in registry.EXPERTS}
    shapes = [{key: value.shape for key, value in state.items()} for state in states.values()]
    assert all(shape == shapes[0] for shape in shapes)


def test_experts_start_as_linear_layers_do_or_as_published() -> None:
    big = registry.load("experts", "grouped")
    linear = torch.nn.Linear(256, 512)
    assert big(8, 256, 512).w_in.std().item() == pytest.approx(linear.weight.std().item(), rel=0.02)
    published = big(8, 256, 512, published_init=True)
    # The published code's kernel: bound 1 / sqrt(out * in).
    assert published.w_in.std().item() == pytest.approx(0.0016, rel=0.02)
    assert published.b_in is not None
    assert not published.b_in.any()


def test_grouped_follows_autocast() -> None:
    experts = make("grouped")
    rows_RD, count_N = torch.randn(10, WIDTH), torch.tensor([2, 0, 4, 3, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = experts(rows_RD, count_N)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), experts(rows_RD, count_N), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("backend", registry.EXPERTS)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_empty_slots_give_nothing_and_take_no_gradient(
    backend: str, options: dict[str, Any]
) -> None:
    experts = make(backend, **options)
    x_TD, index_TK, weight_TK = routed(3)
    empty_TK = torch.rand(index_TK.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    results = []
    for with_empty in (True, False):
        x = x_TD.clone().requires_grad_()
        experts.zero_grad()
        if with_empty:
            plan = dispatch.plan(index_TK.masked_fill(empty_TK, EXPERTS), EXPERTS, partial=True)
            assert int(plan.count_N.sum()) == int((~empty_TK).sum())
            rows_RD = experts(dispatch.gather(x, plan), plan.count_N, partial=True)
            out = dispatch.combine(rows_RD, weight_TK, plan)
        else:
            out = token_by_token(experts, x, index_TK, weight_TK.masked_fill(empty_TK, 0))
        out.square().sum().backward()
        grads = {name: p.grad for name, p in experts.named_parameters()}
        results.append({"out": out, "x": x.grad} | grads)
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], atol=1e-5, rtol=1e-4, msg=name)
