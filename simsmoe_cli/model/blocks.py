"""Residual sub-layers: one letter of a pattern each.

Post-norm, as in the papers: h = norm(h + f(h)). Pre-norm: h + f(norm(h)). A MoE sub-layer with
`moe_norm: double` has a residual and a norm inside, as in SimSMoE's published code:
f(h) = norm_inner(h + dropout(moe(h))).

Shapes: B batch, M block, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simsmoe_cli.kernels.dropout import dropout, relu_dropout
from simsmoe_cli.kernels.feed_forward import feed_forward, suits
from simsmoe_cli.kernels.rms_norm import RMSNorm
from simsmoe_cli.kernels.swiglu import swiglu
from simsmoe_cli.model.attention import RelativeAttention, RopeAttention, with_earlier
from simsmoe_cli.moe.layer import MoELayer, MoEOutput
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import ModelSettings, Recipe

NORM_EPS = 1e-5


def make_norm(settings: ModelSettings) -> nn.Module:
    """The normalisation of a sub-layer, over the model width."""
    if settings.norm == "rmsnorm":
        return RMSNorm(settings.width, eps=NORM_EPS)
    return nn.LayerNorm(settings.width)


class DenseFFN(nn.Module):
    """W2 relu(W1 x + b1) + b2 with dropout after the ReLU, or SwiGLU."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.swiglu = settings.activation == "swiglu"
        self.dropout = settings.dropout
        inner = settings.ffn_hidden * (2 if self.swiglu else 1)
        self.w_in = nn.Linear(settings.width, inner, bias=settings.bias)
        self.w_out = nn.Linear(settings.ffn_hidden, settings.width, bias=settings.bias)

    def forward(self, x_BMD: Tensor) -> Tensor:
        plain = not self.swiglu and not torch.is_autocast_enabled("cpu")
        if plain and suits(x_BMD, x_BMD.dtype):
            return self._as_one_expert(x_BMD)
        inner = self.w_in(x_BMD)
        if self.swiglu:
            hidden = dropout(swiglu(inner), self.dropout, self.training)
        else:
            hidden = relu_dropout(inner, self.dropout, self.training)
        out: Tensor = self.w_out(hidden)
        return out

    def _as_one_expert(self, x_BMD: Tensor) -> Tensor:
        x_TD = x_BMD.flatten(0, -2)
        w_in, w_out = self.w_in.weight[None], self.w_out.weight[None]
        biases = self.w_in.bias, self.w_out.bias
        b_in, b_out = (None if bias is None else bias[None] for bias in biases)
        drops = self.dropout if self.training else 0.0
        out = feed_forward(x_TD, w_in, b_in, w_out, b_out, [x_TD.shape[0]], drops)
        return out.view_as(x_BMD)


class SubLayer(nn.Module):
    """One residual sub-layer of the backbone.

    Args:
        kind: "s" self-attention, "g" mixture of experts, "f" dense feed-forward.
        recipe: its sections model and moe are read.
        vocab_size: of the token ids that a router may read.
        layer, layers: index of a MoE sub-layer among all of them, and their number.
    """

    def __init__(
        self, kind: str, recipe: Recipe, vocab_size: int = 0, layer: int = 0, layers: int = 1
    ):
        super().__init__()
        settings = recipe.model
        self.kind = kind
        self.pre_norm = settings.norm_position == "pre"
        self.norm = make_norm(settings)
        self.inner_norm: nn.Module | None = None
        if kind == "s":
            self.attention = (
                RelativeAttention(settings.width, settings.heads, settings.dropout)
                if settings.attention == "relative"
                else RopeAttention(
                    settings.width,
                    settings.heads,
                    settings.span,
                    settings.rope_base,
                    settings.dropout,
                )
            )
        elif kind == "g":
            self.moe = MoELayer(recipe, vocab_size, layer, layers)
            self.dropout = settings.dropout
            if settings.moe_norm == "double":
                self.inner_norm = make_norm(settings)
        else:
            self.ffn = DenseFFN(settings)

    def attend(
        self,
        hidden: Tensor,
        memory_BLD: Tensor | None,
        position_WL: Tensor | None,
        document_BM: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """A self-attention sub-layer: the hidden states and the memory for the next block.

        With rotary positions the memory is a cache of keys and values, if there is one; with
        documents, an end token may then only be the first token after an empty cache. The carried
        memory of relative attention is zero where it is not of the block's last document.
        """
        x = self._enter(hidden)
        if memory_BLD is None:
            return self._leave(hidden, self.attention(x, document_BM)), None
        if isinstance(self.attention, RopeAttention):
            out, cache = self.attention.extend(x, memory_BLD, document_BM)
            return self._leave(hidden, out), cache
        span = memory_BLD.shape[1]
        remembered = torch.cat([memory_BLD[:, x.shape[1] :], x[:, -span:]], dim=1).detach()
        if document_BM is not None:
            of_BL = with_earlier(document_BM, span)[:, -span:]
            remembered = remembered * (of_BL == document_BM[:, -1:])[..., None]
        out = self.attention(x, memory_BLD, position_WL, document_BM)
        return self._leave(hidden, out), remembered

    def mix(
        self, hidden: Tensor, context: StepContext, token_ids_T: Tensor | None = None
    ) -> tuple[Tensor, MoEOutput]:
        """A mixture-of-experts sub-layer: the hidden states and what the layer reports."""
        x = self._enter(hidden)
        output = self.moe(x, context, token_ids_T)
        mixed = dropout(output.hidden, self.dropout, self.training)
        if self.inner_norm is not None:
            mixed = self.inner_norm(x + mixed)
        return self._leave(hidden, mixed), output

    def dense(self, x_TD: Tensor) -> Tensor:
        """Every expert of a mixture-of-experts sub-layer on the same rows, [N, T, D]."""
        return self.moe.experts.dense(x_TD)

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """A dense sub-layer."""
        return self._leave(hidden, self.ffn(self._enter(hidden)))

    def _enter(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden) if self.pre_norm else hidden

    def _leave(self, hidden: Tensor, output: Tensor) -> Tensor:
        total = hidden + output
        return total if self.pre_norm else self.norm(total)
