"""Measures how similar the experts of a trained model are, on several held-out batches.

The measures are those of the collapse report: debiased linear CKA of each pair on tokens that all
experts see, and on the tokens that were sent to both. What a report measures besides is left out.

Shapes: T tokens, N experts, K experts per token, D model width.
"""

from __future__ import annotations

import statistics

import numpy as np
import torch
from torch import Tensor

from simsmoe_cli.collapse.findings import mean_of
from simsmoe_cli.collapse.measure.cka_on_shared_tokens import cka_of_shared
from simsmoe_cli.collapse.measure.layer import all_outputs
from simsmoe_cli.collapse.measure.layers import Keeper
from simsmoe_cli.collapse.measure.options import Options
from simsmoe_cli.collapse.sources.base import Source
from simsmoe_cli.run.correlation import pearson, ranks
from simsmoe_cli.similarity.cka import pairwise_debiased_cka
from simsmoe_cli.similarity.routed import Routed
from simsmoe_cli.similarity.shared import received
from simsmoe_cli.sweep.results import Layer, Number

BATCHES = 4
ROWS = 4096  # tokens of a batch, as many as a report measures


def similarity_scores(
    source: Source, batches: int = BATCHES, rows: int = ROWS
) -> tuple[dict[str, Number], list[Layer]]:
    """Scores of a whole model and of its layers.

    Args:
        source: a model and held-out text; fewer tokens are used if it has fewer.
        batches, rows: how many batches of how many tokens.

    Returns:
        cka, cka_shared, cka_deviation, load_cv, pearson and spearman as in `results.Record`; None
        where undefined.
    """
    options = Options(rows=batches * rows, tokens=2 * batches * rows)
    keeper = _Similarity(source, options, batches)
    source.walk(options.all_tokens, options.rows, keeper, keeper.all_layers, loss=False)
    by_batch = [mean_of(of_layers) for of_layers in zip(*keeper.cka, strict=True)]
    known = [value for value in by_batch if value is not None]
    shared, cka = np.concatenate(keeper.shared), np.concatenate(keeper.pairs)
    return {
        "cka": mean_of(layer.cka for layer in keeper.found),
        "cka_shared": mean_of(
            _mean(torch.cat(layers)) for layers in zip(*keeper.cka_shared, strict=True)
        ),
        "cka_deviation": statistics.stdev(known) if len(known) > 1 else None,
        "load_cv": mean_of(layer.load_cv for layer in keeper.found),
        "pearson": _number(pearson(shared, cka)),
        "spearman": _number(pearson(ranks(shared), ranks(cka))),
    }, keeper.found


class _Similarity(Keeper):
    """Measures each layer when it has seen the whole text.

    Attributes:
        found: of each layer.
        cka: of each layer the mean CKA in every batch.
        cka_shared: of each layer the CKA of all pairs on shared tokens, in every batch.
        shared, pairs: of each layer, the share of tokens sent to both experts of a pair, and its
            CKA, for all pairs where it is defined.
    """

    def __init__(self, source: Source, options: Options, batches: int):
        self.all_layers = list(range(len(source.layers)))
        super().__init__(source, options, self.all_layers)
        self.batches = batches
        self.found: list[Layer] = []
        self.cka: list[list[Number]] = []
        self.cka_shared: list[list[Tensor]] = []
        self.shared: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
        self.pairs: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []

    def on_layer(self, layer: int, rows: Routed) -> None:
        input_TD, index_TK = rows.input_TD, rows.index_TK
        experts = self.source.layers[layer].experts
        inputs, indices = input_TD.chunk(self.batches), index_TK.chunk(self.batches)
        later = torch.triu_indices(experts, experts, 1).unbind()
        cka_BP, shared_BP = [], []
        for rows_TD, chosen_TK in zip(inputs, indices, strict=True):
            outputs_NTD = all_outputs(self.source, layer, rows_TD)
            cka_BP.append(pairwise_debiased_cka(outputs_NTD).cpu().double()[later])
            shared_BP.append(cka_of_shared(outputs_NTD, chosen_TK)[later].double())
        chosen_TN = received(index_TK, experts).double()
        load_N = chosen_TN.mean(0)
        both_NN = (chosen_TN.T @ chosen_TN / len(index_TK)).cpu()
        self.cka.append([_mean(cka_P) for cka_P in cka_BP])
        self.cka_shared.append(shared_BP)
        self.found.append(
            Layer(
                cka=mean_of(self.cka[-1]),
                cka_shared=mean_of(_mean(shared_P) for shared_P in shared_BP),
                load_cv=_number((load_N.std(correction=0) / load_N.mean()).item()),
            )
        )
        of_pair_P = torch.stack(cka_BP).nanmean(0)
        defined_P = ~of_pair_P.isnan()
        self.pairs.append(of_pair_P[defined_P].numpy())
        self.shared.append(both_NN[later][defined_P].numpy())


def _mean(values: Tensor) -> Number:
    return _number(values.nanmean().item())


def _number(value: float) -> Number:
    return value if np.isfinite(value) else None
