"""Hash router: a fixed table says which experts a token id goes to (Roller et al. 2106.04426).

Nothing is learned, so routing can neither collapse nor adapt; weights are 1/K. The table is drawn
once from the seed and the layer and is a buffer, so a checkpoint holds the one it was trained with.
It is balanced over the vocabulary: at each of the K ranks, every expert has as many token ids as
any other, to within one. (The paper's balanced hash counts how often tokens occur in the corpus,
which a recipe does not know.)

The table lists all experts for each id, in a separate order, so any K can be used.

Shapes: T tokens, D model width, N experts, K experts per token, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from simsmoe_cli.moe.routers.base import (
    Router,
    RouterInput,
    RouterSpec,
    Routing,
    list_routing,
    token_ids,
    vocabulary_of,
)


class HashRouter(Router):
    """`order_VN`, int16: the experts of each token id, the first K of which it goes to."""

    order_VN: Tensor

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        order_VN = balanced_orders(vocabulary_of(spec), spec.num_experts, (spec.seed, spec.layer))
        self.register_buffer("order_VN", torch.tensor(order_VN, dtype=torch.int16))

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        order_TN = self.order_VN[token_ids(given)].long()
        return list_routing(order_TN, self.chosen_k(given))


def balanced_orders(
    vocabulary: int, num_experts: int, seed: tuple[int, ...]
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """An order of all experts for each token id, [V, N], every column balanced.

    Ids are divided into random groups of N. In a group, id j has the order (j + s_r) mod N, where s
    is a random permutation of the group that starts with 0, so each column of a group has every
    expert once.
    """
    random = np.random.default_rng(seed)
    groups = -(-vocabulary // num_experts)
    ids_N = np.arange(num_experts)
    shift_GN = np.tile(ids_N, (groups, 1))
    shift_GN[:, 1:] = random.permuted(shift_GN[:, 1:], axis=1)
    order_GNN = (ids_N[None, :, None] + shift_GN[:, None, :]) % num_experts
    order_VN: np.ndarray[tuple[int, int], np.dtype[np.int64]] = order_GNN.reshape(-1, num_experts)
    return order_VN[random.permutation(vocabulary)]
