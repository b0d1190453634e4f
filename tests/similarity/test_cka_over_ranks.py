"""CKA of rows that lie on several ranks: the ratio of averaged HSIC, as METHODS defines it.

The oracle has all rows in one process and computes HSIC from kernel matrices, in fp64.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from simsmoe_cli import registry
from simsmoe_cli.parallel.world import differentiable_sum
from tests.gloo_ranks import on_ranks

# Ranks differ in rows (the second has too few for the debiased measure) and in the size of outputs.
ROWS, SIZES = (12, 3, 40), (1.0, 3.0, 0.5)
PAIRS, WIDTH = 4, 5
OPTIONS: dict[str, dict[str, Any]] = {
    "cka-linear": {},
    "cka-linear-debiased": {},
    "cka-rbf": {"sigma": 1.5},
}


def test_every_measure_that_adds_up_is_tested_here() -> None:
    assert set(OPTIONS) == {name for name, entry in registry.MEASURES.items() if entry.adds_up}


def rows_of(rank: int, experts: int) -> Tensor:
    """Related outputs of experts, [experts, n, D]; the last one gives the same for every row."""
    generator = torch.Generator().manual_seed(rank)
    common = torch.randn(1, ROWS[rank], WIDTH, generator=generator)
    outputs = common + torch.randn(experts, ROWS[rank], WIDTH, generator=generator)
    outputs[-1] = 1.0
    return outputs * SIZES[rank]


def mask_of(rank: int) -> Tensor:
    """All rows, but the first pair's last row."""
    mask = torch.ones(PAIRS, ROWS[rank], dtype=torch.bool)
    mask[0, -1] = False
    return mask


def measured_on_a_rank(rank: int) -> dict[str, list[Tensor]]:
    found = {}
    for name, options in OPTIONS.items():
        x, y = (part.clone().requires_grad_() for part in rows_of(rank, 2 * PAIRS).chunk(2))
        every = rows_of(rank, 4).requires_grad_()
        measure = registry.load("similarity", name)
        all_pairs = registry.resolve(registry.MEASURES[name].all_pairs)
        value_P = measure(x, y, mask_of(rank), **options, total=differentiable_sum)
        value_NN = all_pairs(every, **options, total=differentiable_sum)
        (value_P.nansum() + (value_NN * weights()).nansum()).div(len(ROWS)).backward()
        found[name] = [value_P.detach(), value_NN.detach(), x.grad, y.grad, every.grad]
    return found


def weights() -> Tensor:
    """One for each of the all-pairs matrix's entries, all different."""
    return torch.arange(16.0).view(4, 4)


def kernel(name: str, x: Tensor) -> Tensor:
    if name == "cka-rbf":
        distance = (x[:, None] - x[None]).square().sum(-1)
        return (-distance / (2 * OPTIONS[name]["sigma"] ** 2)).exp()
    return x @ x.T


def hsic(name: str, x: Tensor, y: Tensor) -> Tensor:
    """Of one rank's rows; 0 where they are too few."""
    n, k, m = len(x), kernel(name, x), kernel(name, y)
    if name == "cka-linear-debiased":
        if n < 4:
            return x.sum() * 0
        k, m = k - k.diag().diag(), m - m.diag().diag()
        whole = (k @ m).trace() + k.sum() * m.sum() / ((n - 1) * (n - 2))
        return (whole - 2 / (n - 2) * (k @ m).sum()) / (n * (n - 3))
    if n < 3:
        return x.sum() * 0
    centre = torch.eye(n, dtype=x.dtype) - 1 / n
    return (k @ centre @ m @ centre).trace() / (n - 1) ** 2


def cka(name: str, x_of_ranks: list[Tensor], y_of_ranks: list[Tensor]) -> Tensor:
    def average(left: list[Tensor], right: list[Tensor]) -> Tensor:
        return sum((hsic(name, *rows) for rows in zip(left, right, strict=True)), torch.zeros(()))

    xx, yy = average(x_of_ranks, x_of_ranks), average(y_of_ranks, y_of_ranks)
    return average(x_of_ranks, y_of_ranks) / (xx * yy).sqrt()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Tensor]]]:
    return on_ranks(measured_on_a_rank, len(ROWS), tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", OPTIONS)
def test_ranks_agree_with_the_definition(
    of_ranks: list[dict[str, list[Tensor]]], name: str
) -> None:
    ranks = range(len(ROWS))
    whole = [rows_of(rank, 2 * PAIRS).double().requires_grad_() for rank in ranks]
    every = [rows_of(rank, 4).double().requires_grad_() for rank in ranks]
    values = []
    # The last pair has a constant expert and is undefined.
    for pair in range(PAIRS - 1):
        x, y = (
            [whole[rank][side + pair][mask_of(rank)[pair]] for rank in ranks] for side in (0, PAIRS)
        )
        values.append(cka(name, x, y))
    loss = torch.stack(values).sum()
    matrix = torch.full((4, 4), torch.nan)
    for i in range(3):
        for j in range(3):
            value = cka(name, [part[i] for part in every], [part[j] for part in every])
            matrix[i, j] = 1.0 if i == j else value.detach()
            loss = loss + value * weights()[i, j] * (i != j)
    loss.backward()
    expected_P = torch.tensor([*(value.item() for value in values), torch.nan])
    for rank, found in enumerate(of_ranks):
        value_P, value_NN, x_grad, y_grad, every_grad = found[name]
        torch.testing.assert_close(value_P, expected_P, equal_nan=True, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(value_NN, matrix, equal_nan=True, rtol=1e-4, atol=1e-5)
        # Gradients are in units of 1 / output.
        grads = torch.cat([x_grad, y_grad]) * SIZES[rank], every_grad * SIZES[rank]
        for got, leaf in zip(grads, (whole[rank], every[rank]), strict=True):
            assert leaf.grad is not None
            expected = (leaf.grad * SIZES[rank]).float()
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


def test_one_rank_gives_what_its_rows_give_alone() -> None:
    x, y = rows_of(2, 2 * PAIRS).chunk(2)
    for name, options in OPTIONS.items():
        measure = registry.load("similarity", name)
        alone = measure(x, y, mask_of(2), **options)
        added = measure(x, y, mask_of(2), **options, total=lambda tensor: tensor)
        torch.testing.assert_close(added, alone, equal_nan=True)
