"""Masking, centring and normalising the rows of an expert."""

from __future__ import annotations

import torch

from simsmoe_cli.similarity.standardise import (
    row_mean,
    standard_columns,
    standardise,
    unit_rows,
    whole_mask,
)


def some(rows: int = 6, width: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and a mask without the last one."""
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) * 3 + 1
    mask = torch.ones(rows, dtype=torch.bool)
    mask[-1] = False
    return x, mask


def test_standardised_rows_are_centred_with_a_root_mean_square_norm_of_one() -> None:
    x, mask = some()
    rows, norm, varies = standardise(x, mask)
    centred = x[:-1] - x[:-1].mean(0)
    torch.testing.assert_close(rows[:-1] * norm, centred)
    torch.testing.assert_close(rows.square().sum(), torch.tensor(5.0))
    assert not rows[-1].any()
    assert bool(varies)


def test_columns_get_mean_zero_and_variance_one() -> None:
    x, mask = some()
    columns, varies = standard_columns(x, mask)
    torch.testing.assert_close(columns[:-1].mean(0), torch.zeros(4))
    torch.testing.assert_close(columns[:-1].var(0, correction=0), torch.ones(4))
    assert bool(varies)


def test_unit_rows_keep_zero_rows() -> None:
    x, mask = some()
    x[0] = 0
    rows, _ = unit_rows(x, mask)
    torch.testing.assert_close(rows[1:-1].norm(dim=-1), torch.ones(4))
    assert not rows[[0, -1]].any()


def test_constant_rows_do_not_vary_and_get_no_gradient() -> None:
    x = torch.full((5, 3), 2.0, requires_grad=True)
    rows, _, varies = standardise(x, whole_mask(x, None))
    rows.sum().backward()
    assert not bool(varies)
    assert x.grad is not None
    assert not x.grad.any()


def test_the_mean_of_no_rows_is_zero() -> None:
    values, mask = torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False])
    assert row_mean(values, mask).item() == 2
    assert row_mean(values, torch.zeros_like(mask)).item() == 0
