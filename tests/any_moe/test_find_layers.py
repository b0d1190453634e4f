"""Layers with experts are found by what they are, whatever they are called.

Shapes: T tokens, D width, H expert hidden width, N experts.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simsmoe_cli.any_moe.find_layers import (
    ExpertLayer,
    ListedLayer,
    PairedLayer,
    RepeatedLayer,
    find_expert_layers,
    no_experts,
)
from tests.any_moe import models
from tests.any_moe.models import EXPERTS, HIDDEN, WIDTH


class Repeated(nn.Module):
    """Experts that are called with every row once per expert, as those of Llama 4."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(EXPERTS, WIDTH, 2 * HIDDEN))
        self.down_proj = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH))

    def forward(self, rows: Tensor) -> Tensor:
        x_NTD = rows.view(EXPERTS, -1, WIDTH)
        gate, up = (x_NTD @ self.gate_up_proj).chunk(2, dim=-1)
        return ((F.silu(gate) * up) @ self.down_proj).reshape(-1, WIDTH)


class Stack(nn.Module):
    """N matrices, called with rows sorted by expert and how many each has."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, rows, columns))

    def forward(self, rows: Tensor, sizes: list[int]) -> Tensor:
        parts = zip(rows.split(sizes), self.weight, strict=True)
        return torch.cat([part @ weight.T for part, weight in parts])


class Paired(nn.Module):
    """Two stacks beside a router, as in JetMoE."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.input_linear = Stack(2 * HIDDEN, WIDTH)
        self.output_linear = Stack(WIDTH, HIDDEN)
        self.activation = F.silu


def with_router(experts: nn.Module, router: str = "gate") -> nn.Module:
    layer = nn.Module()
    layer.add_module(router, nn.Linear(WIDTH, EXPERTS, bias=False))
    layer.add_module("experts", experts)
    return layer


def in_model(layer: nn.Module, name: str = "mlp") -> nn.Module:
    model = nn.Module()
    model.add_module("attention", nn.Linear(WIDTH, WIDTH))
    model.add_module(name, layer)
    return model


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (models.StackedLayer, ExpertLayer),
        (models.ListedLayer, ListedLayer),
        (lambda: with_router(Repeated()), RepeatedLayer),
        (Paired, PairedLayer),
    ],
)
def test_each_kind_is_found_and_runs_every_expert_on_the_same_rows(layer, kind) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    module = layer()
    (found,) = find_expert_layers(in_model(module))
    assert type(found) is kind
    assert (found.name, found.module, found.number) == ("mlp", module, EXPERTS)
    x_TD = torch.randn(7, WIDTH)
    outputs_NTD = found.dense(x_TD)
    parts = found.hidden_units()
    assert [part.shape for part in parts] == [(EXPERTS, HIDDEN, WIDTH)] * len(parts)
    *into, out_NHD = parts
    hidden = [torch.einsum("nhd,td->nth", part, x_TD) for part in into]
    acted = hidden[0].relu() if len(hidden) == 1 else F.silu(hidden[0]) * hidden[1]
    if kind is ListedLayer:  # its matrices are w1, w2, w3, and w2 leads out
        assert len(parts) == 3
    expected_NTD = torch.einsum("nth,nhd->ntd", acted, out_NHD)
    if kind is not ListedLayer:
        assert torch.allclose(outputs_NTD, expected_NTD, rtol=1e-4, atol=1e-4)
    for expert, one in enumerate(getattr(module, "experts", []) if kind is ListedLayer else []):
        assert torch.equal(outputs_NTD[expert], one(x_TD))


@pytest.mark.parametrize("router", ["gate", "router", "wg"])
def test_a_router_is_known_by_a_row_for_each_expert(router: str) -> None:
    (found,) = find_expert_layers(with_router(models.Stacked(), router))
    assert found.router.weight.shape == (EXPERTS, WIDTH)


@pytest.mark.parametrize("name", ["vision_tower", "audio", "mtp"])
def test_experts_that_no_text_reaches_are_not_among_them(name: str) -> None:
    assert find_expert_layers(in_model(models.StackedLayer(), name)) == []


def test_shared_experts_are_not_among_them() -> None:
    layer = models.StackedLayer()
    layer.add_module("shared_experts", nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4)))
    assert len(find_expert_layers(layer)) == 1


def test_experts_without_a_router_or_of_different_kinds_are_none() -> None:
    alone = nn.Module()
    alone.add_module("experts", models.Stacked())
    assert find_expert_layers(alone) == []
    mixed = models.ListedLayer()
    mixed.experts[2] = nn.Linear(WIDTH, WIDTH)
    assert find_expert_layers(mixed) == []


def test_a_model_without_experts_is_described() -> None:
    said = str(no_experts(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "mine"))
    assert said.startswith("mine: no layer with experts and a router in this Sequential; it has 2")
    assert "2 Linear" in said
