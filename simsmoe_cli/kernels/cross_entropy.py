"""Cross-entropy of an output layer without all its logits: memory does not grow with T times V.

Replaces F.linear followed by F.cross_entropy, which is also its oracle in
tests/kernels/test_cross_entropy.py, and is still used where all logits fit into one chunk.

The plain loss of T tokens over V words holds T*V logits, their softmax and their gradient: at
24,576 tokens and 267,735 words 26 GB each in fp32. Here tokens go through the output layer in
chunks of at most `CHUNK_LOGITS` logits. Each chunk keeps its loss and, if a backward pass will
follow, its gradients, which can be computed from its softmax at once. So nothing is computed twice.
(Adaptive softmax, Grave et al. 1609.04309, would be cheaper still, but it is another model.) torch
has a `linear_cross_entropy` since 2.13, which is newer than the oldest version supported here.

Shapes: T tokens, C tokens of a chunk, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
CHUNK_LOGITS = 1 << 25


def total_cross_entropy(
    hidden_TD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_T: Tensor
) -> Tensor:
    """Nats of the targets under softmax(hidden W^T + b), summed.

    Args:
        hidden_TD: input of the output layer.
        weight_VD, bias_V: the output layer.
        target_T: int64; targets of -100 are ignored.

    Returns:
        A scalar: fp32, or fp64 for such hidden states.
    """
    chunk = max(1, CHUNK_LOGITS // weight_VD.shape[0])
    if hidden_TD.shape[0] <= chunk:
        logits_TV = F.linear(hidden_TD, weight_VD, bias_V)
        kind = torch.promote_types(logits_TV.dtype, torch.float32)
        return F.cross_entropy(logits_TV.to(kind), target_T, ignore_index=IGNORED, reduction="sum")
    device = hidden_TD.device.type
    if torch.is_autocast_enabled(device):
        # Cast as autocast would; the casts are differentiable. What follows runs without autocast.
        kind = torch.get_autocast_dtype(device)
        hidden_TD, weight_VD = hidden_TD.to(kind), weight_VD.to(kind)
        bias_V = None if bias_V is None else bias_V.to(kind)
    with torch.autocast(device, enabled=False):
        return _in_chunks(hidden_TD, weight_VD, bias_V, target_T, chunk)


class _InChunks(torch.autograd.Function):
    """The sum over chunks; the forward pass computes gradients and the backward scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_T: Tensor,
        chunk: int,
    ) -> Tensor:
        kind = torch.promote_types(hidden_TD.dtype, torch.float32)
        nats = hidden_TD.new_zeros((), dtype=kind)
        learning = any(ctx.needs_input_grad)
        d_hidden_TD = torch.empty_like(hidden_TD) if learning else hidden_TD
        if learning:
            d_weight_VD = torch.zeros_like(weight_VD, dtype=kind)
            d_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=kind)
        parts = (tensor.split(chunk) for tensor in (hidden_TD, d_hidden_TD, target_T))
        for hidden_CD, d_hidden_CD, target_C in zip(*parts, strict=True):
            scored_C1 = (target_C != IGNORED).unsqueeze(1)
            target_C1 = target_C.clamp(min=0).unsqueeze(1)
            logits_CV = F.linear(hidden_CD, weight_VD, bias_V).to(kind)
            # In place from here on, so that a chunk allocates its logits once.
            logits_CV.sub_(logits_CV.amax(1, keepdim=True))
            own_C1 = logits_CV.gather(1, target_C1)
            total_C1 = logits_CV.exp_().sum(1, keepdim=True)
            nats += ((total_C1.log() - own_C1) * scored_C1).sum()
            if not learning:
                continue
            d_logits_CV = logits_CV.div_(total_C1)
            d_logits_CV.scatter_add_(1, target_C1, -torch.ones_like(total_C1))
            d_logits_CV.mul_(scored_C1)
            if d_bias_V is not None:
                d_bias_V += d_logits_CV.sum(0)
            d_logits_CV = d_logits_CV.to(weight_VD.dtype)
            torch.mm(d_logits_CV, weight_VD, out=d_hidden_CD)
            if kind == weight_VD.dtype:
                d_weight_VD.addmm_(d_logits_CV.T, hidden_CD)
            else:
                d_weight_VD += d_logits_CV.T @ hidden_CD
        if learning:
            ctx.save_for_backward(d_hidden_TD, d_weight_VD, d_bias_V)
            ctx.kind = weight_VD.dtype
        return nats

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        d_hidden_TD, d_weight_VD, d_bias_V = ctx.saved_tensors
        d_bias_V = None if d_bias_V is None else (d_bias_V * grad).to(ctx.kind)
        return (
            (d_hidden_TD * grad).to(ctx.kind),
            (d_weight_VD * grad).to(ctx.kind),
            d_bias_V,
            None,
            None,
        )


_in_chunks: Callable[..., Tensor] = _InChunks.apply
