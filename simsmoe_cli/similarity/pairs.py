"""Decides when a pair of experts is due, by the tokens they share (SimSMoE, 2406.15883).

For every pair, the tracker adds up the fraction of tokens that both experts received. A pair whose
sum exceeds f* (`similarity.check_every`) is *due* (`PairTracker.due`), and starts again from 0
after it was compared.

Departures from published code: the published code counts in a Python Counter and checks every due
pair, so the work of a step depends on the data. Here the P most overdue pairs are selected, with a
mask that says which of them are due, so shapes never change and nothing waits on the device. A pair
that shares too few tokens in a batch is not selected and waits for a later batch. As in the
published code, due pairs are checked after every batch, micro-batches included.

Shapes: T tokens, N experts, K experts per token, P pairs, n sampled tokens per pair.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simsmoe_cli.parallel.world import ranks, sum_over_ranks


class DuePairs(NamedTuple):
    """P pairs of experts, the most overdue first.

    Attributes:
        first_P, second_P: the two experts, int64, first < second.
        due_P: whether the pair is due; the remaining entries are pairs that are not due.
    """

    first_P: Tensor
    second_P: Tensor
    due_P: Tensor


class PairTracker(nn.Module):
    """Adds up the fraction of tokens that each pair of experts shares, since its last check.

    The sums are a buffer, `shared_NN` (fp32, symmetric, zero diagonal), so checkpoints contain
    them. Counts are summed over all ranks, so that all ranks take the same pairs.
    """

    shared_NN: Tensor

    def __init__(self, num_experts: int):
        super().__init__()
        self.num_experts = num_experts
        self.register_buffer(
            "shared_NN", torch.zeros(num_experts, num_experts, dtype=torch.float32)
        )

    @torch.no_grad()
    def observe(
        self, selected_TN: Tensor, real_T: Tensor | None = None, stands_for: int = 1
    ) -> Tensor:
        """Adds a batch, S += (M^T M) / T off the diagonal.

        Args:
            selected_TN: which experts each token was routed to, bool; none for padding.
            real_T: which tokens are not padding, bool; T counts these alone. None: all.
            stands_for: how many batches this one stands for; its share is added as often.

        Returns:
            Tokens of all ranks that each pair shares in this batch, [N, N] fp32.
        """
        with torch.autocast(selected_TN.device.type, enabled=False):
            mask_TN = selected_TN.float()
            count_NN = mask_TN.T @ mask_TN
        count_NN = count_NN.triu(1) + count_NN.tril(-1)
        tokens: int | Tensor = len(selected_TN)
        if real_T is not None:
            tokens = real_T.sum().clamp(min=1)
        if ranks() > 1:
            # Ranks may have different numbers of tokens, and must still choose the same pairs.
            both = torch.cat([count_NN.flatten(), count_NN.new_zeros(1) + tokens])
            both = sum_over_ranks(both)
            count_NN, tokens = both[:-1].view_as(count_NN), both[-1]
        self.shared_NN.add_(count_NN / tokens, alpha=stands_for)
        return count_NN

    @torch.no_grad()
    def due(self, pairs: int, check_every: float, able_NN: Tensor | None = None) -> DuePairs:
        """The pairs most overdue: the largest S_ij > `check_every`.

        Args:
            pairs: how many at most; P = min(pairs, N(N-1)/2).
            check_every: f*, in batches' worth of shared tokens.
            able_NN: pairs with enough shared tokens to be checked now, symmetric bool; None: all
                pairs.
        """
        score_NN = self.shared_NN
        if able_NN is not None:
            score_NN = torch.where(able_NN, score_NN, -1.0)
        upper_NN = torch.ones_like(score_NN, dtype=torch.bool).triu(1)
        score_NN = torch.where(upper_NN, score_NN, -torch.inf)
        slots = min(pairs, self.num_experts * (self.num_experts - 1) // 2)
        score_P, pair_P = score_NN.flatten().topk(slots)
        return DuePairs(
            pair_P // self.num_experts, pair_P % self.num_experts, score_P > check_every
        )

    @torch.no_grad()
    def checked(self, pairs: DuePairs) -> None:
        """Sets the sums of the pairs that were due back to 0."""
        first_P, second_P, due_P = pairs
        left_P = torch.where(due_P, 0.0, self.shared_NN[first_P, second_P])
        self.shared_NN[first_P, second_P] = left_P
        self.shared_NN[second_P, first_P] = left_P


@torch.no_grad()
def selection_mask(index_TK: Tensor, logits_TN: Tensor, top_k: int) -> Tensor:
    """Which experts count as having received a token, [T, N] bool.

    The experts it was routed to. For K = 1, where no two experts share a token, also the expert
    with the highest logit among the others. An index of N marks an empty slot.
    """
    tokens, num_experts = logits_TN.shape
    if top_k == 1:
        others_TN = F.pad(logits_TN, (0, 1)).scatter(1, index_TK, -torch.inf)[:, :num_experts]
        index_TK = torch.cat([index_TK, others_TN.argmax(1, keepdim=True)], dim=1)
    selected = torch.zeros(tokens, num_experts + 1, dtype=torch.bool, device=logits_TN.device)
    return selected.scatter(1, index_TK, True)[:, :num_experts]


def sample_shared(
    selected_TN: Tensor,
    first_P: Tensor,
    second_P: Tensor,
    tokens: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Up to `tokens` of the tokens each pair shares, drawn uniformly without replacement.

    Args:
        selected_TN: which experts each token was routed to, bool.
        first_P, second_P: the pairs.
        tokens: n at most; from T on, all tokens are taken in order and nothing is drawn.
        generator: what draws; PyTorch's own if left out.

    Returns:
        index [P, n] int64 into the tokens, and mask [P, n] bool: the entries that are shared
        tokens. The other entries are some tokens that are not shared.
    """
    shared_PT = (selected_TN[:, first_P] & selected_TN[:, second_P]).T
    if tokens >= shared_PT.shape[1]:
        index_T = torch.arange(shared_PT.shape[1], device=shared_PT.device)
        return index_T.expand_as(shared_PT), shared_PT
    chance_PT = torch.rand(shared_PT.shape, device=shared_PT.device, generator=generator)
    index_Pn = torch.where(shared_PT, chance_PT, -1.0).topk(tokens).indices
    return index_Pn, shared_PT.gather(1, index_Pn)


def sample_any(
    index_Pn: Tensor,
    tokens: int,
    real_T: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The same number of tokens for each pair, drawn uniformly without replacement from all.

    Args:
        index_Pn: gives P and n; where n is T, all tokens are taken in order and nothing is drawn.
        tokens: T.
        real_T: which tokens are not padding, bool; None: all.
        generator: what draws; PyTorch's own if left out.

    Returns:
        index [P, n] int64 into the tokens, and mask [P, n] bool: the entries that are not padding.
    """
    pairs, count = index_Pn.shape
    if count == tokens:
        drawn_Pn = torch.arange(tokens, device=index_Pn.device).expand(pairs, tokens)
    else:
        chance_PT = torch.rand(pairs, tokens, device=index_Pn.device, generator=generator)
        if real_T is not None:
            chance_PT = torch.where(real_T, chance_PT, -1.0)
        drawn_Pn = chance_PT.topk(count).indices
    if real_T is None:
        return drawn_Pn, torch.ones_like(drawn_Pn, dtype=torch.bool)
    return drawn_Pn, real_T[drawn_Pn]
