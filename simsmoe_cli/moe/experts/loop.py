"""One expert after the other: slow and obvious; tests compare every other backend with it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.moe.experts.base import Experts


class LoopExperts(Experts):
    """A Python loop over experts. It reads the counts on the host, so it waits on the device."""

    def forward(
        self, rows_RD: Tensor, count_N: Tensor, *, dropout: bool = True, partial: bool = False
    ) -> Tensor:
        counts: list[int] = count_N.tolist()
        parts = rows_RD[: sum(counts)].split(counts)
        outputs = []
        for expert, part in enumerate(parts):
            b_in = None if self.b_in is None else self.b_in[expert]
            b_out = None if self.b_out is None else self.b_out[expert]
            hidden = self.activate(F.linear(part, self.w_in[expert], b_in), dropout)
            outputs.append(F.linear(hidden, self.w_out[expert], b_out))
        empty_RD = outputs[0].new_zeros(rows_RD.shape[0] - sum(counts), rows_RD.shape[1])
        return torch.cat([*outputs, empty_RD])
