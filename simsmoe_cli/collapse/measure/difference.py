"""How far the outputs of two experts are apart, token by token (Fig. 5 of the paper).

Shapes: T rows, D model width, N experts.
"""

from __future__ import annotations

import itertools

import numpy as np
from torch import Tensor

from simsmoe_cli.collapse.difference import Difference
from simsmoe_cli.collapse.findings import LayerFindings
from simsmoe_cli.collapse.measure.layer import spread
from simsmoe_cli.collapse.pairs import Pair, pairs_of
from simsmoe_cli.collapse.sources.base import Source

SHOWN_ROWS, SHOWN_FEATURES = 48, 64


def pair_to_show(layer: LayerFindings) -> Pair | None:
    """The pair of live experts with the largest debiased CKA; of any experts if no pair is live."""
    known = sorted(
        (pair for pair in pairs_of([layer]) if pair.cka is not None), key=lambda pair: pair.order
    )
    live = [pair for pair in known if not {pair.i, pair.j} & set(layer.dead or ())]
    return next(iter(live or known), None)


def difference_of(pair: Pair, outputs_NTD: Tensor) -> Difference:
    """How far apart the two outputs of a pair are, token by token (Fig. 5); without labels."""
    i, j, cka = pair.i, pair.j, pair.cka
    assert cka is not None
    first_TD, second_TD = outputs_NTD[i].double(), outputs_NTD[j].double()
    size = ((first_TD.square() + second_TD.square()).mean() / 2).sqrt()
    apart_TD = ((first_TD - second_TD) / size).square().cpu()
    rows = spread(len(apart_TD), SHOWN_ROWS).tolist()
    width = apart_TD.shape[1]
    ends = np.linspace(0, width, min(SHOWN_FEATURES, width) + 1).round().astype(int).tolist()
    features = list(itertools.pairwise(ends))
    return Difference(
        layer=pair.layer.layer,
        experts=(i, j),
        cka=cka,
        rows=rows,
        labels=[],
        features=features,
        values=[
            [apart_TD[row, start:end].mean().sqrt().item() for start, end in features]
            for row in rows
        ],
        mean=apart_TD.mean().sqrt().item(),
    )


def with_labels(difference: Difference | None, source: Source, ids: list[int]) -> Difference | None:
    """A difference with its tokens as text; `ids` are those of all measured rows."""
    if difference is None:
        return None
    labels = source.text_of([ids[row] for row in difference.rows])
    return difference.model_copy(update={"labels": labels})
