"""The order of a matrix's rows in which similar ones stand together: average linkage.

The monitor and the report order the experts of their heat maps by it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 512  # rows; more keep their order, because the time grows with the cube


def cluster_order(similarity_NN: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The rows by cluster, [N].

    The two clusters with the highest mean similarity between their members are joined until one is
    left (Sokal and Michener 1958); where two are joined, the ends that face each other are the most
    similar ones.

    Args:
        similarity_NN: symmetric; an undefined similarity counts as the lowest one.
    """
    rows = len(similarity_NN)
    if not 2 < rows <= MOST:
        return np.arange(rows)
    known = np.isfinite(similarity_NN)
    lowest = float(similarity_NN[known].min()) if known.any() else 0.0
    pair_NN = np.where(known, similarity_NN, lowest).astype(np.float64)
    mean_NN = pair_NN.copy()
    np.fill_diagonal(mean_NN, -np.inf)
    members = [[row] for row in range(rows)]
    for _ in range(rows - 1):
        first, second = divmod(int(mean_NN.argmax()), rows)
        one, two = members[first], members[second]
        between = (len(one) * mean_NN[first] + len(two) * mean_NN[second]) / (len(one) + len(two))
        mean_NN[first] = mean_NN[:, first] = between
        mean_NN[second] = mean_NN[:, second] = mean_NN[first, first] = -np.inf
        members[first] = max(
            (a + b for a in (one, one[::-1]) for b in (two, two[::-1])),
            key=lambda order: pair_NN[order[len(one) - 1], order[len(one)]],
        )
        members[second] = []
    return np.array(next(order for order in members if order))
