"""Expert parallelism: rows travel to the ranks that hold their experts, and their outputs back.

E ranks share the N experts of a layer; rank e holds experts e*N/E to (e+1)*N/E - 1. Each rank has
tokens of its own. It sends every row to the rank of its expert (GShard, Lepikhin et al.
2006.16668); that rank computes the rows of all ranks with any backend, and sends the outputs back.
No row is dropped and none is padded. A rank may have no rows, and an expert none either.

The gradient of an all-to-all is the all-to-all in the opposite direction. So an expert's gradient
is summed over the tokens of all E ranks as soon as it is computed.

Shapes: R rows of this rank, S rows of this rank's experts, D model width, N experts, E ranks,
n = N/E experts of a rank.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import (
    all_to_all_single,
    all_to_all_single_autograd,
    wait_tensor,
)

from simsmoe_cli.moe import dispatch

Backend = Callable[[Tensor, Tensor], Tensor]


class Exchange:
    """Sends rows to their experts' ranks and brings the outputs back.

    All ranks of the group must call it the same number of times, in the same order.

    Args:
        group: the E ranks, in the order of their experts.
    """

    def __init__(self, group: dist.ProcessGroup):
        self.group = group
        self.ranks = group.size()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, rows_RD: Tensor, count_N: Tensor, run_experts: Backend) -> Tensor:
        """This rank's rows through experts of all ranks.

        Args:
            rows_RD: sorted by expert; rows after the last expert's may follow and give zeros.
            count_N: rows of each expert, int64, summing to R at most.
            run_experts: this rank's experts, (rows [S, D] sorted by expert, count_n) -> rows
                [S, D].

        Returns:
            [R, D], in the precision of the experts' outputs.
        """
        count_En = count_N.view(self.ranks, -1)
        coming_En = all_to_all_single(count_En, None, None, self.group)
        sent, received = self._splits(count_En, coming_En)
        full = sum(sent)
        rows_SD = self._send(rows_RD[:full], received, sent)
        # Rows come rank by rank, each rank's sorted by expert. One more sort brings those of an
        # expert together.
        expert_n = torch.arange(coming_En.shape[1], device=count_N.device)
        expert_S = expert_n.repeat(self.ranks).repeat_interleave(
            coming_En.flatten(), output_size=sum(received)
        )
        plan = dispatch.plan(expert_S[:, None], len(expert_n))
        out_SD = run_experts(dispatch.permute(rows_SD, plan.order_R, plan.inverse_R), plan.count_N)
        out_SD = dispatch.permute(out_SD, plan.inverse_R, plan.order_R)
        out_RD = self._send(out_SD, sent, received)
        if full == rows_RD.shape[0]:
            return out_RD
        return torch.cat([out_RD, out_RD.new_zeros(rows_RD.shape[0] - full, out_RD.shape[1])])

    def _send(self, rows: Tensor, received: list[int], sent: list[int]) -> Tensor:
        """Rows for each rank become rows from each rank; only the device waits for them."""
        arrived: Tensor = wait_tensor(
            all_to_all_single_autograd(rows.contiguous(), received, sent, self.group)
        )
        return arrived

    def _splits(self, count_En: Tensor, coming_En: Tensor) -> tuple[list[int], list[int]]:
        """Rows sent to and received from each rank.

        The host needs these numbers to start the all-to-all of rows, so here, once for each call of
        a layer's experts, the host waits on the device, and for the slowest rank's counts.
        torchtitan waits at the same place (its AllToAllTokenDispatcher). The way around it is
        a buffer for the worst case, E times the rows.
        """
        sent, received = torch.stack([count_En.sum(1), coming_En.sum(1)]).tolist()
        return sent, received
