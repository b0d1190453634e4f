"""The loss of a model that predicts each token by its frequency in the text alone.

Each token is guessed from the frequencies of all other tokens of the same text, smoothed towards
the uniform distribution by as much as the text has different tokens (Witten and Bell 1991):

    p(x) = (c(x) + m / V) / (T + m)

with the counts c (of x), T (tokens) and m (different tokens) without the token itself. A real
predictor could reach this loss, unlike the entropy of the sample, which is too low for a short
text. So a loss above it means that the context did not help.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def frequency_nats(ids: NDArray[np.int64], choices: int | None) -> float | None:
    """Mean cross-entropy in nats of guessing each token by the frequencies of the others.

    Args:
        ids: the tokens.
        choices: V, the size of the vocabulary.

    Returns:
        None with fewer than two tokens or where the vocabulary's size is not known.
    """
    if choices is None or len(ids) < 2:
        return None
    _, count = np.unique(ids, return_counts=True)
    others = len(ids) - 1
    different = len(count) - (count == 1)
    probability = (count - 1 + different / max(choices, len(count))) / (others + different)
    return float(-(count * np.log(probability)).sum() / len(ids))
