"""The colours of similarity: one map for the monitor and for the report, so that a colour means the
same in both.

Dark means different, light means similar. The map is matplotlib's viridis (Smith and van der Walt)
from 0 to 1, as published heat maps of CKA have it; both ends differ from a black, a white and a
grey background. Debiased estimates below 0 have the colour of 0: they mean unrelated as well.

A change of similarity, between two probes or two runs, is ColorBrewer's RdBu, reversed: blue where
experts became less similar, red where they became more similar, white where nothing changed.
"""

from __future__ import annotations


def _map(colors: str) -> tuple[str, ...]:
    return tuple(f"#{color}" for color in colors.split())


# Between neighbours, colours are interpolated in straight lines of RGB.
SIMILARITY = _map("440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725")
SIMILARITY_ENDS = (0.0, 1.0)
CHANGE = _map("2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b")
