"""Sorts tokens by expert and combines the experts' outputs, with one sort.

Further rows, which take no part in any token's output, can travel with the routed ones: similarity
learning needs experts' outputs on tokens of its own choice, and one product of all rows is cheaper
than two, because the gradient of all experts' weights is then written once. These rows come after
the routed slots, and their tokens get no gradient.

Rows are sorted by expert, so an expert backend sees contiguous groups and needs no capacity: no
token is dropped. Gathering and combining are permutations. Their backward passes gather in the
opposite direction, so no atomic additions are needed and results do not depend on the order in
which threads finish.

Shapes: T tokens, D model width, N experts, K experts per token, F further rows, R = T*K + F rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simsmoe_cli.kernels.cpu import on_cpu_path


class FurtherRows(NamedTuple):
    """Rows beside the routed ones.

    Attributes:
        expert_F: the expert of each, int64.
        token_F: the token that it is given, int64.
    """

    expert_F: Tensor
    token_F: Tensor


@dataclass
class Plan:
    """The order of rows after sorting by expert.

    Attributes:
        order_R: slot of each sorted row: token * K + rank; from T * K on, further rows.
        inverse_R: sorted row of each slot.
        count_N: rows of each expert, int64; their sum is R, or less if slots are empty.
        top_k: slots of a token, K.
        partial: whether slots may be empty.
        further: the further rows, if there are any.
    """

    order_R: Tensor
    inverse_R: Tensor
    count_N: Tensor
    top_k: int
    partial: bool
    further: FurtherRows | None = None


def plan(
    index_TK: Tensor,
    num_experts: int,
    *,
    partial: bool = False,
    further: FurtherRows | None = None,
) -> Plan:
    """Sort the routed slots, and further rows, by expert.

    Args:
        index_TK: chosen experts; N for an empty slot, which sorts last.
        num_experts: N.
        partial: whether slots may be empty.
        further: rows beside those of the routed slots.
    """
    index_R = index_TK.flatten()
    if further is not None:
        index_R = torch.cat([index_R, further.expert_F])
    sorted_R, order_R = index_R.sort(stable=True)
    inverse_R = torch.empty_like(order_R).scatter_(
        0, order_R, torch.arange(order_R.shape[0], device=order_R.device)
    )
    ids_N = torch.arange(num_experts, device=sorted_R.device)
    ends_N = torch.searchsorted(sorted_R, ids_N, right=True)
    count_N = ends_N.diff(prepend=ends_N.new_zeros(1))
    return Plan(order_R, inverse_R, count_N, index_TK.shape[1], partial, further)


class _Gather(torch.autograd.Function):
    """rows_R = x_T[token_R]; only routed rows give tokens a gradient."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, token_R: Tensor, inverse_R: Tensor, top_k: int) -> Tensor:
        ctx.slots = x_TD.shape[0], top_k
        ctx.save_for_backward(inverse_R[: x_TD.shape[0] * top_k])
        return x_TD.index_select(0, token_R)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (row_S,) = ctx.saved_tensors
        rows_TKD = grads[0].index_select(0, row_S).unflatten(0, ctx.slots)
        return rows_TKD.sum(1), None, None, None


class _Permute(torch.autograd.Function):
    """rows[order], where inverse undoes order."""

    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, order_R: Tensor, inverse_R: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_R)
        return rows_RD.index_select(0, order_R)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inverse_R,) = ctx.saved_tensors
        return grads[0].index_select(0, inverse_R), None, None


class _Combine(torch.autograd.Function):
    """`combine` on a CPU, without the rows in the order of slots."""

    @staticmethod
    def forward(
        ctx: Any, rows_RD: Tensor, weight_TK: Tensor, order_R: Tensor, inverse_R: Tensor
    ) -> Tensor:
        ctx.save_for_backward(rows_RD, weight_TK, order_R, inverse_R)
        slot_KT, weight_KT1 = inverse_R.view(weight_TK.shape).T, weight_TK.T[..., None]
        out_TD = rows_RD.index_select(0, slot_KT[0]).mul_(weight_KT1[0])
        for slot_T, weight_T1 in zip(slot_KT[1:], weight_KT1[1:], strict=True):
            out_TD.addcmul_(rows_RD.index_select(0, slot_T), weight_T1)
        return out_TD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows_RD, weight_TK, order_R, inverse_R = ctx.saved_tensors
        weight_R1 = weight_TK.flatten()[order_R, None]
        d_rows_RD = grad_TD.index_select(0, order_R // weight_TK.shape[1])
        d_weight_R = (d_rows_RD * rows_RD).sum(-1)
        d_weight_TK = d_weight_R[inverse_R].view_as(weight_TK)
        return d_rows_RD.mul_(weight_R1), d_weight_TK, None, None


# Typed in some versions of torch and not in others.
_gather: Callable[..., Tensor] = _Gather.apply
_permute: Callable[..., Tensor] = _Permute.apply
_combine: Callable[..., Tensor] = _Combine.apply


def permute(rows_RD: Tensor, order_R: Tensor, inverse_R: Tensor) -> Tensor:
    """rows[order_R], where inverse_R undoes order_R: [R, D]."""
    return _permute(rows_RD, order_R, inverse_R)


def gather(x_TD: Tensor, plan: Plan) -> Tensor:
    """The rows of all experts, one for each slot and each further row, sorted by expert: [R, D]."""
    token_R = plan.order_R // plan.top_k
    if plan.further is not None:
        slots = x_TD.shape[0] * plan.top_k
        number_R = (plan.order_R - slots).clamp(min=0)
        further_R = plan.further.token_F.index_select(0, number_R)
        token_R = torch.where(plan.order_R < slots, token_R, further_R)
    return _gather(x_TD, token_R, plan.inverse_R, plan.top_k)


def combine(rows_RD: Tensor, weight_TK: Tensor, plan: Plan) -> Tensor:
    """Sum over a token's experts of weight times row: [T, D], in the precision of the rows."""
    if on_cpu_path(rows_RD) and rows_RD.dtype == weight_TK.dtype:
        return _combine(rows_RD, weight_TK, plan.order_R, plan.inverse_R)
    return weighted_sum(permute(rows_RD, plan.inverse_R, plan.order_R), weight_TK)


def combine_and_rest(rows_RD: Tensor, weight_TK: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """As `combine`, and the outputs of the further rows, [F, D]."""
    slots_RD = permute(rows_RD, plan.inverse_R, plan.order_R)
    routed = weight_TK.numel()
    slots_SD, rest_FD = slots_RD.split([routed, slots_RD.shape[0] - routed])
    return weighted_sum(slots_SD, weight_TK), rest_FD


def weighted_sum(slots_RD: Tensor, weight_TK: Tensor) -> Tensor:
    """As `combine`, for rows in the order of slots (token * K + rank)."""
    rows_TKD: Tensor = slots_RD.unflatten(0, weight_TK.shape)
    weight_TK = weight_TK.to(rows_TKD.dtype)
    if torch.compiler.is_compiling():
        # One pass that reads each row where it is, and adds up in fp32 as a product does. For a
        # product, rows are first written in the order of slots, and kept for the backward pass.
        exact = torch.promote_types(rows_TKD.dtype, torch.float32)
        return (weight_TK.to(exact).unsqueeze(-1) * rows_TKD).sum(1).to(rows_TKD.dtype)
    return (weight_TK.unsqueeze(1) @ rows_TKD).squeeze(1)
