"""A model as people write it themselves, and its similarity loss written out by hand.

Shapes: T tokens, D width, N experts, K experts per token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.any_moe.by_hand import EVERYTHING, cka


class Expert(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.gelu(self.up(x)))


class OwnLayer(nn.Module):
    """What people write themselves: a list of experts, and a loop over it."""

    def __init__(self, width: int = 16, hidden: int = 24, experts: int = 5, top_k: int = 2):
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(Expert(width, hidden) for _ in range(experts))
        self.top_k = top_k

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        weight, index = self.gate(rows).softmax(-1).topk(self.top_k)
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            token, slot = (index == number).nonzero(as_tuple=True)
            if len(token):
                out = out.index_add(0, token, expert(rows[token]) * weight[token, slot, None])
        return out.view_as(x)


class OwnModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(OwnLayer() for _ in range(2))
        self.config = type("Config", (), {"num_experts_per_tok": 2})()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def own_batch() -> Tensor:
    return torch.randn(4, 50, 16, generator=torch.Generator().manual_seed(1))


def loss_by_hand(model: nn.Module, x: Tensor) -> Tensor:
    """The loop's own loss of an `OwnModel` plus the similarity loss of all pairs of experts."""
    inputs: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(0, -2)))
        for layer in model.layers
    ]
    loss = model(x).square().mean()
    for hook in hooks:
        hook.remove()
    for layer, rows in zip(model.layers, inputs, strict=True):
        rows = rows.detach()
        chosen = layer.gate(rows).topk(layer.top_k).indices
        number = len(layer.experts)
        sent = torch.zeros(len(rows), number, dtype=torch.bool).scatter_(1, chosen, True)
        outputs = [expert(rows) for expert in layer.experts]
        for first in range(number):
            for second in range(first + 1, number):
                shared = sent[:, first] & sent[:, second]
                if shared.sum() >= 16:
                    for kept in (shared, torch.ones_like(shared)):
                        value = cka(outputs[first][kept], outputs[second][kept])
                        loss = loss + EVERYTHING["weight"] * value * (value > 0.1)
    return loss
