"""Expert parallelism computes what one process computes, gradients too.

Four gloo processes are started once, run every case and save what they get. A test compares one
case with the same in this process. Two ranks share the experts, or all four do.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from simsmoe_cli import registry
from simsmoe_cli.moe.experts.base import Experts
from tests.gloo_ranks import on_ranks

RANKS, WIDTH, HIDDEN, EXPERTS, TOP_K = 4, 8, 16, 8, 2
# Tokens of each rank, and the experts that any token goes to (None: all; an empty slot is N).
ROUTINGS: dict[str, tuple[tuple[int, ...], list[int] | None]] = {
    "spread": ((7, 7, 7, 7), None),
    "uneven": ((9, 1, 0, 4), None),
    "starved-ranks": ((7, 7, 7, 7), [0, 1]),
    "one-expert": ((5, 6, 7, 8), [5]),
    "empty-slots": ((7, 2, 7, 7), [1, 2, 7, EXPERTS]),
    "nothing-at-all": ((3, 3, 3, 3), [EXPERTS]),
}
PRECISIONS = {"loop": torch.float64, "grouped": torch.float32}
VARIANTS: list[dict[str, Any]] = [
    {"activation": "relu", "bias": True},
    {"activation": "swiglu", "bias": False},
]
Case = tuple[int, str, int, str]
# How many ranks share the experts, backend, variant, routing.
CASES = [(4, "loop", 0, name) for name in ROUTINGS] + [
    (2, "loop", 1, "uneven"),
    (2, "loop", 0, "starved-ranks"),
    (2, "grouped", 0, "empty-slots"),
    (4, "grouped", 1, "starved-ranks"),
]


def make(backend: str, variant: int) -> Experts:
    torch.manual_seed(0)
    experts = registry.load("experts", backend)(EXPERTS, WIDTH, HIDDEN, **VARIANTS[variant])
    assert isinstance(experts, Experts)
    return experts.to(PRECISIONS[backend])


def tokens_of_ranks(backend: str, name: str) -> list[list[Tensor]]:
    """Hidden states, chosen experts, weights and the gradient of the outputs, of every rank."""
    generator = torch.Generator().manual_seed(1)
    sizes, allowed = ROUTINGS[name]
    found = []
    for size in sizes:
        if allowed is None:
            index_TK = torch.rand(size, EXPERTS, generator=generator).topk(TOP_K).indices
        else:
            drawn = torch.randint(len(allowed), (size, TOP_K), generator=generator)
            index_TK = torch.tensor(allowed)[drawn]
        real = [
            torch.randn(size, columns, generator=generator, dtype=PRECISIONS[backend])
            for columns in (WIDTH, TOP_K, WIDTH)
        ]
        found.append([real[0], index_TK, *real[1:]])
    return found


def computed(
    experts: Experts, x_TD: Tensor, index_TK: Tensor, weight_TK: Tensor, grad_TD: Tensor
) -> dict[str, Tensor]:
    """Outputs of the mixture and of every expert, and all gradients."""
    x_TD, weight_TK = x_TD.clone().requires_grad_(), weight_TK.clone().requires_grad_()
    experts.zero_grad()
    out_TD = experts.mixture(x_TD, index_TK, weight_TK, partial=True)
    dense_NTD = experts.dense(x_TD)
    ((out_TD + dense_NTD.square().sum(0)) * grad_TD).sum().backward()
    assert x_TD.grad is not None
    assert weight_TK.grad is not None
    return {"out": out_TD, "dense": dense_NTD, "x": x_TD.grad, "weight": weight_TK.grad}


def compute_on_a_rank(rank: int) -> dict[Case, dict[str, Tensor]]:
    found = {}
    grids = {
        sharing: init_device_mesh(
            "cpu", (RANKS // sharing, sharing), mesh_dim_names=("beyond", "expert")
        )
        for sharing in (2, 4)
    }
    for case in CASES:
        sharing, backend, variant, name = case
        experts = make(backend, variant)
        experts.spread(grids[sharing]["expert"])
        mine = computed(experts, *tokens_of_ranks(backend, name)[rank])
        for parameter_name, parameter in experts.named_parameters():
            assert parameter.grad is not None, "an expert without rows has a gradient of 0"
            assert isinstance(parameter.grad, DTensor)
            grad = parameter.grad.full_tensor()
            # Each group of ranks that share experts has a copy of them.
            dist.all_reduce(grad, group=grids[sharing]["beyond"].get_group())
            mine[parameter_name] = grad
        found[case] = {key: value.detach() for key, value in mine.items()}
    return found


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Case, dict[str, Tensor]]]:
    """What each rank computed, by case."""
    return on_ranks(compute_on_a_rank, RANKS, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_ranks_that_share_experts_equal_one_process(
    of_ranks: list[dict[Case, dict[str, Tensor]]], case: Case
) -> None:
    _, backend, variant, name = case
    experts = make(backend, variant)
    parts = tokens_of_ranks(backend, name)
    expected = computed(experts, *(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    tolerance = (
        {"rtol": 1e-10, "atol": 1e-10} if backend == "loop" else {"rtol": 2e-5, "atol": 2e-5}
    )
    sizes = ROUTINGS[name][0]
    for key, whole in expected.items():
        shares = whole.split(sizes, dim=1 if key == "dense" else 0)
        for rank, share in enumerate(shares):
            got = of_ranks[rank][case][key]
            torch.testing.assert_close(got, share, **tolerance)
    for key, parameter in experts.named_parameters():
        for found in of_ranks:
            got = found[case][key]
            torch.testing.assert_close(got, parameter.grad, **tolerance)
