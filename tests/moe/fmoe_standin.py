"""A stand-in for fastmoe: its extension module `fmoe_cuda` in plain torch, on any device.

Like the kernels it takes counts on the host, expects one precision in one call, fills tensors it
is given, reads memory as it lies, places an expert's rows in an order of its own (backwards here),
and knows -1 as no expert. `fmoe.functions` and `fmoe.linear` stand on it with fastmoe's signatures
and argument orders, for one process.

Shapes: R slots, S slots with an expert, I input width, O output width, N experts.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

from simsmoe_cli.moe.experts import fastmoe


class Extension:
    """`fmoe_cuda`."""

    @staticmethod
    def expert_count(gate_R: Tensor, count_N: Tensor) -> None:
        assert gate_R.dtype == torch.int64
        assert count_N.dtype == torch.int32
        for expert in gate_R.tolist():
            if expert != -1:
                count_N[expert] += 1

    @staticmethod
    def assign_pos(end_N: Tensor, gate_R: Tensor, slot_S: Tensor) -> None:
        assert end_N.dtype == torch.int32
        assert slot_S.dtype == gate_R.dtype == torch.int64
        for slot, expert in enumerate(gate_R.tolist()):
            if expert != -1:
                end_N[expert] -= 1
                slot_S[end_N[expert]] = slot

    @staticmethod
    def linear_forward(
        rows_SI: Tensor, count_N: Tensor, weight_NOI: Tensor, bias_NO: Tensor | None
    ) -> Tensor:
        check(rows_SI, count_N, weight_NOI, bias_NO)
        parts = rows_SI.split(count_N.tolist())
        biases = [0.0] * len(parts) if bias_NO is None else list(bias_NO)
        return torch.cat(
            [
                part @ weight_OI.T + bias
                for part, weight_OI, bias in zip(parts, weight_NOI, biases, strict=True)
            ]
        )

    @staticmethod
    def linear_backward(
        grad_SO: Tensor,
        rows_SI: Tensor,
        count_N: Tensor,
        weight_NOI: Tensor,
        bias_NO: Tensor | None,
    ) -> list[Tensor]:
        check(rows_SI, count_N, weight_NOI, bias_NO, grad_SO)
        counts = count_N.tolist()
        grads, parts = grad_SO.split(counts), rows_SI.split(counts)
        return [
            torch.cat([g @ weight_OI for g, weight_OI in zip(grads, weight_NOI, strict=True)]),
            torch.stack([g.T @ part for g, part in zip(grads, parts, strict=True)]),
            torch.stack([g.sum(0) for g in grads]),
        ]


def check(
    rows_SI: Tensor,
    count_N: Tensor,
    weight_NOI: Tensor,
    bias_NO: Tensor | None,
    grad_SO: Tensor | None = None,
) -> None:
    """What the kernels take for granted."""
    assert count_N.device.type == "cpu"
    assert count_N.dtype == torch.int64
    assert int(count_N.sum()) == rows_SI.shape[0]
    for tensor in (rows_SI, weight_NOI, bias_NO, grad_SO):
        if tensor is not None:
            assert tensor.is_contiguous()
            assert tensor.dtype == rows_SI.dtype


def prepare_forward(
    gate: Tensor, num_expert: int, world_size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    assert world_size == 1
    count_N = torch.zeros(num_expert, device=gate.device, dtype=torch.int32)
    Extension.expert_count(gate, count_N)
    total = int(count_N.sum())
    slot_S = torch.empty(total, device=gate.device, dtype=torch.int64)
    Extension.assign_pos(count_N.cumsum(0).int(), gate, slot_S)
    count_N = count_N.long().cpu()
    return slot_S, count_N, count_N, count_N, total


class MOEScatter(Function):
    """Row pos[i] of the input becomes row i; rows taken more than once sum their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        inp: Tensor,
        pos: Tensor,
        local_expert_count: Tensor,
        global_expert_count: Tensor,
        fwd_batch_size: int,
        world_size: int,
    ) -> Tensor:
        assert fwd_batch_size == pos.shape[0]
        assert world_size == 1
        ctx.save_for_backward(pos)
        ctx.rows = inp.shape[0]
        return inp[pos]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (pos,) = ctx.saved_tensors
        out = grads[0].new_zeros(ctx.rows, grads[0].shape[1])
        return out.index_add(0, pos, grads[0]), None, None, None, None, None


class MOEGather(Function):
    """Row i of the experts' output becomes row pos[i]; rows nobody computed are zeros."""

    @staticmethod
    def forward(
        ctx: Any,
        global_output_buf: Tensor,
        pos: Tensor,
        local_expert_count: Tensor,
        global_expert_count: Tensor,
        local_batch_size: int,
        world_size: int,
    ) -> Tensor:
        assert world_size == 1
        ctx.save_for_backward(pos)
        out = global_output_buf.new_zeros(local_batch_size, global_output_buf.shape[1])
        return out.index_copy(0, pos, global_output_buf)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (pos,) = ctx.saved_tensors
        return grads[0][pos], None, None, None, None, None


class MOELinear(Function):
    @staticmethod
    def forward(
        ctx: Any,
        global_input_buf: Tensor,
        fwd_expert_count: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        ctx.save_for_backward(global_input_buf, fwd_expert_count, weight, bias)
        return Extension.linear_forward(global_input_buf, fwd_expert_count, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, count, weight, bias = ctx.saved_tensors
        grad, grad_weight, grad_bias = Extension.linear_backward(
            grads[0], rows, count, weight, bias
        )
        return grad, None, grad_weight, None if bias is None else grad_bias


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the adapter find this as fmoe, and take the CPU for the device it runs on."""
    functions, linear = ModuleType("fmoe.functions"), ModuleType("fmoe.linear")
    for place in (prepare_forward, MOEScatter, MOEGather):
        setattr(functions, place.__name__, place)
    linear.MOELinear = MOELinear  # type: ignore[attr-defined]
    for module in (ModuleType("fmoe"), functions, linear):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(fastmoe, "DEVICE", "cpu")
