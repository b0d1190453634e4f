"""All experts in one grouped matrix product per layer of the expert (torch's grouped_mm).

grouped_mm ignores autocast, so rows and weights are cast here; it wants int32 offsets and rows
aligned to 16 bytes, so widths must be multiples of 8.

Shapes: R rows, D model width, H hidden width, N experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simsmoe_cli.kernels.feed_forward import feed_forward, suits
from simsmoe_cli.kernels.grouped_product import grouped_product
from simsmoe_cli.moe.experts.base import Experts

ALIGNMENT = 8


class GroupedExperts(Experts):
    """The default backend: no capacity limit, no padding, no waiting on the device.

    A CPU computes relu experts in fp32 some rows at a time instead (kernels/feed_forward.py).
    """

    def compute(self, rows_RD: Tensor, count_N: Tensor, *, dropout: bool, partial: bool) -> Tensor:
        w_in, w_out, b_in, b_out = self.own()
        dtype = self.matmul_dtype(rows_RD.device)
        if not self.swiglu and suits(rows_RD, dtype):
            drops = self.dropout if dropout and self.training else 0.0
            rows = rows_RD.to(dtype)
            return feed_forward(rows, w_in, b_in, w_out, b_out, count_N.tolist(), drops)
        end_N = count_N.cumsum(0)
        offset_N = end_N.to(torch.int32)
        row_R = torch.arange(rows_RD.shape[0], device=rows_RD.device)
        empty_R1 = (row_R >= end_N[-1])[:, None] if partial else None
        # Which expert a row belongs to, for the biases; empty rows may take any.
        expert_R = None
        if b_in is not None:
            expert_R = torch.searchsorted(end_N, row_R, right=True).clamp(max=len(end_N) - 1)

        def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            out = grouped_product(rows, weight.to(dtype), offset_N)
            if bias is not None and expert_R is not None:
                out = out + bias.to(dtype).index_select(0, expert_R)
            return out if empty_R1 is None else out.masked_fill(empty_R1, 0)

        # grouped_mm leaves rows after the last offset uninitialised, in its gradients too. A fill
        # before and after each product keeps them out of values and gradients.
        rows = rows_RD.to(dtype)
        if empty_R1 is not None:
            rows = rows.masked_fill(empty_R1, 0)
        hidden = self.activate(product(rows, w_in, b_in), dropout)
        if empty_R1 is not None:
            hidden = hidden.masked_fill(empty_R1, 0)
        return product(hidden, w_out, b_out)
