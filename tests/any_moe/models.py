"""Small models with experts that are nobody's: a list as transformers 4 has it, and stacks.

Shapes: T tokens, D width (16), H expert hidden width (12), N experts (4), K experts per token (2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HIDDEN, EXPERTS, CHOSEN = 16, 12, 4, 2


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.w2 = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.w3 = nn.Linear(WIDTH, HIDDEN, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.w2(F.silu(self.w1(rows)) * self.w3(rows))
        return out


class ListedLayer(nn.Module):
    """As transformers 4 had it: a gate that gives logits, experts in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, 1)
        weight, index = self.gate(rows).softmax(-1).topk(CHOSEN)
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            row, slot = (index == number).nonzero(as_tuple=True)
            out[row] += weight[row, slot, None] * expert(rows[row])
        return out.view_as(hidden)


class Contrary(ListedLayer):
    """Sends a token to the experts its gate likes least."""

    def forward(self, hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, 1)
        index = self.gate(rows).topk(CHOSEN, largest=False).indices
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            row = (index == number).any(1)
            out[row] += expert(rows[row])
        return out.view_as(hidden)


class Stacked(nn.Module):
    """Experts of two matrices each; slot k is given (1 + k * `more`) times its weight."""

    def __init__(self, more: float = 0.0) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH))
        self.w2 = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN))
        self.more = more

    def forward(self, rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        out = torch.zeros_like(rows)
        for slot in range(index.shape[1]):
            hidden = torch.einsum("thd,td->th", self.w1[index[:, slot]], rows).relu()
            back = torch.einsum("tdh,th->td", self.w2[index[:, slot]], hidden)
            out += (1 + slot * self.more) * weight[:, slot, None] * back
        return out


class StackedLayer(nn.Module):
    """As transformers 5 has it: a router, and experts that are called with its choice."""

    def __init__(self, more: float = 0.0) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = Stacked(more)

    def forward(self, hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, 1)
        weight, index = self.gate(rows).softmax(-1).topk(CHOSEN)
        return self.experts(rows, index, weight).view_as(hidden)


class Doubling(StackedLayer):
    """Gives the second slot twice its weight."""

    def __init__(self) -> None:
        super().__init__(more=1.0)
