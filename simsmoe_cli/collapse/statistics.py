"""Numbers of the report that need more than one look: intervals, nulls, ranks, matched weights.

- `cka_with_interval`: linear CKA of all pairs (HSIC_1 of Song et al. 2012; METHODS section 4) and a
  block bootstrap of it. Rows of a text are not independent, so runs of neighbouring rows are drawn
  and not rows. Nothing is computed again: one pass over the Gram matrices gives HSIC_1 without each
  block in turn; the bootstrap draws blocks, adds their influences (jackknife) to HSIC_1, then takes
  the ratio. Drawing rows with repetition instead would pair a row with its own copy, which is the
  bias that the debiased estimator is free of.
- `shuffled`: the null: rows of each expert in an order of its own.
- `effective_rank`: Roy and Vetterli 2007.
- `matched_units`: weights compared unit by unit, whatever the order of hidden units.

Shapes: N experts, T rows, D features, B blocks, S resamples, H hidden units, F weights of a unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simsmoe_cli.similarity.cka import debiased_linear_cka
from simsmoe_cli.similarity.rows import standardise, whole_mask

FEWEST_ROWS = 4  # HSIC_1 of three rows is 0/0
FEWEST_SHARED = 32  # rows: debiased CKA of fewer says little
FEWEST_BLOCKS = 4  # an interval from fewer says nothing
NULL_BLOCKS = 16  # of a pass that wants no interval: they only bound the memory
CANCELLED = 1e-5  # HSIC_1(K, K) / |K|^2 below which only rounding is left, as in similarity/cka.py


@dataclass(frozen=True)
class PairwiseCka:
    """Linear CKA of all pairs, [N, N] fp64; nan where undefined.

    Attributes:
        debiased, biased: the two estimators.
        low, high: interval of the debiased; nan without resamples, with fewer than 4 blocks, or
            where one block holds all the variance of an expert: resamples without it have none.
        mean: (value, low, high) of the mean over pairs of the debiased.
    """

    debiased: Tensor
    biased: Tensor
    low: Tensor
    high: Tensor
    mean: tuple[float, float, float]


def cka_with_interval(
    outputs_NTD: Tensor, blocks: int, resamples: int, level: float, generator: torch.Generator
) -> PairwiseCka:
    """Debiased and biased linear CKA of all pairs and an interval of the debiased one.

    Args:
        outputs_NTD: every expert's outputs on the same rows, neighbours in the text side by side.
        blocks: runs of neighbouring rows to draw from; at most T / 4.
        resamples: S; 0: no interval.
        level: of the percentile interval, as 0.95.
        generator: on the CPU.
    """
    x_NTD, _, varies_N = standardise(outputs_NTD, whole_mask(outputs_NTD, None))
    experts, rows, _ = x_NTD.shape
    parts = list(torch.tensor_split(x_NTD, max(1, min(blocks, rows // FEWEST_ROWS)), dim=1))
    own_BNN, row_BNN = _gram_products(parts)
    frobenius_NN = row_BNN.sum(0)
    k_NT = x_NTD.square().sum(-1).double().cpu()
    hsic_NN = _hsic(frobenius_NN, k_NT, -k_NT)
    varies_N = varies_N.cpu() & (rows >= FEWEST_ROWS)
    cancelled_N = hsic_NN.diagonal() <= CANCELLED * frobenius_NN.diagonal() / rows**2
    debiased_NN = _ratio(hsic_NN, varies_N & ~cancelled_N)
    biased_NN = _ratio(frobenius_NN, varies_N)
    pairs = torch.triu_indices(experts, experts, 1)
    nothing_NN = torch.full_like(debiased_NN, torch.nan)
    if not resamples or len(parts) < FEWEST_BLOCKS:
        value = debiased_NN[tuple(pairs)].nanmean().item()
        return PairwiseCka(
            debiased_NN, biased_NN, nothing_NN, nothing_NN, (value, torch.nan, torch.nan)
        )
    without_BNN = _hsic_without_each(k_NT, parts, own_BNN, row_BNN)
    influence_BNN = (len(parts) - 1) * (without_BNN.mean(0) - without_BNN)
    drawn_SB = torch.randint(len(parts), (resamples, len(parts)), generator=generator)
    count_SB = torch.zeros(resamples, len(parts), dtype=torch.float64)
    count_SB = count_SB.scatter_add_(1, drawn_SB, torch.ones_like(count_SB)) / len(parts)
    hsic_SNN = hsic_NN + (count_SB @ influence_BNN.flatten(1)).view(-1, experts, experts)
    cka_SNN = _ratio(hsic_SNN, ~debiased_NN.diagonal().isnan())
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low_NN, high_NN = torch.quantile(cka_SNN, tails, dim=0)
    mean_S = cka_SNN[:, pairs[0], pairs[1]].nanmean(1)
    low, high = torch.quantile(mean_S, tails).tolist()
    value = debiased_NN[tuple(pairs)].nanmean().item()
    return PairwiseCka(debiased_NN, biased_NN, low_NN, high_NN, (value, low, high))


def shuffled(outputs_NTD: Tensor, generator: torch.Generator) -> Tensor:
    """The same rows, in an order of its own for each expert: nothing is related any more."""
    experts, rows, _ = outputs_NTD.shape
    order_NT = torch.rand(experts, rows, generator=generator).argsort(1).to(outputs_NTD.device)
    expert_N1 = torch.arange(experts, device=outputs_NTD.device)[:, None]
    return outputs_NTD[expert_N1, order_NT]


def median_scaled(outputs_NTD: Tensor) -> Tensor:
    """Rows divided by the median distance between rows of the same expert; zeros where it is 0.

    An RBF CKA of sigma 1 on them is that of sigma "median", and shuffling them needs no new median.
    """
    median_N = torch.stack([torch.pdist(x_TD.float()).median() for x_TD in outputs_NTD])
    scale_N11 = torch.where(median_N > 0, 1 / median_N, 0.0)[:, None, None]
    return outputs_NTD.float() * scale_N11


def effective_rank(outputs_NTD: Tensor) -> Tensor:
    """exp of the entropy of the singular values of the centred rows, divided by their sum.

    Returns:
        [N] fp64 in 1 .. min(T - 1, D); nan for an expert whose output is always the same.
    """
    x_NTD, _, varies_N = standardise(outputs_NTD, whole_mask(outputs_NTD, None))
    x_NTD = x_NTD.double()
    wide = x_NTD.shape[1] < x_NTD.shape[2]
    ranks = []
    for x_TD in x_NTD:
        square = torch.linalg.eigvalsh(x_TD @ x_TD.T if wide else x_TD.T @ x_TD)
        value = square.clamp(min=0).sqrt()
        ranks.append(torch.special.entr(value / value.sum()).sum().exp())
    return torch.where(varies_N, torch.stack(ranks), torch.nan).cpu()


def flat_cosine(parts_NHF: Sequence[Tensor]) -> Tensor:
    """Cosine of experts' weights, mean over their matrices, [N, N] fp64; nan for all zeros."""
    total: Tensor | None = None
    for part in parts_NHF:
        flat = part.flatten(1).float()
        flat = flat / flat.norm(dim=1, keepdim=True)
        product = (flat @ flat.T).double().cpu()
        total = product if total is None else total + product
    assert total is not None
    return total / len(parts_NHF)


def matched_units(
    parts_NHF: Sequence[Tensor], budget: float, generator: torch.Generator
) -> tuple[Tensor, float, int]:
    """How well each hidden unit of an expert is found again among those of another.

    A unit is what belongs to it in all matrices, each scaled to norm 1, so that rescaling between
    two matrices changes nothing, nor does the order of units.

    Args:
        parts_NHF: for each matrix (and bias) its entries by hidden unit.
        budget: multiplications allowed; with more, evenly spread units are looked up instead of
            all of them, always among all units of the other expert.
        generator: for the chance level, on the CPU.

    Returns:
        Mean over units of the largest cosine, over both directions, [N, N] fp64; its value for a
        pair whose one side had its entries shuffled within each unit; units looked up. nan for an
        expert whose weights are all 0 or not all finite.
    """
    scaled = [torch.nn.functional.normalize(part.float(), dim=-1) for part in parts_NHF]
    unit_NHF = torch.cat(scaled, dim=-1) / len(scaled) ** 0.5
    experts, hidden, width = unit_NHF.shape
    asked = int(max(16, min(hidden, budget // (experts * experts * hidden * width))))
    asked = min(asked, hidden)
    some_H = torch.linspace(0, hidden - 1, asked).round().long().to(unit_NHF.device)
    found_NN = torch.empty(experts, experts, dtype=torch.float64)
    for i in range(experts):
        wanted_UF = unit_NHF[i, some_H]
        for j in range(experts):
            found_NN[i, j] = (wanted_UF @ unit_NHF[j].T).amax(1).mean().double()
    size_N = unit_NHF.flatten(1).norm(dim=1).cpu()
    undefined_N = ~size_N.isfinite() | (size_N == 0)
    found_NN[undefined_N] = torch.nan
    found_NN[:, undefined_N] = torch.nan
    order_HF = torch.rand(hidden, width, generator=generator).argsort(1).to(unit_NHF.device)
    strangers_HF = unit_NHF[-1].gather(1, order_HF)
    chance = (unit_NHF[0, some_H] @ strangers_HF.T).amax(1).mean().item()
    return (found_NN + found_NN.T) / 2, chance, asked


def _gram_products(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """<K_i, K_j> of all pairs of experts, by blocks of rows.

    Returns:
        Of rows and columns in block b, and of rows in block b and all columns, both [B, N, N] fp64.
    """
    experts = parts[0].shape[0]
    shape = (len(parts), experts, experts)
    own_BNN = torch.zeros(shape, dtype=torch.float64)
    row_BNN = torch.zeros(shape, dtype=torch.float64)
    for b, rows in enumerate(parts):
        for c in range(b, len(parts)):
            gram = (rows @ parts[c].mT).flatten(1)
            product = (gram @ gram.T).double().cpu()
            row_BNN[b] += product
            if b == c:
                own_BNN[b] = product
            else:
                row_BNN[c] += product
    return own_BNN, row_BNN


def _hsic(inner_NN: Tensor, k_NT: Tensor, others_NT: Tensor) -> Tensor:
    """HSIC_1 of all pairs of experts, [N, N] fp64.

    Args:
        inner_NN: <K_i, K_j>, diagonals included.
        k_NT: the diagonals.
        others_NT: row sums without the diagonals; minus the diagonals where rows are centred.
    """
    n = k_NT.shape[1]
    sum_N = others_NT.sum(1)
    total_NN = inner_NN - k_NT @ k_NT.T - 2 / (n - 2) * others_NT @ others_NT.T
    total_NN += sum_N.outer(sum_N) / ((n - 1) * (n - 2))
    return total_NN / (n * (n - 3))


def _hsic_without_each(
    k_NT: Tensor, parts: Sequence[Tensor], own_BNN: Tensor, row_BNN: Tensor
) -> Tensor:
    """HSIC_1 without each block of rows in turn, [B, N, N] fp64; arguments as above."""
    sum_NBD = torch.stack([part.sum(1) for part in parts], dim=1)
    # Rows are centred over all blocks: outside one, their kernels sum to minus those inside.
    inside_NTB = torch.cat([part @ sum_NBD.mT for part in parts], dim=1).double().cpu()
    inner_NN = row_BNN.sum(0)
    found, start = [], 0
    for b, part in enumerate(parts):
        end = start + part.shape[1]
        outside_T = torch.ones(k_NT.shape[1], dtype=torch.bool)
        outside_T[start:end] = False
        k_outside_NT = k_NT[:, outside_T]
        others_NT = -inside_NTB[:, outside_T, b] - k_outside_NT
        found.append(_hsic(inner_NN - 2 * row_BNN[b] + own_BNN[b], k_outside_NT, others_NT))
        start = end
    return torch.stack(found)


def _ratio(hsic_NN: Tensor, defined_N: Tensor) -> Tensor:
    """CKA [..., N, N] from HSIC: symmetric, 1 on the diagonal, nan where undefined."""
    own_N = hsic_NN.diagonal(0, -2, -1)
    defined_N = defined_N & (own_N > 0)
    root_N = torch.where(defined_N, own_N, torch.nan).sqrt()
    cka_NN = hsic_NN / (root_N[..., :, None] * root_N[..., None, :])
    same_NN = torch.eye(hsic_NN.shape[-1], dtype=torch.bool)
    return torch.where(same_NN & defined_N[..., None], 1.0, cka_NN)


def received(index_TK: Tensor, experts: int) -> Tensor:
    """Which experts each token was sent to, [T, N] bool; index N stands for no expert."""
    received_TN = torch.zeros(
        index_TK.shape[0], experts + 1, dtype=torch.bool, device=index_TK.device
    )
    return received_TN.scatter_(1, index_TK, True)[:, :experts]


def cka_of_shared(outputs_NTD: Tensor, index_TK: Tensor) -> Tensor:
    """Debiased CKA of each pair on the rows sent to both, [N, N]; nan where they are too few."""
    experts = outputs_NTD.shape[0]
    received_TN = received(index_TK, experts).to(outputs_NTD.device)
    count_NN = received_TN.float().T @ received_TN.float()
    found_NN = torch.full((experts, experts), math.nan)
    for i, j in (count_NN >= FEWEST_SHARED).triu(1).nonzero().tolist():
        both_T = received_TN[:, i] & received_TN[:, j]
        value = debiased_linear_cka(outputs_NTD[i, both_T], outputs_NTD[j, both_T]).item()
        found_NN[i, j] = found_NN[j, i] = value
    return found_NN
