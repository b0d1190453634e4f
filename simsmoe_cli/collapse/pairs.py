"""Pairs of experts as findings hold them, the most similar first, and what counts as similar.

The thresholds are on debiased linear CKA, where unrelated experts are at 0 and copies at 1. CKA
ignores rotation and scale, so a pair with a CKA near 1 has nearly the same *representation*. It is
called a *duplicate* only if the outputs themselves agree.

Imports no torch.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from simsmoe_cli.collapse.findings import Copies, Findings, LayerFindings

SIMILAR_LAYER, COLLAPSED_LAYER = 0.25, 0.5  # mean over a layer's pairs
SIMILAR_PAIR, SAME_PAIR = 0.5, 0.95
SAME_OUTPUT = 0.1  # of their size: experts whose outputs differ by less are duplicates
MANY_PAIRS = 0.05  # share of all pairs


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
    def apart(self) -> float | None:
        """The difference of their outputs over the size of both: 1.41 for unrelated experts; None
        where it was not measured."""
        return self.layer.apart[self.i][self.j] if self.layer.apart else None

    @property
    def duplicate(self) -> bool:
        """Whether both give nearly the same outputs."""
        return self.copies is not None or (self.apart is not None and self.apart <= SAME_OUTPUT)

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


@dataclass(frozen=True)
class SortedPairs:
    """The pairs whose CKA is defined, the most similar first.

    Attributes:
        all: of them.
        similar: from SIMILAR_PAIR, above the null, and not exact copies, of which more is known.
        same: those of them from SAME_PAIR.
        unsure: from SIMILAR_PAIR, but with an interval that reaches the null.
    """

    all: list[Pair]
    similar: list[Pair]
    same: list[Pair]
    unsure: list[Pair]

    @classmethod
    def of(cls, findings: Findings) -> SortedPairs:
        """Those of all layers."""
        known = [pair for pair in pairs_of(findings.layers) if pair.cka is not None]
        known.sort(key=lambda pair: pair.order)
        high = [p for p in known if (p.cka or 0) >= SIMILAR_PAIR and not p.copies]
        similar = [pair for pair in high if pair.above_null]
        return cls(
            known,
            similar,
            [pair for pair in similar if (pair.cka or 0) >= SAME_PAIR],
            [pair for pair in high if not pair.above_null],
        )

    def many(self, some: list[Pair]) -> bool:
        """Whether these are more than one in twenty."""
        return len(some) > MANY_PAIRS * len(self.all)


def pairs_of(layers: Sequence[LayerFindings]) -> Iterator[Pair]:
    """All pairs of these layers, also those whose CKA is undefined."""
    return (Pair(layer, i, j, layer.cka[i][j]) for layer in layers for i, j in layer.pairs())


def most_similar(layers: Sequence[LayerFindings], count: int) -> list[Pair]:
    """The `count` most similar pairs: exact copies, then those of the highest CKA.

    Pairs whose CKA is undefined are left out unless they are exact copies.
    """
    known = (pair for pair in pairs_of(layers) if pair.cka is not None or pair.copies)
    return heapq.nsmallest(count, known, key=lambda pair: (pair.copies is None, pair.order))
