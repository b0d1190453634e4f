"""Which tokens of the vocabulary an expert receives, and which it receives above its share.

Vocabulary specialisation follows OLMoE (2409.02060, section 5.4): how much of the occurrences of an
expert's tokens are sent to it. There the share of a token includes the occurrence itself, so that
rare tokens look special by chance; here it is the share of the other occurrences, whose expectation
without specialisation is the expert's share of all tokens.

Shapes: T tokens, N experts, K experts per token, V different tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsmoe_cli.collapse.specialisation import FavouriteToken
from simsmoe_cli.similarity.shared import received

FAVOURITES = 8  # tokens named for each expert
FEWEST_OCCURRENCES = 10  # of a token that is named


def token_specialisation(
    index_TK: Tensor, ids_T: Tensor, experts: int, text_of: Callable[[list[int]], list[str]]
) -> dict[str, Any]:
    """The fields `favourites` and `vocabulary` of `findings.LayerFindings`.

    Args:
        index_TK: chosen experts of all tokens read; N for an empty slot.
        ids_T: these tokens.
        experts: N.
        text_of: tokens as text; an empty list where that is not known.
    """
    different_V, place_T = np.unique(ids_T.cpu().numpy(), return_inverse=True)
    count_VN = _counts(received(index_TK, experts), torch.from_numpy(place_T), len(different_V))
    count_V = np.bincount(place_T, minlength=len(different_V)).astype(np.float64)
    fair_N = count_VN.sum(0) / len(place_T)
    return {
        "favourites": _favourites(count_VN, count_V, fair_N, different_V, text_of),
        "vocabulary": _vocabulary(count_VN, count_V),
    }


def _counts(received_TN: Tensor, place_T: Tensor, different: int) -> NDArray[np.float64]:
    """How often each token was sent to each expert, [V, N]."""
    count_VN = torch.zeros(different, received_TN.shape[1], dtype=torch.float64)
    count_VN.index_add_(0, place_T, received_TN.double().cpu())
    return count_VN.numpy()


def _vocabulary(count_VN: NDArray[np.float64], count_V: NDArray[np.float64]) -> list[float | None]:
    again_V = count_V > 1  # only these have other occurrences
    count_VN, count_V = count_VN[again_V], count_V[again_V]
    others_VN = (count_VN - 1) / (count_V[:, None] - 1)
    total_N, of_N = (count_VN * others_VN).sum(0), count_VN.sum(0)
    return [float(total / of) if of else None for total, of in zip(total_N, of_N, strict=True)]


def _favourites(
    count_VN: NDArray[np.float64],
    count_V: NDArray[np.float64],
    fair_N: NDArray[np.float64],
    different_V: NDArray[np.int64],
    text_of: Callable[[list[int]], list[str]],
) -> list[list[FavouriteToken]]:
    above_VN = count_VN - count_V[:, None] * fair_N
    above_VN[count_V < FEWEST_OCCURRENCES] = 0
    order_VN = np.argsort(-above_VN, axis=0, kind="stable")[:FAVOURITES]
    named = sorted({int(v) for v in order_VN[above_VN[order_VN, np.arange(len(fair_N))] > 0]})
    ids = [int(different_V[v]) for v in named]
    texts = dict(zip(named, text_of(ids) or map(str, ids), strict=True))
    found = []
    for expert, fair in enumerate(fair_N):
        best = [int(v) for v in order_VN[:, expert] if above_VN[v, expert] > 0]
        shares = {v: float(count_VN[v, expert] / count_V[v]) for v in best}
        found.append(
            [
                FavouriteToken(
                    text=texts[v],
                    count=int(count_V[v]),
                    share=shares[v],
                    over_fair=shares[v] / float(fair),
                )
                for v in best
            ]
        )
    return found
