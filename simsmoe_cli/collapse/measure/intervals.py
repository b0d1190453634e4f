"""Numbers of the report that need more than one look: intervals, nulls, ranks, matched weights.

- `cka_with_interval`: linear CKA of all pairs (HSIC_1 of Song et al. 2012; METHODS section 4) and a
  block bootstrap of it. Rows of a text are not independent, so runs of neighbouring rows are drawn
  and not rows. Nothing is computed again: one pass over the Gram matrices gives HSIC_1 without each
  block in turn; the bootstrap draws blocks, adds their influences (jackknife) to HSIC_1, then takes
  the ratio. Drawing rows with repetition instead would pair a row with its own copy, which is the
  bias that the debiased estimator is free of.
  Gram matrices of many experts cost more than running the experts, so `partners` bounds them: each
  block of rows then meets a few others, drawn at random, and what they give is scaled up. That is
  an incomplete U-statistic (Blom 1976): unbiased, and with some 10^6 pairs of rows hardly wider.
- `shuffled`: the null: rows of each expert in an order of its own.
- `effective_rank`: Roy and Vetterli 2007.
- `matched_units`: weights compared unit by unit, whatever the order of hidden units.

All outputs of a layer may be gigabytes. They are held once, by the caller; here they are centred
and scaled block by block, or expert by expert.

Shapes: N experts, T rows, D features, B blocks, S resamples, H hidden units, F weights of a unit,
U units looked up, R rows of a block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simsmoe_cli.similarity.rows import ROUNDING, SMALLEST, standardise, whole_mask

FEWEST_ROWS = 4  # HSIC_1 of three rows is 0/0
FEWEST_SHARED = 32  # rows: debiased CKA of fewer says little
FEWEST_BLOCKS = 4  # an interval from fewer says nothing
NULL_BLOCKS = 16  # of a pass that wants no interval: they only bound the memory
CANCELLED = 1e-5  # HSIC_1(K, K) / |K|^2 below which only rounding is left, as in similarity/cka.py
FEWEST_UNITS = 4  # hidden units looked up in each of the other experts
FEWEST_WEIGHTS = 256  # of a unit in each matrix that are compared
_CHUNK = 2**23  # entries of the largest temporaries


@dataclass(frozen=True)
class PairwiseCka:
    """Linear CKA of all pairs, [N, N] fp64; nan where undefined.

    Attributes:
        debiased, biased: the two estimators.
        low, high: interval of the debiased; nan without resamples, with fewer than 4 blocks, or
            where one block holds all the variance of an expert: resamples without it have none.
        mean: (value, low, high) of the mean over pairs of the debiased.
        row_pairs: share of all pairs of rows that went into it.
    """

    debiased: Tensor
    biased: Tensor
    low: Tensor
    high: Tensor
    mean: tuple[float, float, float]
    row_pairs: float = 1.0


class Standardised:
    """All experts' outputs, centred and scaled as by `rows.standardise` when they are asked for.

    Args:
        outputs_NTD: every expert's outputs on the same rows.
    """

    def __init__(self, outputs_NTD: Tensor):
        self.outputs_NTD = outputs_NTD
        self.experts, self.rows, self.width = outputs_NTD.shape
        means, scales, varies = [], [], []
        for x_TD in outputs_NTD:
            peak = torch.stack(torch.aminmax(x_TD)).abs().max().float()  # NaN where there is one
            usable = (peak > SMALLEST) & (peak < torch.inf)
            peak = torch.where(usable, peak, 1.0)
            variance_D, mean_D = torch.var_mean(x_TD.float() / peak, dim=0, correction=0)
            norm = variance_D.sum().sqrt()
            moves = usable & (norm > ROUNDING * self.width**0.5)
            means.append(torch.where(moves, mean_D * peak, 0.0))
            scales.append(torch.where(moves, norm * peak, 1.0))
            varies.append(moves)
        self.mean_N1D = torch.stack(means)[:, None]
        self.scale_N11 = torch.stack(scales)[:, None, None]
        self.varies_N = torch.stack(varies)
        self.all_vary = bool(self.varies_N.all())

    def part(self, rows: slice) -> Tensor:
        """Some rows of all experts, [N, R, D] fp32; zeros for an expert that is undefined."""
        x_NRD = self.outputs_NTD[:, rows].float() - self.mean_N1D
        x_NRD /= self.scale_N11
        if not self.all_vary:
            x_NRD[~self.varies_N] = 0
        return x_NRD


def partners(experts: int, rows: int, width: int, blocks: int, products: float) -> int | None:
    """With how many others a block of rows may be compared on either side, in `cka_with_interval`.

    Args:
        experts, rows, width, blocks: N, T, D and B.
        products: multiplications the Gram matrices may cost, about.

    Returns:
        at least 1; None where all pairs of blocks are cheap enough.
    """
    blocks = _count_of_blocks(rows, blocks)
    of_one_block = experts * width * rows**2 / blocks
    asked = max(1, int(products / of_one_block) - 1)
    return None if asked >= (blocks - 1) / 2 else asked


def _count_of_blocks(rows: int, blocks: int) -> int:
    return max(1, min(blocks, rows // FEWEST_ROWS))


def cka_with_interval(
    outputs: Tensor | Standardised,
    blocks: int,
    resamples: int,
    level: float,
    generator: torch.Generator,
    partners: int | None = None,
) -> PairwiseCka:
    """Debiased and biased linear CKA of all pairs and an interval of the debiased one.

    Args:
        outputs: every expert's outputs on the same rows, neighbours in the text side by side,
            [N, T, D].
        blocks: runs of neighbouring rows to draw from; at most T / 4.
        resamples: S; 0: no interval.
        level: of the percentile interval, as 0.95.
        generator: on the CPU.
        partners: blocks that each block is compared with on either side of it, in a random order
            of them; None: with all.
    """
    x = outputs if isinstance(outputs, Standardised) else Standardised(outputs)
    cut = torch.arange(x.rows).tensor_split(_count_of_blocks(x.rows, blocks))
    parts = [slice(int(block[0]), int(block[-1]) + 1) for block in cut]
    pairs_of_blocks, scale = _design(len(parts), partners, generator)
    sums = _block_sums(x, parts, pairs_of_blocks, scale)
    frobenius_NN, k_NT = sums.row_BNN.sum(0), sums.k_NT
    hsic_NN = _hsic(frobenius_NN, k_NT, -k_NT)
    varies_N = x.varies_N.cpu() & (x.rows >= FEWEST_ROWS)
    cancelled_N = hsic_NN.diagonal() <= CANCELLED * frobenius_NN.diagonal() / x.rows**2
    debiased_NN = _ratio(hsic_NN, hsic_NN.diagonal(), varies_N & ~cancelled_N)
    biased_NN = _ratio(frobenius_NN, frobenius_NN.diagonal(), varies_N)
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
    """Which pairs of different blocks are compared, and by how much that is to be scaled up.

    All of them, or those up to `partners` apart on a ring in random order: each block is in as
    many, and each pair is as likely.
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
        cka_SIN = _ratio(drawn_SIN, own_SN, defined_N, some)
        ends.append(torch.quantile(cka_SIN, tails, dim=0))
        of_pairs_SP = cka_SIN[:, later_NN[some]]
        sum_S += of_pairs_SP.nansum(1)
        pairs_S += (~of_pairs_SP.isnan()).sum(1)
    low_NN, high_NN = torch.cat(ends, dim=1)
    low, high = torch.quantile(sum_S / pairs_S, tails).tolist()
    return low_NN, high_NN, low, high


def mean_cosine(outputs: Tensor | Standardised) -> Tensor:
    """`agreement.pairwise_cosine`, some rows at a time, [N, N]."""
    x = outputs if isinstance(outputs, Standardised) else Standardised(outputs)
    total_NN = torch.zeros(x.experts, x.experts, dtype=torch.float64)
    for part_NRD in x.outputs_NTD.split(max(1, _CHUNK // (x.experts * x.width)), dim=1):
        x_RND = (part_NRD.float() / x.scale_N11).transpose(0, 1).contiguous()
        product_RNN = x_RND @ x_RND.mT
        norm_RN = product_RNN.diagonal(0, 1, 2).sqrt()
        product_RNN /= (norm_RN[:, :, None] * norm_RN[:, None]).clamp(min=SMALLEST**2)
        total_NN += product_RNN.sum(0).double().cpu()
    varies_N = x.varies_N.cpu()
    return torch.where(varies_N[:, None] & varies_N, total_NN / x.rows, torch.nan)


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
    ranks = []
    for x_TD in outputs_NTD:
        x_TD, _, varies = standardise(x_TD, whole_mask(x_TD, None))
        x_TD = x_TD.double()
        wide = x_TD.shape[0] < x_TD.shape[1]
        square = torch.linalg.eigvalsh(x_TD @ x_TD.T if wide else x_TD.T @ x_TD)
        value = square.clamp(min=0).sqrt()
        rank = torch.special.entr(value / value.sum()).sum().exp()
        ranks.append(torch.where(varies, rank, torch.nan))
    return torch.stack(ranks).cpu()


def flat_cosine(parts_NHF: Sequence[Tensor]) -> Tensor:
    """Cosine of experts' weights, mean over their matrices, [N, N] fp64; nan for all zeros."""
    total: Tensor | None = None
    for part_NHF in parts_NHF:
        experts, _, width = part_NHF.shape
        product_NN = torch.zeros(experts, experts, dtype=torch.float64)
        for some_NHF in part_NHF.split(max(1, _CHUNK // (experts * width)), dim=1):
            flat = some_NHF.flatten(1).float()
            product_NN += (flat @ flat.T).double().cpu()
        norm_N = product_NN.diagonal().sqrt()
        cosine_NN = product_NN / (norm_N[:, None] * norm_N)
        total = cosine_NN if total is None else total + cosine_NN
    assert total is not None
    return total / len(parts_NHF)


@dataclass(frozen=True)
class MatchedUnits:
    """How well hidden units of an expert are found again among those of another.

    Attributes:
        found: mean over units of the largest cosine, over both directions, [N, N] fp64; nan for an
            expert whose weights are all 0 or not all finite.
        chance: its value for a pair whose one side had its entries shuffled within each unit.
        units: of each expert that were looked up, U.
        weights: share of a unit's weights that were compared.
    """

    found: Tensor
    chance: float
    units: int
    weights: float


def matched_units(
    parts_NHF: Sequence[Tensor], budget: float, generator: torch.Generator
) -> MatchedUnits:
    """How well each hidden unit of an expert is found again among those of another.

    A unit is what belongs to it in all matrices, each scaled to norm 1, so that rescaling between
    two matrices changes nothing, nor does the order of units.

    Args:
        parts_NHF: for each matrix (and bias) its entries by hidden unit.
        budget: multiplications allowed, about. With more, evenly spread units are looked up instead
            of all of them, always among all units of the other expert; if even `FEWEST_UNITS` are
            too many, by evenly spread weights of each matrix instead of all of them. Fewer weights
            make unrelated units look more alike, in `chance` as well.
        generator: for the chance level, on the CPU.
    """
    experts, hidden, _ = parts_NHF[0].shape
    of_one = experts * experts * hidden
    widths = [part.shape[2] for part in parts_NHF]
    fewest = min(FEWEST_UNITS, hidden)
    fits = min(1.0, budget / (of_one * fewest * sum(widths)))
    taken = [min(width, max(FEWEST_WEIGHTS, int(fits * width))) for width in widths]
    asked = int(max(fewest, min(hidden, budget // (of_one * sum(taken)))))
    some_U = torch.linspace(0, hidden - 1, asked).round().long()
    columns = [
        torch.linspace(0, width - 1, some).round().long()
        for width, some in zip(widths, taken, strict=True)
    ]

    def units(expert: int, which: Tensor | slice) -> Tensor:
        scaled = [
            torch.nn.functional.normalize(
                part[expert, which][:, some.to(part.device)].float(), dim=-1
            )
            for part, some in zip(parts_NHF, columns, strict=True)
        ]
        unit_F: Tensor = torch.cat(scaled, dim=-1) / len(scaled) ** 0.5
        return unit_F

    every = slice(None)
    wanted_EF = torch.cat([units(expert, some_U) for expert in range(experts)])
    found_NN = torch.empty(experts, experts, dtype=torch.float64)
    undefined_N = torch.zeros(experts, dtype=torch.bool)
    for expert in range(experts):
        unit_HF = units(expert, every)
        ends = torch.stack(torch.aminmax(unit_HF))  # NaN where there is one
        undefined_N[expert] = bool(~ends.isfinite().all() | ~ends.any())
        best_E = torch.cat(
            [(part_EF @ unit_HF.T).amax(1) for part_EF in wanted_EF.split(max(1, _CHUNK // hidden))]
        )
        found_NN[:, expert] = best_E.view(experts, asked).double().mean(1)
    found_NN[undefined_N] = torch.nan
    found_NN[:, undefined_N] = torch.nan
    order_HF = torch.rand(hidden, sum(taken), generator=generator).argsort(1)
    strangers_HF = unit_HF.gather(1, order_HF.to(unit_HF.device))
    chance = (wanted_EF[:asked] @ strangers_HF.T).amax(1).mean().item()
    return MatchedUnits((found_NN + found_NN.T) / 2, chance, asked, sum(taken) / sum(widths))


@dataclass
class _Sums:
    """What HSIC_1 is made of, by blocks of rows, all fp64.

    Attributes:
        own_BNN: <K_i, K_j> of rows and columns in block b.
        row_BNN: of rows in block b and all columns.
        k_NT: the diagonals of K_i.
        inside_NTB: sums of K_i over the columns of block b.
    """

    own_BNN: Tensor
    row_BNN: Tensor
    k_NT: Tensor
    inside_NTB: Tensor


def _block_sums(
    x: Standardised, parts: Sequence[slice], pairs: Sequence[tuple[int, int]], scale: float
) -> _Sums:
    """The sums of all pairs of experts.

    Args:
        parts: the blocks.
        pairs: different blocks to compare.
        scale: what pairs of different blocks count for.
    """
    shape = (len(parts), x.experts, x.experts)
    own_BNN = torch.zeros(shape, dtype=torch.float64)
    row_BNN = torch.zeros(shape, dtype=torch.float64)
    partners: dict[int, list[int]] = {b: [] for b in range(len(parts))}
    for b, c in pairs:
        partners[b].append(c)
    sum_NBD = torch.stack([x.part(rows).sum(1) for rows in parts], dim=1)
    k_parts, inside_parts = [], []
    for b, rows in enumerate(parts):
        x_NRD = x.part(rows)
        k_parts.append((x_NRD * x_NRD).sum(-1).double().cpu())
        inside_parts.append((x_NRD @ sum_NBD.mT).double().cpu())
        own_BNN[b] = _inner(x_NRD, x_NRD)
        row_BNN[b] += own_BNN[b]
        for c in partners[b]:
            product_NN = scale * _inner(x_NRD, x.part(parts[c]))
            row_BNN[b] += product_NN
            row_BNN[c] += product_NN
    return _Sums(own_BNN, row_BNN, torch.cat(k_parts, dim=1), torch.cat(inside_parts, dim=1))


def _inner(x_NRD: Tensor, y_NRD: Tensor) -> Tensor:
    """Sums over a block of K_i K_j, [N, N] fp64."""
    gram: Tensor = (x_NRD @ y_NRD.mT).flatten(1)
    return (gram @ gram.T).double().cpu()


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


def _hsic_without_each(parts: Sequence[slice], sums: _Sums) -> Tensor:
    """HSIC_1 without each block of rows in turn, [B, N, N] fp64."""
    inner_NN = sums.row_BNN.sum(0)
    found = []
    for b, rows in enumerate(parts):
        outside_T = torch.ones(sums.k_NT.shape[1], dtype=torch.bool)
        outside_T[rows] = False
        k_NT = sums.k_NT[:, outside_T]
        # Rows are centred over all blocks: outside one, their kernels sum to minus those inside.
        others_NT = -sums.inside_NTB[:, outside_T, b] - k_NT
        found.append(_hsic(inner_NN - 2 * sums.row_BNN[b] + sums.own_BNN[b], k_NT, others_NT))
    return torch.stack(found)


def _ratio(
    hsic_IN: Tensor, own_N: Tensor, defined_N: Tensor, some_I: Tensor | None = None
) -> Tensor:
    """CKA [..., I, N] from HSIC: symmetric, 1 on the diagonal, nan where undefined.

    Args:
        hsic_IN: of some experts with all.
        own_N: of each with itself, [..., N].
        defined_N: experts that have a CKA, if their own is above 0.
        some_I: which experts those are; all of them if None.
    """
    some_I = torch.arange(own_N.shape[-1]) if some_I is None else some_I
    defined_N = defined_N & (own_N > 0)
    root_N = torch.where(defined_N, own_N, torch.nan).sqrt()
    cka_IN = hsic_IN / (root_N[..., some_I, None] * root_N[..., None, :])
    same_IN = some_I[:, None] == torch.arange(own_N.shape[-1])
    return torch.where(same_IN & defined_N[..., None, :], 1.0, cka_IN)


def received(index_TK: Tensor, experts: int) -> Tensor:
    """Which experts each token was sent to, [T, N] bool; index N stands for no expert."""
    received_TN = torch.zeros(
        index_TK.shape[0], experts + 1, dtype=torch.bool, device=index_TK.device
    )
    return received_TN.scatter_(1, index_TK, True)[:, :experts]


def cka_of_shared(outputs_NTD: Tensor, index_TK: Tensor, products: float = math.inf) -> Tensor:
    """Debiased CKA of each pair on the rows sent to both, [N, N]; nan where they are too few.

    Each expert's Gram matrix of the rows sent to it is made once; a pair's kernels are parts of
    two of them.

    Args:
        outputs_NTD: every expert's outputs on the same rows.
        index_TK: chosen experts; N for an empty slot.
        products: multiplications the Gram matrices may cost; with more, evenly spread rows are
            taken instead of all.
    """
    experts, rows, width = outputs_NTD.shape
    received_TN = received(index_TK, experts).to(outputs_NTD.device)
    cost = float(received_TN.sum(0).double().square().sum()) * width
    if cost > products:
        some_T = torch.linspace(0, rows - 1, max(1, int(rows * (products / cost) ** 0.5)))
        some_T = some_T.round().long().to(outputs_NTD.device)
        outputs_NTD, received_TN = outputs_NTD[:, some_T], received_TN[some_T]
    count_NN = received_TN.float().T @ received_TN.float()
    found_NN = torch.full((experts, experts), math.nan)
    wanted = (count_NN >= FEWEST_SHARED).triu(1).nonzero().tolist()
    grams: dict[int, Tensor] = {}
    place_TN = received_TN.long().cumsum(0) - 1
    for expert in sorted({expert for pair in wanted for expert in pair}):
        x_RD = outputs_NTD[expert, received_TN[:, expert]].float()
        x_RD = standardise(x_RD, whole_mask(x_RD, None))[0]
        grams[expert] = (x_RD @ x_RD.T).cpu()
    received_TN, place_TN = received_TN.cpu(), place_TN.cpu()
    for i, j in wanted:
        both_T = received_TN[:, i] & received_TN[:, j]
        first_S, second_S = place_TN[both_T, i], place_TN[both_T, j]
        found_NN[i, j] = found_NN[j, i] = _debiased(
            grams[i][first_S][:, first_S], grams[j][second_S][:, second_S]
        )
    return found_NN


def _debiased(k_SS: Tensor, m_SS: Tensor) -> float:
    """Debiased CKA of two Gram matrices of the same rows; nan where undefined."""
    kernels = []
    for gram_SS in (k_SS.double(), m_SS.double()):
        mean_S = gram_SS.mean(0)
        centred_SS = gram_SS - mean_S[:, None] - mean_S + mean_S.mean()
        largest = gram_SS.diagonal().max()
        if centred_SS.diagonal().max() <= CANCELLED * largest:  # the same output for all rows
            return math.nan
        kernels.append(centred_SS / centred_SS.diagonal().max())
    both = torch.stack(kernels).flatten(1)
    diagonal_NT = torch.stack([kernel.diagonal() for kernel in kernels])
    inner_NN = both @ both.T
    hsic_NN = _hsic(inner_NN, diagonal_NT, -diagonal_NT)
    own_N = hsic_NN.diagonal()
    if (own_N <= CANCELLED * inner_NN.diagonal() / len(k_SS) ** 2).any():
        return math.nan
    return float(hsic_NN[0, 1] / own_N.prod().sqrt())
