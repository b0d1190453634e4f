"""All experts by fastmoe's CUDA kernels, dispatch included (He et al. 2103.13262).

The package is github.com/laekov/fastmoe at ee3c561, on no registry; `simsmoe doctor` says how to
build it. fastmoe dispatches tokens: prepare_forward counts and sorts them, MOEScatter brings each
to its experts, the function in FMoELinear multiplies the rows of all experts with weights
[N, out, in], and MOEGather brings rows back. FMoELinear itself would own the weights, in one
precision and under names that no other backend reads, so its function MOELinear is called with
ours. FMoETransformerMLP is not used: it has its own gate and loops over experts in Python.

This file checks what the kernels do not: they need CUDA memory (any other crashes the process) and
ignore strides, of gradients too. They take counts on the host, so every call waits on the device.
An expert's rows come in no fixed order, so sums over them (the gradients of weights) do not repeat
bit for bit.

Shapes: T tokens, D model width, N experts, K experts per token, R rows.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.errors import UserError
from simsmoe_cli.moe import dispatch
from simsmoe_cli.moe.experts.base import Experts

DEVICE = "cuda"
NO_EXPERT = -1  # in fastmoe's gates; N in ours


def missing() -> str:
    """Why fastmoe cannot run on this machine, in words; empty if it can.

    fmoe is imported only where there is CUDA.
    """
    if not torch.get_device_module(DEVICE).is_available():
        return "CUDA, and torch finds no CUDA device here"
    try:
        importlib.import_module("fmoe")
    except (ImportError, OSError) as error:
        return f"the package fmoe, and it cannot be imported here ({error})"
    return ""


class FastMoEExperts(Experts):
    """fastmoe's kernels, in one process; raises UserError where they cannot run."""

    def __init__(self, *args: Any, **options: Any):
        self.require(torch.device(DEVICE))
        super().__init__(*args, **options)
        self._functions = importlib.import_module("fmoe.functions")
        self._linear = importlib.import_module("fmoe.linear").MOELinear

    @classmethod
    def require(cls, device: torch.device) -> None:
        """Raise a UserError if there is no CUDA or no fmoe, or the device is another."""
        lacking = missing()
        if not lacking and device.type != DEVICE:
            lacking = f"CUDA, and the device is {device}"
        if lacking:
            raise UserError(
                f"fastmoe needs {lacking}",
                where="moe.backend",
                hint="Use auto (--experts auto); `simsmoe doctor` says what is missing and how "
                "to get it.",
            )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def compute(self, rows_RD: Tensor, count_N: Tensor, *, dropout: bool, partial: bool) -> Tensor:
        self._check(rows_RD)
        count_N = count_N.cpu()
        full = int(count_N.sum()) if partial else rows_RD.shape[0]
        rows_RD = rows_RD.to(self.matmul_dtype(rows_RD.device))
        out_RD = self._multiply(rows_RD[:full], count_N, dropout)
        if not partial:
            return out_RD
        return torch.cat([out_RD, out_RD.new_zeros(rows_RD.shape[0] - full, out_RD.shape[1])])

    @property
    def takes_further_rows(self) -> bool:
        """Never: fastmoe's kernels dispatch routed tokens alone."""
        return False

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def mixture(
        self, x_TD: Tensor, index_TK: Tensor, weight_TK: Tensor, *, partial: bool = False
    ) -> Tensor:
        self._check(x_TD)
        top_k, processes = index_TK.shape[1], 1
        gate_R = index_TK.flatten()
        if partial:
            gate_R = gate_R.masked_fill(gate_R == self.num_experts, NO_EXPERT)
        slot_R, here_N, everywhere_N, count_N, full = self._functions.prepare_forward(
            gate_R, self.num_experts, processes
        )
        rows_RD: Tensor = self._functions.MOEScatter.apply(
            x_TD.to(self.matmul_dtype(x_TD.device)),
            slot_R // top_k,
            here_N,
            everywhere_N,
            full,
            processes,
        )
        rows_RD = self._multiply(rows_RD, count_N, dropout=True)
        slots_RD: Tensor = self._functions.MOEGather.apply(
            rows_RD, slot_R, here_N, everywhere_N, gate_R.shape[0], processes
        )
        return dispatch.weighted_sum(slots_RD, weight_TK)

    def _check(self, rows: Tensor) -> None:
        if rows.device.type != DEVICE:
            self.require(rows.device)

    def _multiply(self, rows_RD: Tensor, count_N: Tensor, dropout: bool) -> Tensor:
        """Rows sorted by expert through theirs; counts on the host."""
        hidden = self.activate(self._product(rows_RD, count_N, self.w_in, self.b_in), dropout)
        return self._product(hidden, count_N, self.w_out, self.b_out)

    def _product(
        self, rows: Tensor, count_N: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        out: Tensor = self._linear.apply(
            rows.contiguous(),
            count_N,
            weight.to(rows.dtype),
            None if bias is None else bias.to(rows.dtype),
        )
        if out.requires_grad:
            out.register_hook(Tensor.contiguous)
        return out
