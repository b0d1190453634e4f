"""The matrices of a probe as one picture: a heat map for each layer, in the colours of the report.

Grey is what is undefined, the diagonal among it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.run.probes import Matrices
from simsmoe_cli.run.similarity_colours import SIMILARITY, SIMILARITY_ENDS

SIDE = 160  # pixels of a heat map, about
GAP = 8
UNDEFINED, BACKGROUND = 128, 255


def heat_maps(matrices: Matrices) -> NDArray[np.uint8]:
    """The similarity of all pairs, [H, W, 3]: layers from left to right, in rows."""
    cka_LNN = matrices.cka_LNN
    layers, experts = cka_LNN.shape[:2]
    cell = max(1, SIDE // max(1, experts))
    side, across = cell * experts, math.ceil(math.sqrt(layers))
    down = math.ceil(layers / across)
    whole = np.full(
        (down * (side + GAP) - GAP, across * (side + GAP) - GAP, 3), BACKGROUND, np.uint8
    )
    for layer in range(layers):
        top, left = (place * (side + GAP) for place in divmod(layer, across))
        coloured = _coloured(cka_LNN[layer])
        whole[top : top + side, left : left + side] = coloured.repeat(cell, 0).repeat(cell, 1)
    return whole


def _coloured(cka_NN: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = SIMILARITY_ENDS
    stops_S3 = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in SIMILARITY])
    defined_NN = np.isfinite(cka_NN) & ~np.eye(len(cka_NN), dtype=bool)
    at_NN = np.clip((np.where(defined_NN, cka_NN, low) - low) / (high - low), 0, 1)
    at_NN = at_NN * (len(stops_S3) - 1)
    rgb_NN3 = np.stack(
        [np.interp(at_NN, np.arange(len(stops_S3)), stops_S3[:, i]) for i in range(3)], -1
    )
    return np.where(defined_NN[..., None], np.rint(rgb_NN3), UNDEFINED).astype(np.uint8)
