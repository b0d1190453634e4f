"""Cosines of the router's rows, of models of ours and of transformers alike."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.collapse.measure.layer import Layer
from simsmoe_cli.collapse.measure.router_rows import measure_weights
from simsmoe_cli.collapse.measure.routing import Counts
from simsmoe_cli.collapse.sources.base import rows_of_experts
from tests.collapse.planted import EXPERTS, QUICK, WIDTH, Planted


class WithRows(Planted):
    rows: torch.Tensor | None = None

    def router_rows(self, layer: int) -> torch.Tensor | None:
        return self.rows


def measured(rows: torch.Tensor | None) -> list[list[float | None]]:
    source = WithRows()
    source.rows = rows
    index = torch.zeros(4, 2, dtype=torch.int64)
    layer = Layer(source, 0, Counts.of(EXPERTS), torch.ones(4, WIDTH), index, QUICK)
    found: list[list[float | None]] = measure_weights(layer)["router_cosine"]
    return found


def test_parallel_and_orthogonal_rows_are_told_apart() -> None:
    rows = torch.eye(EXPERTS, 7)
    rows[1] = -3 * rows[0]
    rows[4] = 0
    found = measured(rows)
    assert found[0][1] == pytest.approx(-1)
    assert found[0][2] == pytest.approx(0)
    assert found[0][0] == pytest.approx(1)
    assert found[0][4] is found[4][4] is None
    assert measured(None) == []


def test_the_rows_are_those_of_the_matrix_with_one_for_each_expert() -> None:
    router = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.Linear(9, 4))
    assert rows_of_experts(router, 4) is not None
    assert torch.equal(rows_of_experts(router, 4), router[1].weight)  # type: ignore[arg-type]
    assert rows_of_experts(router, 5) is None
