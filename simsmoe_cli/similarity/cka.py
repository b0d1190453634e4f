"""Similarity of two experts: centred kernel alignment (CKA) of their outputs on the same tokens.

CKA(K, L) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) for kernel matrices K, L over n rows.

- `linear_cka`: linear kernels, biased HSIC = tr(KHLH) (Kornblith et al. 1905.00414).
- `debiased_linear_cka`: linear kernels, unbiased HSIC_1 (Song et al. 2012, Nguyen et al.
  2010.15327). Near 0 for unrelated rows at any n, where the biased one is near 1 for n < d.
- `rbf_cka`: Gaussian kernels, biased HSIC; SimSMoE's measure (Do et al. 2406.15883).

Every measure takes x [..., n, d1], y [..., n, d2] and mask [..., n] (rows to count; None: all) and
gives [...] in fp32, nan where it is *undefined*: too few rows, or an expert that gives the same
output for all of them. Rows outside the mask, and all rows of undefined entries, get a gradient of
exactly 0; the others a finite one. Result shapes depend on input shapes only and nothing waits on
the device, so a step can compute all its pairs in one batched, compiled call.

Departures from published code: rows are centred and scaled before anything is squared. CKA stays
the same, but in fp32 the sums of the feature form no longer cancel or overflow. Scales are
detached; this does not change the gradient, because the scale drops out of the formula.

Where the rows are spread over ranks, `total` adds up the ranks' tensors; `hsic_ratio.py` says what
CKA is then.

Shapes: n rows, d features, N experts, T tokens, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from simsmoe_cli.similarity.hsic_ratio import (
    BIASED_ROWS,
    DEBIASED_ROWS,
    Total,
    biased_share,
    debiased_share,
    matrix,
    matrix_of_totals,
    ratio,
    ratio_of_totals,
)
from simsmoe_cli.similarity.standardise import ROUNDING, standardise, whole_mask

# Below this share of ||K||_F^2, HSIC_1(K, K) is only the rounding error of a cancellation.
_CANCELLED = 1e-5
# Largest |rows|^2 / (2 sigma^2): with a narrower kernel, equal rows would differ in fp32.
_NARROWEST = 1e5
# Entries of the largest temporary of the pairwise linear CKAs (32 MiB in fp32).
_CHUNK = 2**23


def linear_cka(
    x: Tensor, y: Tensor, mask: Tensor | None = None, *, total: Total | None = None
) -> Tensor:
    """Biased linear CKA, ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) with centred columns.

    Args:
        x, y: outputs of two experts, [..., n, d1] and [..., n, d2].
        mask: rows to count, [..., n] bool.
        total: adds up the ranks' tensors; None: these are all rows.

    Returns:
        [...] fp32 in 0..1; nan where undefined (fewer than 3 rows, or constant rows).
    """
    with torch.autocast(x.device.type, enabled=False):
        mask = whole_mask(x, mask)
        x, x_norm, x_varies = standardise(x, mask)
        y, y_norm, y_varies = standardise(y, mask)
        rows = mask.sum(-1)
        xy, xx, yy = _inner_products(x, y)
        if total is not None:
            share = biased_share(rows)
            return ratio_of_totals(total, share, x_norm, y_norm, xy, xx, yy)
        return ratio(xy, xx, yy, (rows >= BIASED_ROWS) & x_varies & y_varies)


def debiased_linear_cka(
    x: Tensor, y: Tensor, mask: Tensor | None = None, *, total: Total | None = None
) -> Tensor:
    """Linear CKA from the unbiased HSIC_1, in feature or Gram form, whichever is cheaper.

    Args:
        x, y: outputs of two experts, [..., n, d1] and [..., n, d2].
        mask: rows to count, [..., n] bool.
        total: adds up the ranks' tensors; None: these are all rows.

    Returns:
        [...] fp32, at most 1, slightly negative at times; nan where undefined (fewer than 4
        rows, constant rows, or rows of which all but one are equal).
    """
    with torch.autocast(x.device.type, enabled=False):
        mask = whole_mask(x, mask)
        x, x_norm, x_varies = standardise(x, mask)
        y, y_norm, y_varies = standardise(y, mask)
        rows = mask.sum(-1)
        xy, xx, yy = _inner_products(x, y)
        k, m = x.square().sum(-1), y.square().sum(-1)
        hsic_xx = _unbiased(xx, k.square().sum(-1), k.sum(-1).square(), rows)
        hsic_yy = _unbiased(yy, m.square().sum(-1), m.sum(-1).square(), rows)
        hsic_xy = _unbiased(xy, (k * m).sum(-1), k.sum(-1) * m.sum(-1), rows)
        least_xx, least_yy = _CANCELLED * xx, _CANCELLED * yy
        if total is not None:
            share = debiased_share(rows)
            hsic = hsic_xy, hsic_xx, hsic_yy, least_xx.detach(), least_yy.detach()
            return ratio_of_totals(total, share, x_norm, y_norm, *hsic)
        defined = (rows >= DEBIASED_ROWS) & x_varies & y_varies
        defined = defined & (hsic_xx > least_xx) & (hsic_yy > least_yy)
        return ratio(hsic_xy, hsic_xx, hsic_yy, defined)


def rbf_cka(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    sigma: float | Literal["median"] = 0.8,
    *,
    total: Total | None = None,
) -> Tensor:
    """Biased CKA with kernels exp(-|a - b|^2 / (2 sigma^2)).

    Args:
        x, y: outputs of two experts, [..., n, d1] and [..., n, d2].
        mask: rows to count, [..., n] bool.
        sigma: the bandwidth, or "median": for each side the median distance between its rows,
            as a constant to the gradient.
        total: adds up the ranks' tensors; None: these are all rows. Needs a sigma in numbers, as
            kernels of different bandwidths do not add up.

    Returns:
        [...] fp32 in 0..1; nan where undefined (fewer than 3 rows, constant rows, or a median
        distance of 0).
    """
    with torch.autocast(x.device.type, enabled=False):
        mask = whole_mask(x, mask)
        k, x_peak, x_varies = _centred_gaussian(x, mask, sigma)
        m, y_peak, y_varies = _centred_gaussian(y, mask, sigma)
        rows = mask.sum(-1)
        xy, xx, yy = ((a * b).sum((-2, -1)) for a, b in ((k, m), (k, k), (m, m)))
        if total is not None:
            share = biased_share(rows)
            return ratio_of_totals(total, share, x_peak.sqrt(), y_peak.sqrt(), xy, xx, yy)
        return ratio(xy, xx, yy, (rows >= BIASED_ROWS) & x_varies & y_varies)


def pairwise_linear_cka(outputs_NTD: Tensor, *, total: Total | None = None) -> Tensor:
    """Biased linear CKA of all pairs of experts on the same T tokens, as one matrix.

    All pairs come out of a few large products, in Gram form (N matrices T x T, flattened) or
    feature form (D x D per pair) by cost, in chunks that bound the memory.

    Args:
        outputs_NTD: every expert on the same tokens.
        total: adds up the ranks' tensors; None: these are all tokens.

    Returns:
        [N, N] fp32, symmetric; diagonal 1; rows and columns of undefined experts are nan.
    """
    with torch.autocast(outputs_NTD.device.type, enabled=False):
        mask = whole_mask(outputs_NTD, None)
        x_NTD, norm_N, varies_N = standardise(outputs_NTD, mask)
        hsic_NN = _frobenius(x_NTD)
        if total is not None:
            return matrix_of_totals(total, biased_share(mask.sum(-1)), norm_N, hsic_NN)
        return matrix(hsic_NN, varies_N & (x_NTD.shape[1] >= BIASED_ROWS))


def pairwise_debiased_cka(outputs_NTD: Tensor, *, total: Total | None = None) -> Tensor:
    """Debiased linear CKA of all pairs, as `pairwise_linear_cka` gives the biased one."""
    tokens = outputs_NTD.shape[1]
    with torch.autocast(outputs_NTD.device.type, enabled=False):
        mask = whole_mask(outputs_NTD, None)
        x_NTD, norm_N, varies_N = standardise(outputs_NTD, mask)
        frobenius_NN = _frobenius(x_NTD)
        k_NT = x_NTD.square().sum(-1)
        sum_N, rows_N = k_NT.sum(-1), mask.sum(-1)
        hsic_NN = _unbiased(frobenius_NN, k_NT @ k_NT.T, sum_N.outer(sum_N), rows_N)
        least_N = _CANCELLED * frobenius_NN.diagonal().detach()
        if total is not None:
            return matrix_of_totals(total, debiased_share(rows_N), norm_N, hsic_NN, least_N)
        cancelled_N = hsic_NN.diagonal() <= least_N
        return matrix(hsic_NN, varies_N & ~cancelled_N & (tokens >= DEBIASED_ROWS))


def pairwise_rbf_cka(
    outputs_NTD: Tensor,
    sigma: float | Literal["median"] = 0.8,
    *,
    total: Total | None = None,
) -> Tensor:
    """Biased CKA with Gaussian kernels of all pairs, as `pairwise_linear_cka` gives the linear one.

    N kernels of T x T, flattened, and one product.
    """
    rows = outputs_NTD.shape[1]
    with torch.autocast(outputs_NTD.device.type, enabled=False):
        step = max(1, _CHUNK // (rows * max(rows, outputs_NTD.shape[2])))
        made = [
            _centred_gaussian(part_NTD, whole_mask(part_NTD, None), sigma)
            for part_NTD in outputs_NTD.split(step)
        ]
        kernel_NS = torch.cat([kernel_NTT.flatten(1) for kernel_NTT, _, _ in made])
        peak_N, varies_N = (torch.cat([part[index] for part in made]) for index in (1, 2))
        hsic_NN = kernel_NS @ kernel_NS.T
        if total is not None:
            share_N = biased_share(torch.full_like(peak_N, rows))
            return matrix_of_totals(total, share_N, peak_N.sqrt(), hsic_NN)
        return matrix(hsic_NN, varies_N & (rows >= BIASED_ROWS))


def _frobenius(x_NTD: Tensor) -> Tensor:
    """<K_i, K_j> of the linear kernels of all pairs, [N, N]."""
    num_experts, tokens, width = x_NTD.shape
    if tokens * (width + num_experts) < num_experts * width * width:
        return _pairwise_by_gram(x_NTD)
    return _pairwise_by_features(x_NTD)


def _inner_products(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """<K, L>, <K, K>, <L, L> of the linear kernels K = X X^T and L = Y Y^T, each [...]."""
    n, d1, d2 = x.shape[-2], x.shape[-1], y.shape[-1]
    if n * (d1 + d2) < d1 * d2 + d1 * d1 + d2 * d2:
        k, m = x @ x.mT, y @ y.mT
        xy, xx, yy = k * m, k.square(), m.square()
    else:
        xy, xx, yy = (x.mT @ y).square(), (x.mT @ x).square(), (y.mT @ y).square()
    return xy.sum((-2, -1)), xx.sum((-2, -1)), yy.sum((-2, -1))


def _unbiased(inner: Tensor, diagonals: Tensor, traces: Tensor, rows: Tensor) -> Tensor:
    """n(n-3) HSIC_1 of linear kernels K, L over centred rows.

    HSIC_1 (Song et al. 2012) uses r_x, the row sums of K without its diagonal k_x, and t, the inner
    product of K and L without their diagonals:

        t + (sum r_x)(sum r_y)/((n-1)(n-2)) - 2/(n-2) r_x.r_y

    With centred rows the row sums of K are 0, so r_x = -k_x, which gives the formula
    below.

    Args:
        inner: <K, L>.
        diagonals: k.m, the product of the two diagonals.
        traces: (sum k)(sum m).
        rows: n, the number of rows.
    """
    n = rows.clamp(min=DEBIASED_ROWS).float()
    return inner - n / (n - 2) * diagonals + traces / ((n - 1) * (n - 2))


def _centred_gaussian(
    x: Tensor, mask: Tensor, sigma: float | Literal["median"]
) -> tuple[Tensor, Tensor, Tensor]:
    """H K H of the Gaussian kernel, scaled to a largest entry of 1; what it was divided by; and
    whether it is defined.

    K - 1 is used instead of K: centring removes the constant, and entries near 1 (rows that are
    close compared with sigma) keep their precision.
    """
    x, norm, defined = standardise(x, mask)
    both = mask[..., :, None] & mask[..., None, :]
    squares = x.square().sum(-1)
    distance = squares[..., :, None] + squares[..., None, :] - 2 * (x @ x.mT)
    apart = both & ~torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
    distance = torch.where(apart, distance.clamp(min=0), 0.0)
    if sigma == "median":
        median = _median(distance.detach(), apart)
        defined = defined & (median > ROUNDING)
        narrowness = 1 / (2 * torch.where(defined, median, 1.0))
    else:
        narrowness = (norm / sigma).square() / 2
    exponent = distance * narrowness.clamp(max=_NARROWEST)[..., None, None]
    kernel = torch.expm1(-exponent)
    peak = kernel.detach().abs().amax((-2, -1), keepdim=True)
    scale = torch.where(peak > 0, peak, 1.0)
    kernel = torch.where(both, kernel, 0.0) / scale
    rows = mask.sum(-1).clamp(min=1)[..., None, None]
    row_mean = kernel.sum(-1, keepdim=True) / rows
    centred = kernel - row_mean - row_mean.mT + row_mean.sum(-2, keepdim=True) / rows
    varies = defined & (peak > 0)[..., 0, 0]
    return torch.where(both, centred, 0.0), scale[..., 0, 0], varies


def _median(values: Tensor, mask: Tensor) -> Tensor:
    """Lower median of the entries [..., n, n] inside the mask; +inf where there are none."""
    ordered = torch.where(mask, values, torch.inf).flatten(-2).sort(-1).values
    middle = (mask.sum((-2, -1)) - 1).clamp(min=0) // 2
    return ordered.gather(-1, middle[..., None])[..., 0]


def _pairwise_by_gram(x_NTD: Tensor) -> Tensor:
    """<K_i, K_j> for all pairs: products of flattened Gram matrices, some of their rows at once.

    The matrices are symmetric, so entries to the right of a diagonal block count twice.
    """
    num_experts, tokens, _ = x_NTD.shape
    step = max(1, _CHUNK // (num_experts * tokens))
    total_NN = x_NTD.new_zeros(num_experts, num_experts)
    for start in range(0, tokens, step):
        block_NRD = x_NTD[:, start : start + step]
        diagonal_NS = (block_NRD @ block_NRD.mT).flatten(1)
        right_NS = (block_NRD @ x_NTD[:, start + step :].mT).flatten(1)
        total_NN = total_NN + diagonal_NS @ diagonal_NS.T + 2 * (right_NS @ right_NS.T)
    return total_NN


def _pairwise_by_features(x_NTD: Tensor) -> Tensor:
    """||X_i^T X_j||_F^2 for all pairs, some experts i at once."""
    num_experts, tokens, width = x_NTD.shape
    x_TE = x_NTD.transpose(0, 1).reshape(tokens, num_experts * width)
    step = max(1, _CHUNK // (num_experts * width * width))
    parts = [
        (part_TE.T @ x_TE).view(-1, width, num_experts, width).square().sum((1, 3))
        for part_TE in torch.split(x_TE, step * width, dim=1)
    ]
    return torch.cat(parts)
