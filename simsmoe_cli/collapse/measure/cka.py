"""CKA of all pairs of a layer's experts: debiased with an interval, biased, RBF; and their nulls.

The null of a measure is its value after the rows of each expert were shuffled separately.

Shapes: N experts, T rows, D features.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.collapse.findings import Estimate, Null, defined
from simsmoe_cli.collapse.measure.block_sums import Standardised
from simsmoe_cli.collapse.measure.layer import Layer, matrix, spread
from simsmoe_cli.collapse.measure.linear_cka import cka_with_interval, count_of_blocks
from simsmoe_cli.collapse.measure.options import NULL_EXPERTS
from simsmoe_cli.similarity.cka import pairwise_rbf_cka

NULL_DRAWS = 100  # pairs of shuffled experts at least, unless NULL_PASSES is reached
RBF_NULL_DRAWS = 40  # a pass costs more
NULL_PASSES = 20
NULL_BLOCKS = 16  # blocks of rows if no interval is needed: they only bound the memory
BOOTSTRAP = "percentile bootstrap of {blocks} blocks of rows, {resamples} times"


def measure_layer(layer: Layer) -> dict[str, Any]:
    options, bounds, generator = layer.options, layer.bounds, layer.generator()
    cka = cka_with_interval(
        layer.standardised,
        options.blocks,
        options.resamples,
        options.level,
        generator,
        bounds.partners,
    )
    rbf_NTD = median_scaled(layer.outputs_NTD[:, spread(layer.rows, bounds.rbf_rows)])
    null, biased_null, rbf_null = _nulls(layer, rbf_NTD, generator)
    value, low, high = cka.mean
    blocks = count_of_blocks(layer.rows, options.blocks)
    sampled = "" if cka.row_pairs == 1 else f"; {cka.row_pairs:.0%} of the pairs of rows"
    return {
        "cka": matrix(cka.debiased),
        "cka_low": matrix(cka.low),
        "cka_high": matrix(cka.high),
        "cka_null": null,
        "cka_mean": Estimate(
            value=defined(value),
            low=defined(low),
            high=defined(high),
            n=int(torch.triu(~cka.debiased.isnan(), 1).sum()),
            of="pairs",
            null_mean=null.mean,
            null_high=null.quantile_95,
            method=f"{BOOTSTRAP.format(blocks=blocks, resamples=options.resamples)}{sampled}"
            "; null: of one pair, its 95 % quantile",
        ),
        "cka_row_pairs": cka.row_pairs,
        "cka_biased": matrix(cka.biased),
        "cka_biased_null": biased_null,
        "cka_rbf": matrix(pairwise_rbf_cka(rbf_NTD, 1.0)),
        "cka_rbf_null": rbf_null,
    }


def shuffled(outputs_NTD: Tensor, generator: torch.Generator) -> Tensor:
    """The same rows, shuffled separately for each expert, so that experts are unrelated."""
    experts, rows, _ = outputs_NTD.shape
    order_NT = torch.rand(experts, rows, generator=generator).argsort(1).to(outputs_NTD.device)
    expert_N1 = torch.arange(experts, device=outputs_NTD.device)[:, None]
    return outputs_NTD[expert_N1, order_NT]


def median_scaled(outputs_NTD: Tensor) -> Tensor:
    """Rows divided by the median distance between rows of the same expert; zeros where it is 0.

    The RBF CKA of these rows with sigma 1 equals that of the original rows with sigma "median";
    shuffling does not change the median.
    """
    median_N = torch.stack([torch.pdist(x_TD.float()).median() for x_TD in outputs_NTD])
    scale_N11 = torch.where(median_N > 0, 1 / median_N, 0.0)[:, None, None]
    return outputs_NTD.float() * scale_N11


def _nulls(layer: Layer, rbf_NTD: Tensor, generator: torch.Generator) -> tuple[Null, Null, Null]:
    """Debiased, biased and RBF CKA of shuffled rows, of at most `NULL_EXPERTS` experts."""
    outputs_NTD, partners = layer.outputs_NTD, layer.bounds.partners
    if len(outputs_NTD) > NULL_EXPERTS:
        some_N = spread(len(outputs_NTD), NULL_EXPERTS)
        outputs_NTD, rbf_NTD = outputs_NTD[some_N], rbf_NTD[some_N]
    pairs = torch.triu_indices(len(outputs_NTD), len(outputs_NTD), 1).unbind()
    blocks = NULL_BLOCKS if partners is None else layer.options.blocks
    debiased, biased, rbf = [], [], []
    for _ in range(_passes(NULL_DRAWS, len(pairs[0]))):
        outputs = Standardised(shuffled(outputs_NTD, generator))
        cka = cka_with_interval(outputs, blocks, 0, 0, generator, partners)
        debiased.append(cka.debiased[pairs])
        biased.append(cka.biased[pairs])
    for _ in range(_passes(RBF_NULL_DRAWS, len(pairs[0]))):
        rbf_NN = pairwise_rbf_cka(shuffled(rbf_NTD, generator), 1.0).cpu()
        rbf.append(rbf_NN[pairs].double())
    return _null(debiased), _null(biased), _null(rbf)


def _passes(draws: int, pairs: int) -> int:
    """The number of times that all pairs of a layer are shuffled and measured to get `draws`
    values."""
    return max(1, min(NULL_PASSES, math.ceil(draws / max(1, pairs))))


def _null(draws: list[Tensor]) -> Null:
    values = torch.cat(draws)
    values = values[~values.isnan()]
    if not len(values):
        return Null(mean=None, quantile_95=None, draws=0)
    return Null(
        mean=values.mean().item(),
        quantile_95=torch.quantile(values, 0.95).item(),
        draws=len(values),
    )
