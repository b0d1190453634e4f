"""What tests of similarity learning share: small experts, batches, and a layer of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from simsmoe_cli.recipe.similarity import SimilaritySettings
from simsmoe_cli.similarity.learning import SimilarityLearning

WIDTH = 12


class ToyExperts(nn.Module):
    """E_i(x) = tanh(A_i x + b_i), one expert after the other."""

    def __init__(self, experts: int):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weights = nn.ParameterList(
            torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5 for _ in range(experts)
        )
        self.bias = nn.Parameter(torch.randn(experts, WIDTH, generator=generator))

    def one(self, expert: int, rows_RD: Tensor) -> Tensor:
        return torch.tanh(rows_RD @ self.weights[expert].T + self.bias[expert])

    def forward(self, rows_RD: Tensor, count_N: Tensor) -> Tensor:
        assert int(count_N.sum()) == len(rows_RD)
        parts = rows_RD.split(count_N.tolist())
        return torch.cat([self.one(expert, part) for expert, part in enumerate(parts)])


def stacked(weight_NDD: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Experts E_i(x) = x A_i that read no counts on the host."""

    def run(rows_RD: Tensor, count_N: Tensor) -> Tensor:
        start_N = count_N.cumsum(0) - count_N
        row_R = torch.arange(rows_RD.shape[0], device=rows_RD.device)
        expert_R = (row_R[:, None] >= start_N).sum(1) - 1
        return torch.bmm(rows_RD[:, None], weight_NDD.index_select(0, expert_R))[:, 0]

    return run


def batch(seed: int, tokens: int, experts: int, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_TD = torch.randn(tokens, WIDTH, generator=generator)
    logits_TN = torch.randn(tokens, experts, generator=generator)
    return x_TD, logits_TN.topk(top_k).indices, logits_TN


def build(experts: int, top_k: int, **given: Any) -> SimilarityLearning:
    """A layer of similarity learning: of a preset as it is, or else of shared tokens alone."""
    torch.manual_seed(1)
    plain = {"preset": "calibrated", "anywhere": False, "threshold": 0.0}
    settings = SimilaritySettings.model_validate(given if "preset" in given else plain | given)
    return SimilarityLearning(settings, WIDTH, experts, top_k)


def gradients(learning: SimilarityLearning, experts: nn.Module) -> dict[str, Tensor]:
    named = {**dict(experts.named_parameters()), **dict(learning.head.named_parameters("head"))}
    return {name: p.grad for name, p in named.items() if p.grad is not None and p.grad.any()}
