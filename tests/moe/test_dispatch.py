"""Dispatch: rows sorted by expert and brought back, against plain indexing."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.moe import dispatch


def test_plan_counts_and_order() -> None:
    index_TK = torch.tensor([[3, 0], [0, 1], [3, 1]])
    plan = dispatch.plan(index_TK, 5)
    assert plan.count_N.tolist() == [2, 2, 0, 2, 0]
    assert index_TK.flatten()[plan.order_R].tolist() == [0, 0, 1, 1, 3, 3]
    assert plan.order_R[plan.inverse_R].tolist() == list(range(6))


def test_an_empty_slot_sorts_last_and_counts_for_no_expert() -> None:
    plan = dispatch.plan(torch.tensor([[2, 1], [0, 2]]), 2, partial=True)
    assert plan.count_N.tolist() == [1, 1]
    assert plan.order_R.tolist() == [2, 1, 0, 3]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_gather_and_combine_equal_plain_indexing(top_k: int, compiled: bool) -> None:
    torch._dynamo.reset()
    combine = dispatch.combine
    if compiled:
        combine = torch.compile(combine, backend="aot_eager", fullgraph=True)
    generator = torch.Generator().manual_seed(0)
    x_TD = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    weight_TK, index_TK = torch.rand(7, 5, generator=generator, dtype=torch.float64).topk(top_k)
    scale_N = torch.arange(1, 6, dtype=torch.float64)
    results = []
    for plain in (False, True):
        x, weight = x_TD.clone().requires_grad_(), weight_TK.clone().requires_grad_()
        if plain:
            out = x * (weight * scale_N[index_TK]).sum(1, keepdim=True)
        else:
            plan = dispatch.plan(index_TK, 5)
            rows = dispatch.gather(x, plan) * scale_N.repeat_interleave(plan.count_N)[:, None]
            out = combine(rows, weight, plan)
        out.square().sum().backward()
        results.append((out, x.grad, weight.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


def test_further_rows_come_after_the_slots_and_give_tokens_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    x_TD = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight_TK, index_TK = torch.rand(7, 5, generator=generator, dtype=torch.float64).topk(2)
    further = dispatch.FurtherRows(torch.tensor([4, 0, 4, 2]), torch.tensor([6, 6, 0, 3]))
    plan = dispatch.plan(index_TK, 5, further=further)
    assert int(plan.count_N.sum()) == 18
    scale_R = torch.arange(1.0, 6.0).repeat_interleave(plan.count_N).double()
    out_TD, rest_FD = dispatch.combine_and_rest(
        dispatch.gather(x_TD, plan) * scale_R[:, None], weight_TK, plan
    )
    expected = x_TD * (weight_TK * (index_TK + 1)).sum(1, keepdim=True)
    torch.testing.assert_close(out_TD, expected)
    torch.testing.assert_close(rest_FD, x_TD[[6, 6, 0, 3]] * torch.tensor([[5], [1], [5], [3]]))
    (found,) = torch.autograd.grad(out_TD.square().sum() + rest_FD.sum(), x_TD)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x_TD)
    torch.testing.assert_close(found, wanted)
