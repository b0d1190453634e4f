"""Grouped products on a CPU, values and gradients, against one product for each expert."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.kernels import grouped_product as product
from simsmoe_cli.kernels.grouped_product import grouped_product

WIDTH, HIDDEN, EXPERTS = 16, 24, 5


def test_products_in_bf16_are_each_experts_own() -> None:
    """Values and gradients, against float64; some experts, or all, without rows."""
    generator = torch.Generator().manual_seed(0)
    for loads in ([0, 1, 0, 70, 29], [100, 0, 0, 0, 0], [3, 33, 31, 33, 0], [0, 0, 0, 0, 0]):
        offset_N = torch.tensor(loads).cumsum(0).to(torch.int32)
        rows = torch.randn(100, WIDTH, generator=generator).bfloat16()
        rows[sum(loads) :] = 0
        weight = torch.randn(EXPERTS, HIDDEN, WIDTH, generator=generator).bfloat16()
        given = torch.randn(100, HIDDEN, generator=generator).bfloat16()
        results = []
        for kind in (torch.bfloat16, torch.float64):
            x, w = (t.detach().to(kind).requires_grad_() for t in (rows, weight))
            if kind == torch.bfloat16:
                out = grouped_product(x, w, offset_N)
            else:
                parts = [part @ w[n].T for n, part in enumerate(x[: sum(loads)].split(loads))]
                out = torch.cat([*parts, x.new_zeros(100 - sum(loads), HIDDEN)])
            (out[: sum(loads)] * given[: sum(loads)]).sum().backward()
            assert x.grad is not None
            assert w.grad is not None
            assert out.dtype == x.grad.dtype == w.grad.dtype == kind
            results.append((out, x.grad, w.grad))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2 * WIDTH)


@pytest.mark.parametrize("last", [0, 1, 7, 40])
def test_an_expert_that_overflows_in_bf16_spoils_no_other(last: int) -> None:
    """Its rows may fill up the products of its neighbours."""
    loads = [50 - last, 10, last]
    offset_N = torch.tensor(loads).cumsum(0).to(torch.int32)
    rows = torch.ones(60, WIDTH, dtype=torch.bfloat16)
    begin, end = loads[0], loads[0] + loads[1]
    rows[begin:end] = torch.inf
    rows.requires_grad_()
    weight = torch.ones(3, HIDDEN, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    out = grouped_product(rows, weight, offset_N)
    out.sum().backward()
    assert weight.grad is not None
    own = torch.tensor([begin <= row < end for row in range(60)])
    assert out[~own].isfinite().all()
    assert weight.grad[[0, 2]].isfinite().all()
    assert not weight.grad[1].isfinite().any()


def test_products_in_bf16_have_few_shapes() -> None:
    """A CPU generates code for each shape it meets: loads differ always, shapes seldom."""
    shapes = set()
    for rows in range(1, 8193):
        up, down = product._rounded_up(rows), product._rounded_down(rows)
        assert down <= rows <= up <= max(rows + 31, rows * 17 / 16)
        shapes |= {up, down}
    assert len(shapes) < 100
