"""All experts in one grouped matrix product per layer of the expert (torch's grouped_mm).

grouped_mm ignores autocast, so rows and weights are cast here; it wants int32 offsets and rows
aligned to 16 bytes, so widths must be multiples of 8.

Shapes: R rows, D model width, H hidden width, N experts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.moe.experts.base import Experts

ALIGNMENT = 8


class GroupedExperts(Experts):
    """The default backend: no capacity, no padding, no wait on the device."""

    def forward(self, rows_RD: Tensor, count_N: Tensor, *, dropout: bool = True) -> Tensor:
        device = rows_RD.device.type
        dtype = (
            torch.get_autocast_dtype(device)
            if torch.is_autocast_enabled(device)
            else self.w_in.dtype
        )
        end_N = count_N.cumsum(0)
        offset_N = end_N.to(torch.int32)
        # Which expert a row belongs to, for the biases.
        expert_R = None
        if self.b_in is not None:
            row_R = torch.arange(rows_RD.shape[0], device=rows_RD.device)
            expert_R = torch.searchsorted(end_N, row_R, right=True)
        inner = self._product(rows_RD.to(dtype), self.w_in, self.b_in, offset_N, expert_R)
        hidden = self.activate(inner, dropout)
        return self._product(hidden, self.w_out, self.b_out, offset_N, expert_R)

    @staticmethod
    def _product(
        rows: Tensor, weight: Tensor, bias: Tensor | None, offset_N: Tensor, expert_R: Tensor | None
    ) -> Tensor:
        out = F.grouped_mm(rows, weight.to(rows.dtype).transpose(-2, -1), offs=offset_N)
        if bias is None or expert_R is None:
            return out
        return out + bias.to(rows.dtype).index_select(0, expert_R)
