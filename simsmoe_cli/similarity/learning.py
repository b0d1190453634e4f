"""Similarity learning: the loss that keeps experts different (SimSMoE, 2406.15883, section 3).

Each step the pair tracker names the pairs that are due; on tokens both experts received, their
outputs, through a head, are compared: T_ij = sim(head(E_i(x)), head(E_j(x))). Pairs above T* add
T_ij to the loss. Tokens are detached, so the gradient reaches the two experts and the head alone.

Departures from published code (METHODS.md section 4): the loss carries no coefficient here and is
never mixed into the balance loss; at most P pairs and n tokens of each are measured, all in one
batched call with static shapes; pairs with fewer than `min_tokens` shared tokens wait; K = 1 works.

Shapes: T tokens, D width, N experts, K experts per token, P pairs, n sampled tokens per pair,
R = 2Pn rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simsmoe_cli.errors import UserError
from simsmoe_cli.recipe import SimilaritySettings
from simsmoe_cli.registry import load
from simsmoe_cli.similarity.pairs import PairTracker, sample_shared, selection_mask


@dataclass
class SimilarityResult:
    """What one step of one layer found; all scalars, fp32.

    Attributes:
        loss: sum of T_ij over the measured pairs above T*, without a coefficient.
        pairs_due: how many pairs were due and measured.
        mean: mean T_ij of those pairs, whether above T* or not; nan if there are none.
    """

    loss: Tensor
    pairs_due: Tensor
    mean: Tensor


class SimilarityLearning(nn.Module):
    """The pair tracker, head and loss of one MoE layer. To be called in training only."""

    def __init__(self, settings: SimilaritySettings, width: int, experts: int, top_k: int):
        """Raises UserError when there are fewer than two experts or the measure is unknown."""
        super().__init__()
        if experts < 2:
            raise UserError(
                "similarity learning compares experts, and there is only one",
                where="moe.experts",
                hint="Use at least 2 experts, or similarity.preset none.",
            )
        self.settings = settings
        self.experts = experts
        self.top_k = top_k
        self.measure: Callable[..., Tensor] = load("similarity", settings.measure)
        self.tracker = PairTracker(experts)
        self.head = _head(settings.head, width, experts)
        if settings.head_frozen:
            self.head.requires_grad_(False)

    def forward(
        self,
        x_TD: Tensor,
        index_TK: Tensor,
        logits_TN: Tensor,
        experts: Callable[[Tensor, Tensor], Tensor],
    ) -> SimilarityResult:
        """Observes a batch and measures the pairs that are due.

        Args:
            x_TD: hidden states the MoE layer was given; detached here.
            index_TK: experts each token was routed to, int64.
            logits_TN: router logits.
            experts: (rows [R, D] sorted by expert, count_N int64) -> rows [R, D], without dropout.
        """
        settings = self.settings
        with torch.no_grad():
            selected_TN = selection_mask(index_TK, logits_TN, self.top_k)
            count_NN = self.tracker.observe(selected_TN)
            enough_NN = count_NN >= settings.min_tokens
            due = self.tracker.due(settings.pairs, settings.check_every, enough_NN)
            index_Pn, mask_Pn = sample_shared(
                selected_TN, due.first_P, due.second_P, settings.tokens
            )
            # A pair every rank checks may share few tokens on this one.
            measured_P = due.due_P & (mask_Pn.sum(1) >= settings.min_tokens)
            self.tracker.checked(due)

        first_PnD, second_PnD = self._outputs(x_TD, due.first_P, due.second_P, index_Pn, experts)
        with torch.autocast(x_TD.device.type, enabled=False):
            first_PnD, second_PnD = self.head(first_PnD.float()), self.head(second_PnD.float())
            similarity_P = self.measure(first_PnD, second_PnD, mask_Pn, sigma=settings.sigma)

        defined_P = measured_P & ~similarity_P.isnan()
        similar_P = defined_P & (similarity_P > settings.threshold)
        loss = torch.where(similar_P, similarity_P, 0.0).sum()
        pairs_due = defined_P.sum().float()
        mean = torch.where(defined_P, similarity_P.detach(), 0.0).sum() / pairs_due
        return SimilarityResult(loss, pairs_due, mean)

    def _outputs(
        self,
        x_TD: Tensor,
        first_P: Tensor,
        second_P: Tensor,
        index_Pn: Tensor,
        experts: Callable[[Tensor, Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Both experts' outputs on each pair's tokens, [P, n, D] twice, in one call of `experts`.

        Each of the 2P blocks of n rows goes to one expert, so sorting rows is sorting blocks.
        """
        places, n = index_Pn.shape
        expert_B = torch.cat([first_P, second_P])
        order_B = expert_B.argsort(stable=True)
        index_R = torch.cat([index_Pn, index_Pn]).index_select(0, order_B).flatten()
        block_rows_B = torch.full_like(expert_B, n)
        count_N = block_rows_B.new_zeros(self.experts).scatter_add(0, expert_B, block_rows_B)
        rows_RD = experts(x_TD.detach().index_select(0, index_R), count_N)
        blocks_BnD = rows_RD.reshape(2 * places, n, -1).index_select(0, order_B.argsort())
        first_PnD, second_PnD = blocks_BnD.chunk(2)
        return first_PnD, second_PnD


def _head(kind: str, width: int, experts: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, experts)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, experts), nn.ReLU(), nn.Linear(experts, experts))
    return nn.Identity()
