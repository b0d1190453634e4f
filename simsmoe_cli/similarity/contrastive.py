"""Similarity of two experts by contrast: are outputs on the same token closer than on different
tokens?

The contrastive losses of self-supervised learning are small when two views of one object are closer
than views of different objects. With experts as views and tokens as objects, each loss gives a
similarity T (x_i, y_i are the outputs on token i, c(a, b) the cosine, tau the temperature):

- `infonce` (van den Oord et al. 1807.03748, eq. 4): L = -mean log softmax_j(c(x_i, y_j) / tau)_i,
  T = 1 - L / log n: the bound log n - L on the mutual information, divided by its maximum log n.
- `directclr` (Jing et al. 2110.09348): infonce on the first features alone.
- `simclr_v2` (Chen et al. 2002.05709, 2006.10029, eq. 1), NT-Xent: each of the 2n outputs looks
  for its match among the 2n - 1 others, T = 1 - L / log(2n - 1).
- `simclr_v1`: the same with inner products for cosines.
- `dcl` (Yeh et al. 2110.06848, eq. 6): NT-Xent without the match in the denominator,
  T = tau (log(2n - 2) - L): the match's cosine less the soft maximum of the others'.
- `rince_v2` (Chuang et al. 2201.04309), robust: with s_ij = c(x_i, y_j) / tau, 0 < q <= 1,
  L = mean [-exp(q s_ii) / q + (lambda sum_j exp(s_ij))^q / q], T = -q exp(-q / tau) L.
- `rince_v1`: its symmetric case q = 1.
- `expert_confusion`: contrast across all experts of a layer at once.

T is a negative multiple of the paper's loss, shifted so that 0 means chance (outputs on one token
are no closer than on different ones; for rince with lambda = 1/n) and, at a small tau, equal
outputs give about 1, so a threshold T* within 0..1 makes sense for each. Largest values: 1, and 2
for dcl; smallest: -2 / (tau log n) for cosines, -2 for dcl, -(lambda n)^q for rince, unbounded for
simclr_v1. T is nan where *undefined*: fewer than 2 rows, or an expert that gives the same output
for all of them. Masks, gradients, shapes and precision are as in cka.py.

Departures. SimSMoE's published code has these losses under `--contrative_loss`. It adds infonce,
rince, simclr and directclr without a change of sign, which makes experts more similar, and changes
the sign only of dcl. Its rince takes outputs as logits, and its v1 and v2 are one formula. Its
simclr v1 uses inner products and v2 cosines; the names mean that here too, because the two papers
share one loss. Here a loss with a direction is averaged over both, so that T_ij = T_ji, and
negatives are rows of the pair, not of other ranks.

Shapes: n rows, d features, N experts, M experts that are defined.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from simsmoe_cli.similarity.standardise import (
    raw_rows,
    row_mean,
    standardise,
    unit_rows,
    whole_mask,
)

# Logit of a candidate outside the mask: finite, so that no gradient becomes nan.
_NEVER = -1e30
# Inner products of larger outputs would reach it.
_LARGEST = 1e12


def infonce(x: Tensor, y: Tensor, mask: Tensor | None = None, temperature: float = 0.1) -> Tensor:
    """1 - L / log n of InfoNCE with cosines.

    Args:
        x, y: outputs of two experts, [..., n, d].
        mask: rows to count, [..., n] bool.
        temperature: tau.

    Returns:
        [...] fp32, at most 1; nan where undefined.
    """
    with torch.autocast(x.device.type, enabled=False):
        mask = whole_mask(x, mask)
        cosine_nn, defined = _cosines(x, y, mask)
        logits_nn, allowed = cosine_nn / temperature, mask[..., None, :]
        both = (_log_sum(logits_nn, allowed) + _log_sum(logits_nn.mT, allowed)) / 2
        loss = row_mean(both - logits_nn.diagonal(0, -2, -1), mask)
        return torch.where(defined, 1 - loss / _log(mask.sum(-1)), torch.nan)


def directclr(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    temperature: float = 0.1,
    directclr_width: int = 0,
) -> Tensor:
    """`infonce` of the first `directclr_width` features; 0: the paper's share, 360 of 2048."""
    width = directclr_width or -(-x.shape[-1] * 360 // 2048)
    return infonce(x[..., :width], y[..., :width], mask, temperature)


def simclr_v1(x: Tensor, y: Tensor, mask: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """1 - L / log(2n - 1) of NT-Xent with inner products: the outputs' scale matters.

    Arguments and result as `infonce`; undefined for outputs above 1e12 too.
    """
    with torch.autocast(x.device.type, enabled=False):
        mask = whole_mask(x, mask)
        x, y = (torch.where(each.abs() < _LARGEST, each.float(), torch.nan) for each in (x, y))
        (x, x_varies), (y, y_varies) = raw_rows(x, mask), raw_rows(y, mask)
        return _nt_xent(x, y, mask, x_varies & y_varies, temperature)


def simclr_v2(x: Tensor, y: Tensor, mask: Tensor | None = None, temperature: float = 0.1) -> Tensor:
    """1 - L / log(2n - 1) of NT-Xent with cosines; arguments and result as `infonce`."""
    with torch.autocast(x.device.type, enabled=False):
        mask = whole_mask(x, mask)
        (x, x_varies), (y, y_varies) = unit_rows(x, mask), unit_rows(y, mask)
        return _nt_xent(x, y, mask, x_varies & y_varies, temperature)


def dcl(x: Tensor, y: Tensor, mask: Tensor | None = None, temperature: float = 0.1) -> Tensor:
    """tau (log(2n - 2) - L) of decoupled contrastive learning; arguments as `infonce`.

    Returns:
        [...] fp32 in -2..2; nan where undefined.
    """
    with torch.autocast(x.device.type, enabled=False):
        mask = whole_mask(x, mask)
        (x, x_varies), (y, y_varies) = unit_rows(x, mask), unit_rows(y, mask)
        loss = _among_views(x, y, mask, temperature, with_match=False)
        value = temperature * (_log(2 * mask.sum(-1) - 2) - loss)
        return torch.where(x_varies & y_varies, value, torch.nan)


def rince_v1(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    temperature: float = 0.1,
    rince_lambda: float = 0.025,
) -> Tensor:
    """The symmetric RINCE: `rince_v2` with q = 1."""
    return rince_v2(x, y, mask, temperature, rince_lambda, 1.0)


def rince_v2(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    temperature: float = 0.1,
    rince_lambda: float = 0.025,
    rince_q: float = 0.5,
) -> Tensor:
    """-q exp(-q / tau) L of RINCE.

    Args:
        x, y, mask, temperature: as for `infonce`.
        rince_lambda: weight of the candidates.
        rince_q: 1 is symmetric in match and candidates; near 0 it is InfoNCE.

    Returns:
        [...] fp32 in -(lambda n)^q..1; nan where undefined.
    """
    with torch.autocast(x.device.type, enabled=False):
        mask = whole_mask(x, mask)
        cosine_nn, defined = _cosines(x, y, mask)
        # Relative to a cosine of 1, nothing overflows.
        below_nn, allowed = (cosine_nn - 1) / temperature, mask[..., None, :]
        match = (rince_q * below_nn.diagonal(0, -2, -1)).exp()
        by_row, by_column = (
            (rince_q * (math.log(rince_lambda) + _log_sum(each, allowed))).exp()
            for each in (below_nn, below_nn.mT)
        )
        value = row_mean(match - (by_row + by_column) / 2, mask)
        return torch.where(defined, value, torch.nan)


def expert_confusion(outputs_Nnd: Tensor, temperature: float = 0.2) -> Tensor:
    """How hard it is to identify the expert of an output: InfoNCE across experts.

    For each token and expert, the anchor is the expert's output; candidates are the outputs of all
    experts on the same token, and the positive is the anchor itself:

        l_ti = -log [exp(c(z_ti, z_ti) / tau) / sum_j exp(c(z_ti, z_tj) / tau)],
        T_i  = mean_t l_ti / log M,

    0 where the other experts point elsewhere and 1 where all of them agree. This is InfoNCE's
    estimate of what an output says about its expert, given the token. Outputs z are centred over
    the tokens, as in CKA, so adding a constant to an expert does not make it different.

    Other positives are worse. An expert's outputs on other tokens would reward it for giving the
    same output on every token, which is collapse within the expert. A second pass with dropout (Gao
    et al. 2104.08821) needs dropout, and costs a pass.

    Args:
        outputs_Nnd: every expert on the same tokens.
        temperature: tau.

    Returns:
        T_i [N] fp32 in 0..1; nan for undefined experts, which are not candidates either, and for
        all if fewer than two are defined.
    """
    with torch.autocast(outputs_Nnd.device.type, enabled=False):
        mask = whole_mask(outputs_Nnd, None)
        z_Nnd, _, varies_N = standardise(outputs_Nnd, mask)
        z_nNd = unit_rows(z_Nnd, mask)[0].transpose(0, 1)
        logits_nNN = z_nNd @ z_nNd.mT / temperature
        loss_nN = _log_sum(logits_nNN, varies_N) - logits_nNN.diagonal(0, -2, -1)
        defined_N = varies_N & (varies_N.sum() >= 2)
        return torch.where(defined_N, loss_nN.mean(0) / _log(varies_N.sum()), torch.nan)


def _cosines(x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """c(x_i, y_j) [..., n, n], and where both experts are defined [...]."""
    (x, x_varies), (y, y_varies) = unit_rows(x, mask), unit_rows(y, mask)
    return x @ y.mT, x_varies & y_varies


def _log_sum(logits: Tensor, allowed: Tensor) -> Tensor:
    """log sum exp over the allowed candidates, the last dimension."""
    return logits.masked_fill(~allowed, _NEVER).logsumexp(-1)


def _log(count: Tensor) -> Tensor:
    """log of a number of candidates, at least log 2; results with fewer candidates are undefined
    anyway."""
    return count.clamp(min=2).float().log()


def _nt_xent(x: Tensor, y: Tensor, mask: Tensor, defined: Tensor, temperature: float) -> Tensor:
    loss = _among_views(x, y, mask, temperature, with_match=True)
    return torch.where(defined, 1 - loss / _log(2 * mask.sum(-1) - 1), torch.nan)


def _among_views(
    x: Tensor, y: Tensor, mask: Tensor, temperature: float, *, with_match: bool
) -> Tensor:
    """Mean over all 2n outputs of log sum exp(others / tau) - match / tau, [...].

    Args:
        with_match: whether the match counts among the others.
    """
    n = x.shape[-2]
    views = torch.cat([x, y], -2)
    logits = views @ views.mT / temperature
    index = torch.arange(2 * n, device=x.device)
    apart = index[:, None] - index
    allowed = apart != 0 if with_match else apart % n != 0
    log_sum = _log_sum(logits, allowed & torch.cat([mask, mask], -1)[..., None, :])
    return row_mean(log_sum.unflatten(-1, (2, n)).mean(-2) - logits.diagonal(n, -2, -1), mask)
