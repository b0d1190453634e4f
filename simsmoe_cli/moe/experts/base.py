"""Parameters of N experts, stacked. A backend only adds the computation.

An expert is W2 f(W1 x + b1) + b2 with dropout after f = ReLU, or SwiGLU: W2 (silu(Wg x) * Wu x),
gate and up stacked in one matrix. Layout [N, out, in], as nn.Linear and fastmoe have it, so that
every backend reads the same checkpoint.

Each expert is initialised as nn.Linear is. SimSMoE's published code initialises the stack as one
3-D kernel with a fan-in of out*in, so its deviation is about 20 times too small;
`published_init=True` reproduces that.

Shapes: T tokens, D model width, H hidden width, N experts, K experts per token, R rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from simsmoe_cli.kernels.dropout import dropout as drop
from simsmoe_cli.kernels.dropout import relu_dropout
from simsmoe_cli.kernels.swiglu import swiglu
from simsmoe_cli.moe import dispatch


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
        """Each row through the expert it belongs to.

        Args:
            rows_RD: rows sorted by expert.
            count_N: rows of each expert, int64, summing to R, or to less if `partial`.
            dropout: whether dropout applies (in training mode).
            partial: whether rows after the last expert's may follow; they give zeros.

        Returns:
            [R, D], in the precision the matrices were multiplied in.
        """
        raise NotImplementedError

    def mixture(
        self, x_TD: Tensor, index_TK: Tensor, weight_TK: Tensor, *, partial: bool = False
    ) -> Tensor:
        """Every token through its experts: sum over k of weight_tk E_index_tk(x_t).

        Backends implement `forward`, which does not depend on routing. A backend with its own
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

    def dense(self, x_TD: Tensor) -> Tensor:
        """Every token through every expert, without dropout: [N, T, D]."""
        tokens = x_TD.shape[0]
        rows_RD = x_TD.unsqueeze(0).expand(self.num_experts, -1, -1).flatten(0, 1)
        count_N = torch.full((self.num_experts,), tokens, device=x_TD.device)
        out: Tensor = self(rows_RD, count_N, dropout=False)
        return out.view(self.num_experts, tokens, -1)
