"""Pairs of experts as findings hold them, the most similar first.

Imports no torch.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from simsmoe_cli.collapse.findings import Copies, LayerFindings


@dataclass(frozen=True)
class Pair:
    """Two experts of a layer.

    Attributes:
        layer, i, j: the layer and the two experts, i < j.
        cka: their debiased CKA; None where it is undefined.
    """

    layer: LayerFindings
    i: int
    j: int
    cka: float | None

    @property
    def name(self) -> str:
        """ "3 and 5"."""
        return f"{self.i} and {self.j}"

    @property
    def full_name(self) -> str:
        """ "3 and 5 of layer 7"."""
        return f"{self.name} of layer {self.layer.label}"

    @property
    def copies(self) -> Copies | None:
        """The group of exact copies that both are in."""
        return self.layer.copies_of(self.i, self.j)

    @property
    def above_null(self) -> bool:
        """Whether the interval is above the null; without an interval, whether the value is."""
        low, null = self.layer.cka_low[self.i][self.j], self.layer.cka_null.quantile_95
        value = self.cka if low is None else low
        return null is None or (value is not None and value > null)

    @property
    def order(self) -> tuple[float, int, int, int]:
        """Sort key: the most similar pair first (by the exact value, not the rounded one), then by
        index."""
        return math.inf if self.cka is None else -self.cka, self.layer.layer, self.i, self.j


def pairs_of(layers: Sequence[LayerFindings]) -> Iterator[Pair]:
    """All pairs of these layers, also those whose CKA is undefined."""
    return (Pair(layer, i, j, layer.cka[i][j]) for layer in layers for i, j in layer.pairs())


def most_similar(layers: Sequence[LayerFindings], count: int) -> list[Pair]:
    """The `count` most similar pairs: exact copies, then those of the highest CKA.

    Pairs whose CKA is undefined are left out unless they are exact copies.
    """
    known = (pair for pair in pairs_of(layers) if pair.cka is not None or pair.copies)
    return heapq.nsmallest(count, known, key=lambda pair: (pair.copies is None, pair.order))
