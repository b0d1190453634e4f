"""Parameters of N experts, stacked. A backend only adds the computation.

Under expert parallelism (`Experts.spread`) a rank holds some of the experts. Each parameter is then
one DTensor of all N, sharded over the ranks, so that its name, its shape, its norm and what a
checkpoint holds stay the same.

An expert is W2 f(W1 x + b1) + b2 with dropout after f = ReLU, or SwiGLU: W2 (silu(Wg x) * Wu x),
gate and up stacked in one matrix. Layout [N, out, in], as nn.Linear and fastmoe have it, so that
every backend reads the same checkpoint.

Each expert is initialised as nn.Linear is. SimSMoE's published code initialises the stack as one
3-D kernel with a fan-in of out*in, so its deviation is about 20 times too small;
`published_init=True` reproduces that.

Shapes: T tokens, D model width, H hidden width, N experts, K experts per token, R rows.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from simsmoe_cli.kernels.dropout import dropout as drop
from simsmoe_cli.kernels.dropout import relu_dropout
from simsmoe_cli.kernels.swiglu import swiglu
from simsmoe_cli.moe import dispatch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

    from simsmoe_cli.moe.exchange import Exchange


class Weights(NamedTuple):
    """What a backend multiplies with: [N, I, D], [N, D, H], and biases [N, I], [N, D] or None; I is
    H, or 2H for SwiGLU. Under expert parallelism N is the number of this rank's experts."""

    w_in: Tensor
    w_out: Tensor
    b_in: Tensor | None
    b_out: Tensor | None


class Experts(nn.Module):
    """Base of all expert backends.

    Args:
        num_experts, width, hidden: N, D and H.
        activation: "relu" or "swiglu".
        bias: whether both matrices have biases.
        dropout: probability after the activation, in training.
        published_init: the published code's small initial weights.
    """

    def __init__(
        self,
        num_experts: int,
        width: int,
        hidden: int,
        *,
        activation: str = "relu",
        bias: bool = True,
        dropout: float = 0.0,
        published_init: bool = False,
    ):
        super().__init__()
        self.num_experts = num_experts
        self.exchange: Exchange | None = None
        self.swiglu = activation == "swiglu"
        self.dropout = dropout
        inner = hidden * (2 if self.swiglu else 1)
        self.w_in = nn.Parameter(torch.empty(num_experts, inner, width))
        self.w_out = nn.Parameter(torch.empty(num_experts, width, hidden))
        self.b_in = nn.Parameter(torch.empty(num_experts, inner)) if bias else None
        self.b_out = nn.Parameter(torch.empty(num_experts, width)) if bias else None
        self._initialise(published_init)

    def _initialise(self, published: bool) -> None:
        for weight, bias in ((self.w_in, self.b_in), (self.w_out, self.b_out)):
            fan_in = weight[0].numel() if published else weight.shape[2]
            bound = 1 / math.sqrt(fan_in)
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)
                if published:
                    nn.init.zeros_(bias)

    @classmethod
    def require(cls, device: torch.device) -> None:
        """Raise a UserError if this backend cannot compute on the device."""

    def spread(self, mesh: DeviceMesh) -> None:
        """Keep this rank's share of the experts; until now all ranks hold the same experts.

        Args:
            mesh: of one dimension: the ranks that share the experts, whose number divides N.
        """
        # Importing it takes seconds.
        from torch.distributed.tensor import Shard, distribute_tensor

        from simsmoe_cli.moe.exchange import Exchange

        assert self.num_experts % mesh.size() == 0
        for name, parameter in list(self.named_parameters()):
            # Without a source rank every rank takes its share from its own tensor.
            shared = distribute_tensor(parameter.detach(), mesh, [Shard(0)], src_data_rank=None)
            setattr(self, name, nn.Parameter(shared))
        self.exchange = Exchange(mesh.get_group())

    def own(self) -> Weights:
        """The parameters of this rank's experts: of all N, where ranks do not share them."""
        if self.exchange is None:
            return Weights(self.w_in, self.w_out, self.b_in, self.b_out)
        b_in, b_out = (None if b is None else _own(b) for b in (self.b_in, self.b_out))
        return Weights(_own(self.w_in), _own(self.w_out), b_in, b_out)

    def matmul_dtype(self, device: torch.device) -> torch.dtype:
        """The precision matrices are multiplied in: autocast's where it is on."""
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
        return self.w_in.dtype

    def activate(self, inner: Tensor, dropout: bool) -> Tensor:
        """The activation and its dropout: [R, H] or [R, 2H] -> [R, H]."""
        drops = dropout and self.training
        if self.swiglu:
            return drop(swiglu(inner), self.dropout, drops)
        return relu_dropout(inner, self.dropout, drops)

    def forward(
        self, rows_RD: Tensor, count_N: Tensor, *, dropout: bool = True, partial: bool = False
    ) -> Tensor:
        """Each row through the expert it belongs to, whichever rank holds that expert.

        Args:
            rows_RD: rows sorted by expert.
            count_N: rows of each expert, int64, summing to R, or to less if `partial`.
            dropout: whether dropout applies (in training mode).
            partial: whether rows after the last expert's may follow; they give zeros.

        Returns:
            [R, D], in the precision the matrices were multiplied in.
        """
        if self.exchange is None:
            return self.compute(rows_RD, count_N, dropout=dropout, partial=partial)
        compute = functools.partial(self.compute, dropout=dropout, partial=False)
        rows_RD = rows_RD.to(self.matmul_dtype(rows_RD.device))
        out: Tensor = self.exchange(rows_RD, count_N, compute)
        return out

    def compute(self, rows_RD: Tensor, count_N: Tensor, *, dropout: bool, partial: bool) -> Tensor:
        """As `forward`, for the experts of this rank: what a backend implements."""
        raise NotImplementedError

    def mixture(
        self, x_TD: Tensor, index_TK: Tensor, weight_TK: Tensor, *, partial: bool = False
    ) -> Tensor:
        """Every token through its experts: sum over k of weight_tk E_index_tk(x_t).

        Backends implement `compute`, which does not depend on routing. A backend with its own
        dispatch overrides this method.

        Args:
            x_TD: hidden states.
            index_TK: chosen experts, int64; N for an empty slot.
            weight_TK: mixing weights.
            partial: whether slots may be empty.

        Returns:
            [T, D], in the precision the matrices were multiplied in.
        """
        plan = dispatch.plan(index_TK, self.num_experts, partial=partial)
        rows_RD: Tensor = self(dispatch.gather(x_TD, plan), plan.count_N, partial=partial)
        return dispatch.combine(rows_RD, weight_TK, plan)

    @property
    def takes_further_rows(self) -> bool:
        """Whether `mixture_and_further` computes what two separate calls would: dropout, which
        further rows must not have, is not drawn."""
        return not (self.training and self.dropout)

    def mixture_and_further(
        self,
        x_TD: Tensor,
        index_TK: Tensor,
        weight_TK: Tensor,
        further: dispatch.FurtherRows,
        *,
        partial: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """As `mixture`, and the experts' outputs on further rows, in the same products.

        Args:
            x_TD, index_TK, weight_TK, partial: as of `mixture`.
            further: F rows; their tokens are detached.

        Returns:
            [T, D] and [F, D].
        """
        plan = dispatch.plan(index_TK, self.num_experts, partial=partial, further=further)
        rows_RD: Tensor = self(dispatch.gather(x_TD, plan), plan.count_N, partial=partial)
        return dispatch.combine_and_rest(rows_RD, weight_TK, plan)

    def dense(self, x_TD: Tensor) -> Tensor:
        """Every token through every expert, without dropout: [N, T, D]."""
        tokens = x_TD.shape[0]
        rows_RD = x_TD.unsqueeze(0).expand(self.num_experts, -1, -1).flatten(0, 1)
        count_N = torch.full((self.num_experts,), tokens, device=x_TD.device)
        out: Tensor = self(rows_RD, count_N, dropout=False)
        return out.view(self.num_experts, *x_TD.shape)


def _own(parameter: Tensor) -> Tensor:
    """The part of a DTensor that is on this rank."""
    part: Tensor = cast("DTensor", parameter).to_local()
    return part
