"""Debiased and biased linear CKA of all pairs of experts, and a bootstrap interval.

HSIC_1 of Song et al. 2012, with a block bootstrap: rows of a text are not independent, so blocks of
neighbouring rows are drawn instead of single rows. One pass over the Gram matrices gives HSIC_1 of
all rows, and with each block left out, so no kernel is computed twice. The bootstrap draws blocks,
adds their influences (jackknife) to HSIC_1, then takes the ratio. Drawing rows with repetition
would pair a row with its own copy, which is the bias that the debiased estimator avoids.

Gram matrices of many experts cost more than running the experts, so `partners` bounds them: each
block of rows is then compared with a few others, drawn at random, and their sums are scaled up.
That is an incomplete U-statistic (Blom 1976): unbiased, and with some 10^6 pairs of rows hardly
wider.

Shapes: N experts, T rows, D features, B blocks, S resamples.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simsmoe_cli.collapse.measure.block_sums import (
    BlockSums,
    Standardised,
    block_sums,
    hsic,
    ratio,
)

FEWEST_ROWS = 4  # HSIC_1 of three rows is 0/0
FEWEST_BLOCKS = 4  # an interval from fewer says nothing
CANCELLED = 1e-5  # HSIC_1(K, K) / |K|^2 below which only rounding is left, as in similarity/cka.py
_CHUNK = 2**23  # entries of the largest temporaries


@dataclass(frozen=True)
class PairwiseCka:
    """Linear CKA of all pairs, [N, N] fp64; nan where undefined.

    Attributes:
        debiased, biased: the two estimators.
        low, high: interval of the debiased; nan without resamples, with fewer than 4 blocks, or
            where too many resamples are undefined (`_ends`).
        mean: (value, low, high) of the mean over pairs of the debiased.
        row_pairs: share of all pairs of rows that went into it.
    """

    debiased: Tensor
    biased: Tensor
    low: Tensor
    high: Tensor
    mean: tuple[float, float, float]
    row_pairs: float = 1.0


def partners(experts: int, rows: int, width: int, blocks: int, products: float) -> int | None:
    """With how many others a block of rows may be compared on either side, in `cka_with_interval`.

    Args:
        experts, rows, width, blocks: N, T, D and B.
        products: multiplications the Gram matrices may cost, about.

    Returns:
        at least 1; None where all pairs of blocks are cheap enough.
    """
    blocks = count_of_blocks(rows, blocks)
    of_one_block = experts * width * rows**2 / blocks
    asked = max(1, int(products / of_one_block) - 1)
    return None if asked >= (blocks - 1) / 2 else asked


def count_of_blocks(rows: int, blocks: int) -> int:
    """How many blocks rows are cut into, if `blocks` are asked for."""
    return max(1, min(blocks, rows // FEWEST_ROWS))


def cka_with_interval(
    x: Standardised,
    blocks: int,
    resamples: int,
    level: float,
    generator: torch.Generator,
    partners: int | None = None,
) -> PairwiseCka:
    """Debiased and biased linear CKA of all pairs and an interval of the debiased one.

    Args:
        x: every expert's outputs on the same rows, neighbours in the text side by side.
        blocks: runs of neighbouring rows to draw from; at most T / 4.
        resamples: S; 0: no interval.
        level: of the percentile interval, as 0.95.
        generator: on the CPU.
        partners: blocks that each block is compared with on either side of it, in a random order
            of them; None: with all.
    """
    cut = torch.arange(x.rows).tensor_split(count_of_blocks(x.rows, blocks))
    parts = [slice(int(block[0]), int(block[-1]) + 1) for block in cut]
    pairs_of_blocks, scale = _design(len(parts), partners, generator)
    sums = block_sums(x, parts, pairs_of_blocks, scale)
    frobenius_NN, k_NT = sums.row_BNN.sum(0), sums.k_NT
    hsic_NN = hsic(frobenius_NN, k_NT, -k_NT)
    varies_N = x.varies_N.cpu() & (x.rows >= FEWEST_ROWS)
    cancelled_N = hsic_NN.diagonal() <= CANCELLED * frobenius_NN.diagonal() / x.rows**2
    debiased_NN = ratio(hsic_NN, hsic_NN.diagonal(), varies_N & ~cancelled_N)
    biased_NN = ratio(frobenius_NN, frobenius_NN.diagonal(), varies_N)
    value = debiased_NN[tuple(torch.triu_indices(x.experts, x.experts, 1))].nanmean().item()
    low_NN = high_NN = torch.full_like(debiased_NN, torch.nan)
    low = high = torch.nan
    if resamples and len(parts) >= FEWEST_BLOCKS:
        without_BNN = _hsic_without_each(parts, sums)
        influence_BNN = (len(parts) - 1) * (without_BNN.mean(0) - without_BNN)
        defined_N = ~debiased_NN.diagonal().isnan()
        low_NN, high_NN, low, high = _bootstrap(
            hsic_NN, influence_BNN, defined_N, resamples, level, generator
        )
    compared = len(parts) + 2 * len(pairs_of_blocks)
    return PairwiseCka(
        debiased_NN, biased_NN, low_NN, high_NN, (value, low, high), compared / len(parts) ** 2
    )


def _design(
    blocks: int, partners: int | None, generator: torch.Generator
) -> tuple[list[tuple[int, int]], float]:
    """Choose the pairs of different blocks to compare, and the factor for scaling up. It is all
    pairs, or the pairs up to `partners` apart on a ring in random order, so that each block is in
    equally many pairs and each pair is equally likely.
    """
    if partners is None or 2 * partners >= blocks - 1:
        return list(itertools.combinations(range(blocks), 2)), 1.0
    ring = torch.randperm(blocks, generator=generator).tolist()
    near = [
        (ring[b], ring[(b + apart) % blocks])
        for b in range(blocks)
        for apart in range(1, partners + 1)
    ]
    return near, (blocks - 1) / (2 * partners)


def _bootstrap(
    hsic_NN: Tensor,
    influence_BNN: Tensor,
    defined_N: Tensor,
    resamples: int,
    level: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, float, float]:
    """Ends of the interval of each pair, [N, N] both, and of the mean over pairs."""
    blocks, experts, _ = influence_BNN.shape
    drawn_SB = torch.randint(blocks, (resamples, blocks), generator=generator)
    count_SB = torch.zeros(resamples, blocks, dtype=torch.float64)
    count_SB = count_SB.scatter_add_(1, drawn_SB, torch.ones_like(count_SB)) / blocks
    own_SN = hsic_NN.diagonal() + count_SB @ influence_BNN.diagonal(0, 1, 2)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    later_NN = torch.ones(experts, experts, dtype=torch.bool).triu(1)
    sum_S = torch.zeros(resamples, dtype=torch.float64)
    pairs_S = torch.zeros(resamples, dtype=torch.float64)
    ends = []
    for some in torch.arange(experts).split(max(1, _CHUNK // (resamples * experts))):
        drawn_SIN = hsic_NN[some] + (count_SB @ influence_BNN[:, some].flatten(1)).view(
            resamples, len(some), experts
        )
        cka_SIN = ratio(drawn_SIN, own_SN, defined_N, some)
        ends.append(_ends(cka_SIN, tails))
        of_pairs_SP = cka_SIN[:, later_NN[some]]
        sum_S += of_pairs_SP.nansum(1)
        pairs_S += (~of_pairs_SP.isnan()).sum(1)
    low_NN, high_NN = torch.cat(ends, dim=1)
    low, high = torch.quantile(sum_S / pairs_S, tails).tolist()
    return low_NN, high_NN, low, high


def _ends(cka_SIN: Tensor, tails: Tensor) -> Tensor:
    """Both ends of the interval of each pair, [2, I, N].

    Where a few blocks hold most of an expert's variance, resamples that draw hardly any of them
    have none left: HSIC_1 of the expert with itself is not above 0. Their CKA could be anything, so
    they count as below the lower end and as above the upper one. The interval gets wider, and is
    nan where they are more than a tail.
    """
    unknown_SIN = cka_SIN.isnan()
    if not unknown_SIN.any():
        return torch.quantile(cka_SIN, tails, dim=0)
    low, high = (
        torch.quantile(cka_SIN.where(~unknown_SIN, end), tail, dim=0)
        for tail, end in zip(tails, (-torch.inf, torch.inf), strict=True)
    )
    ends = torch.stack([low, high])
    return ends.where(ends.isfinite().all(0), torch.nan)


def _hsic_without_each(parts: Sequence[slice], sums: BlockSums) -> Tensor:
    """HSIC_1 with each block of rows left out in turn, [B, N, N] fp64."""
    inner_NN = sums.row_BNN.sum(0)
    found = []
    for b, rows in enumerate(parts):
        outside_T = torch.ones(sums.k_NT.shape[1], dtype=torch.bool)
        outside_T[rows] = False
        k_NT = sums.k_NT[:, outside_T]
        # Rows are centred over all blocks: outside one, their kernels sum to minus those inside.
        others_NT = -sums.inside_NTB[:, outside_T, b] - k_NT
        found.append(hsic(inner_NN - 2 * sums.row_BNN[b] + sums.own_BNN[b], k_NT, others_NT))
    return torch.stack(found)
