"""Root mean square normalisation (1910.07467), in few passes over memory on a CPU.

Replaces torch.nn.RMSNorm, which is its oracle in tests/kernels/test_rms_norm.py. Other devices and
compiled code have a fused kernel; on a CPU torch uses a dozen operations, forward and backward, and
each reads and writes the whole tensor.

Shapes: D width, R rows in all leading dimensions together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight, over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        exact = x.dtype == self.weight.dtype and x.dtype in (torch.float32, torch.float64)
        if x.device.type == "cpu" and exact and not torch.compiler.is_compiling():
            return _normalise(x, self.weight, self.eps)
        return super().forward(x)


class _Normalise(torch.autograd.Function):
    """With s = 1 / sqrt(mean(x^2) + eps): dx = s g w - x s^3 mean(g w x), dw = sum of g x s."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        norm_R1 = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale_R1 = norm_R1.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight_D, scale_R1)
        out: Tensor = (x * scale_R1).mul_(weight_D)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight_D, scale_R1 = ctx.saved_tensors
        product = grad * x
        product_RD = product.reshape(-1, x.shape[-1])
        d_weight = scale_R1.view(-1) @ product_RD
        mean_R1 = (product_RD @ weight_D).view_as(scale_R1).div_(x.shape[-1])
        d_x = (grad * weight_D).mul_(scale_R1)
        return d_x.addcmul_(x, mean_R1.mul_(scale_R1.pow(3)), value=-1), d_weight, None


_normalise: Callable[..., Tensor] = _Normalise.apply
