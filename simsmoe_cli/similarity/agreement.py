"""Similarity of two experts by agreement: do their outputs on the same token have the same
direction?

With x_i, y_i the outputs on token i, u_i, v_i the same divided by their norms, d features:

- `cosine`: T = mean u_i.v_i, in -1..1.
- `absolute_cosine`: T = mean |u_i.v_i|, in 0..1.
- `byol` (Grill et al. 2006.07733, eq. 2): L = mean |u_i - v_i|^2 with no gradient into one side,
  averaged over both; T = 1 - L / 2. That is the cosine with half its gradient.
- `hypersphere` (Wang and Isola 2005.10242, section 4.1): L = mean |u_i - v_i|^2
  + w (U(u) + U(v)) / 2, U(u) = log mean_{i<j} exp(-t |u_i - u_j|^2); T = -L / 2.
- `tico` (Zhu et al. 2206.10698): L = mean |u_i - v_i|^2 / 2 + w mean u_i^T C u_i with
  C = mean u_i u_i^T, so the last is the mean squared cosine between rows; T = 1 - L.
- `barlow_twins` (Zbontar et al. 2103.03230, eq. 1): with C the correlations between features of
  the two, L = sum_a (1 - C_aa)^2 + w sum_{a != b} C_ab^2; T = 1 - L / d.

Equal outputs give 1 (hypersphere, tico, barlow_twins: about 1 if they are spread out and their
features uncorrelated, else less) and unrelated outputs about 0, so a threshold T* within 0..1 makes
sense. Smallest values: -2 for hypersphere (largest w n / (n - 1)), -1 - w for tico,
-3 - w (d - 1) for barlow_twins. T is nan where *undefined*: fewer than 2 rows, or an expert that
gives the same output for all of them. A row of zeros has a cosine of 0 with every row. Masks,
gradients, shapes and precision are as in cka.py.

SimSMoE's published code has these under `--contrative_loss` (byol and barlow_twins cannot be chosen
there), with the same signs as here. Departures from the papers: hypersphere has t = 1, as in the
published code, so that T is 0 for unrelated experts. tico is symmetric and keeps no average of C
over steps, because every step measures other pairs; its weight w is 1, not the paper's 8 or the
published code's 20, which would put experts with equal outputs below 0. byol has no predictor and
no slow copy, because neither expert is the teacher of the other.

Shapes: n rows, d features, N experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simsmoe_cli.similarity.standardise import row_mean, standard_columns, unit_rows, whole_mask


def cosine(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean cosine of the outputs on the same token.

    Args:
        x, y: outputs of two experts, [..., n, d].
        mask: rows to count, [..., n] bool.

    Returns:
        [...] fp32 in -1..1; nan where undefined.
    """
    with torch.autocast(x.device.type, enabled=False):
        u, v, mask, defined = _unit(x, y, mask)
        return torch.where(defined, row_mean((u * v).sum(-1), mask), torch.nan)


def absolute_cosine(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute cosine, in 0..1; arguments and result as `cosine`."""
    with torch.autocast(x.device.type, enabled=False):
        u, v, mask, defined = _unit(x, y, mask)
        return torch.where(defined, row_mean((u * v).sum(-1).abs(), mask), torch.nan)


def byol(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - L / 2 of BYOL, both sides in turn the target; arguments and result as `cosine`."""
    with torch.autocast(x.device.type, enabled=False):
        u, v, mask, defined = _unit(x, y, mask)
        both = ((u * v.detach()).sum(-1) + (u.detach() * v).sum(-1)) / 2
        return torch.where(defined, row_mean(both, mask), torch.nan)


def hypersphere(
    x: Tensor, y: Tensor, mask: Tensor | None = None, spread_weight: float = 1.0
) -> Tensor:
    """-L / 2 of alignment and uniformity: closer on the same token than on different ones.

    Args:
        x, y, mask: as for `cosine`.
        spread_weight: w, of the uniformity.

    Returns:
        [...] fp32 in -2..w n / (n - 1); nan where undefined.
    """
    with torch.autocast(x.device.type, enabled=False):
        u, v, mask, defined = _unit(x, y, mask)
        alignment = row_mean((u - v).square().sum(-1), mask)
        uniformity = (_uniformity(u, mask) + _uniformity(v, mask)) / 2
        return torch.where(defined, -(alignment + spread_weight * uniformity) / 2, torch.nan)


def tico(x: Tensor, y: Tensor, mask: Tensor | None = None, spread_weight: float = 1.0) -> Tensor:
    """1 - L of transformation invariance and covariance contrast.

    Args:
        x, y, mask: as for `cosine`.
        spread_weight: w, of the covariance term (the paper's rho).

    Returns:
        [...] fp32 in -1 - w..1; nan where undefined.
    """
    with torch.autocast(x.device.type, enabled=False):
        u, v, mask, defined = _unit(x, y, mask)
        spread = (_squared_cosine(u, mask) + _squared_cosine(v, mask)) / 2
        value = row_mean((u * v).sum(-1), mask) - spread_weight * spread
        return torch.where(defined, value, torch.nan)


def barlow_twins(
    x: Tensor, y: Tensor, mask: Tensor | None = None, spread_weight: float = 5e-3
) -> Tensor:
    """1 - L / d of Barlow Twins.

    A constant feature of an expert has a correlation of 0 with every feature.

    Args:
        x, y, mask: as for `cosine`.
        spread_weight: w, of the redundancy term (the paper's lambda).

    Returns:
        [...] fp32 in -3 - w (d - 1)..1; nan where undefined.
    """
    with torch.autocast(x.device.type, enabled=False):
        mask = whole_mask(x, mask)
        (x, x_varies), (y, y_varies) = standard_columns(x, mask), standard_columns(y, mask)
        correlation_dd = x.mT @ y / mask.sum(-1).clamp(min=1)[..., None, None]
        same_d = correlation_dd.diagonal(0, -2, -1)
        redundancy = correlation_dd.square().sum((-2, -1)) - same_d.square().sum(-1)
        loss = (1 - same_d).square().sum(-1) + spread_weight * redundancy
        return torch.where(x_varies & y_varies, 1 - loss / x.shape[-1], torch.nan)


def pairwise_cosine(outputs_Nnd: Tensor) -> Tensor:
    """`cosine` of all pairs of experts on the same tokens, [N, N]; nan where undefined.

    One batched product instead of N(N-1)/2 pairs, as for the other `pairwise_` measures.
    """
    with torch.autocast(outputs_Nnd.device.type, enabled=False):
        u_Nnd, defined_NN = _all_units(outputs_Nnd)
        return torch.where(defined_NN, _row_cosines(u_Nnd, u_Nnd).mean(0), torch.nan)


def pairwise_absolute_cosine(outputs_Nnd: Tensor) -> Tensor:
    """`absolute_cosine` of all pairs, [N, N]."""
    with torch.autocast(outputs_Nnd.device.type, enabled=False):
        u_Nnd, defined_NN = _all_units(outputs_Nnd)
        return torch.where(defined_NN, _row_cosines(u_Nnd, u_Nnd).abs().mean(0), torch.nan)


def pairwise_byol(outputs_Nnd: Tensor) -> Tensor:
    """`byol` of all pairs, [N, N]."""
    with torch.autocast(outputs_Nnd.device.type, enabled=False):
        u_Nnd, defined_NN = _all_units(outputs_Nnd)
        one_way_NN = _row_cosines(u_Nnd, u_Nnd.detach()).mean(0)
        return torch.where(defined_NN, (one_way_NN + one_way_NN.T) / 2, torch.nan)


def pairwise_hypersphere(outputs_Nnd: Tensor, spread_weight: float = 1.0) -> Tensor:
    """`hypersphere` of all pairs, [N, N]."""
    with torch.autocast(outputs_Nnd.device.type, enabled=False):
        u_Nnd, defined_NN = _all_units(outputs_Nnd)
        square_N = u_Nnd.square().sum(-1).mean(-1)
        uniformity_N = _uniformity(u_Nnd, whole_mask(u_Nnd, None))
        own_N = square_N + spread_weight * uniformity_N / 2
        value_NN = _row_cosines(u_Nnd, u_Nnd).mean(0) - (own_N[:, None] + own_N) / 2
        return torch.where(defined_NN, value_NN, torch.nan)


def pairwise_tico(outputs_Nnd: Tensor, spread_weight: float = 1.0) -> Tensor:
    """`tico` of all pairs, [N, N]."""
    with torch.autocast(outputs_Nnd.device.type, enabled=False):
        u_Nnd, defined_NN = _all_units(outputs_Nnd)
        own_N = spread_weight * _squared_cosine(u_Nnd, whole_mask(u_Nnd, None))
        value_NN = _row_cosines(u_Nnd, u_Nnd).mean(0) - (own_N[:, None] + own_N) / 2
        return torch.where(defined_NN, value_NN, torch.nan)


def _all_units(outputs_Nnd: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows of all experts, and which pairs are defined."""
    u_Nnd, varies_N = unit_rows(outputs_Nnd, whole_mask(outputs_Nnd, None))
    return u_Nnd, varies_N[:, None] & varies_N


def _row_cosines(u_Nnd: Tensor, v_Nnd: Tensor) -> Tensor:
    """u_i.v_j on each token, for all pairs of experts, [n, N, N]."""
    return u_Nnd.transpose(0, 1) @ v_Nnd.permute(1, 2, 0)


def _unit(x: Tensor, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u, v, the mask, and where both experts are defined [...]."""
    mask = whole_mask(x, mask)
    (u, u_varies), (v, v_varies) = unit_rows(x, mask), unit_rows(y, mask)
    return u, v, mask, u_varies & v_varies


def _uniformity(u: Tensor, mask: Tensor) -> Tensor:
    """log mean over pairs of different rows of exp(-|u_i - u_j|^2), [...]."""
    rows = mask.sum(-1).clamp(min=2).float()
    square = u.square().sum(-1)
    distance = square[..., :, None] + square[..., None, :] - 2 * u @ u.mT
    other = ~torch.eye(u.shape[-2], dtype=torch.bool, device=u.device)
    pair = mask[..., :, None] & mask[..., None, :] & other
    near = torch.where(pair, -distance, -1e30).flatten(-2).logsumexp(-1)
    return near - (rows * (rows - 1)).log()


def _squared_cosine(u: Tensor, mask: Tensor) -> Tensor:
    """mean u_i^T C u_i = |U^T U|_F^2 / n^2, from the smaller of U^T U and U U^T, [...]."""
    product = u @ u.mT if u.shape[-2] < u.shape[-1] else u.mT @ u
    return product.square().sum((-2, -1)) / mask.sum(-1).clamp(min=1).square()
