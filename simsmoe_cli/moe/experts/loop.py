"""One expert after the other: slow and obvious; tests compare every other backend with it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.moe.experts.base import Experts


class LoopExperts(Experts):
    """A Python loop over experts. It reads the counts on the host, so it waits on the device."""

    def compute(self, rows_RD: Tensor, count_N: Tensor, *, dropout: bool, partial: bool) -> Tensor:
        w_in, w_out, b_in, b_out = self.own()
        counts: list[int] = count_N.tolist()
        parts = rows_RD[: sum(counts)].split(counts)
        outputs = []
        for expert, part in enumerate(parts):
            inner = F.linear(part, w_in[expert], None if b_in is None else b_in[expert])
            hidden = self.activate(inner, dropout)
            outputs.append(
                F.linear(hidden, w_out[expert], None if b_out is None else b_out[expert])
            )
        empty_RD = outputs[0].new_zeros(rows_RD.shape[0] - sum(counts), rows_RD.shape[1])
        return torch.cat([*outputs, empty_RD])
