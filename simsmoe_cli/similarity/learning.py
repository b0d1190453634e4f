"""Similarity learning: the loss that keeps experts different (SimSMoE, 2406.15883, section 3).

Three scopes decide which experts are compared:

- `pairs`, the paper's: the pair tracker says which pairs are due. Their outputs on tokens that both
  experts received are compared, through a head: T_ij = sim(head(E_i(x)), head(E_j(x))). Pairs
  above the threshold T* add T_ij to the loss. With `anywhere`, beyond the paper, due pairs are
  compared a second time, on tokens of the whole batch: experts that differ on shared tokens may be
  similar on others, and vice versa.
- `layer`: n tokens of the batch, drawn uniformly, go through every expert. The loss is the mean
  over all N(N-1)/2 pairs of T_ij if above T*, else 0. All pairs are one call: of the measure's form
  for all pairs, which works on N experts, or else of the measure itself on N(N-1)/2 pairs, whose
  memory grows as N^2 n (n + D).
- `experts`: the same tokens, but each expert is set against all others at once (see
  `contrastive.expert_confusion`); the loss is the mean over experts of T_i where it is above T*.

The last two are the paper's future work. Tokens are detached, so the gradient reaches only experts
and the head. T*, f* and sigma may be schedules, whose values the host computes from the step.

Departures from published code: the loss carries no coefficient here and is
never mixed into the balance loss; at most P pairs and n tokens of each are measured, all in one
batched call with static shapes; pairs with fewer than `min_tokens` shared tokens wait; K = 1 works;
on a CPU, nothing is computed where no pair is due.

Shapes: T tokens, D width, N experts, K experts per token, P pairs, n sampled tokens, R rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from simsmoe_cli import registry
from simsmoe_cli.errors import UserError
from simsmoe_cli.kernels.cpu import on_cpu_path
from simsmoe_cli.parallel.world import differentiable_sum, ranks
from simsmoe_cli.recipe.schedule import value_at
from simsmoe_cli.recipe.similarity import SimilaritySettings
from simsmoe_cli.similarity.contrastive import expert_confusion
from simsmoe_cli.similarity.pairs import (
    PairTracker,
    sample_any,
    sample_shared,
    selection_mask,
)

Backend = Callable[[Tensor, Tensor], Tensor]


@dataclass
class SimilarityResult:
    """The result of one step of one layer; all scalars, fp32.

    Attributes:
        loss: over the similarities above T*, without a coefficient.
        pairs_due: how many pairs were measured; in scope pairs, those that were due.
        mean: mean similarity of the measured pairs, above T* or not; nan if there were none.
    """

    loss: Tensor
    pairs_due: Tensor
    mean: Tensor


class SimilarityLearning(nn.Module):
    """The head and loss of one MoE layer, and its pair tracker. To be called in training only."""

    def __init__(
        self,
        settings: SimilaritySettings,
        width: int,
        num_experts: int,
        top_k: int,
        generator: torch.Generator | None = None,
        *,
        over_ranks: bool = False,
    ):
        """Args:
            settings: what is compared and how.
            width, num_experts, top_k: D, N and K of the layer.
            generator: what draws tokens; PyTorch's own if left out.
            over_ranks: whether a similarity is over the tokens of all ranks. Each rank draws tokens
                of its own, and all get the same result. Otherwise a rank measures its own tokens.

        Raises:
            UserError: there are fewer than two experts, or the measure is unknown.
        """
        super().__init__()
        self.generator = generator
        self.over_ranks = over_ranks
        if num_experts < 2:
            raise UserError(
                "similarity learning compares experts, and there is only one",
                where="moe.experts",
                hint="Use at least 2 experts, or similarity.preset none.",
            )
        self.settings = settings
        self.num_experts = num_experts
        self.top_k = top_k
        self.measure: Callable[..., Tensor] = registry.load("similarity", settings.measure)
        all_pairs = registry.MEASURES[settings.measure].all_pairs
        self.all_pairs: Callable[..., Tensor] | None = None
        if settings.scope == "layer" and all_pairs:
            self.all_pairs = registry.resolve(all_pairs)
        self.options = {
            name: value
            for name in settings.measure_options
            if (value := getattr(settings, name)) != "auto"
        }
        if settings.scope == "pairs":
            self.tracker = PairTracker(num_experts)
        self.head = _head(settings.head, width, num_experts)
        if settings.head_frozen:
            self.head.requires_grad_(False)

    @property
    def timed(self) -> bool:
        """Whether any setting but the loss's weight is a schedule, which depends on the step."""
        settings = self.settings
        values = [settings.check_every, settings.threshold, *self.options.values()]
        return any(isinstance(value, list) for value in values)

    @property
    def _adds_up(self) -> bool:
        """Whether there are other ranks whose tokens count as well."""
        return self.over_ranks and ranks() > 1

    def forward(
        self,
        x_TD: Tensor,
        index_TK: Tensor,
        logits_TN: Tensor,
        run_experts: Backend,
        step: int = 0,
        total_steps: int = 1,
        real_T: Tensor | None = None,
    ) -> SimilarityResult:
        """Count a batch's shared tokens and measure the pairs of the scope.

        Args:
            x_TD: hidden states the MoE layer was given; detached here.
            index_TK: experts each token was routed to, int64.
            logits_TN: router logits.
            run_experts: (rows [R, D] sorted by expert, count_N int64) -> rows [R, D], without
                dropout.
            step, total_steps: of the training, for schedules.
            real_T: which tokens are not padding, bool; None: all. Shapes do not depend on their
                number, so nothing waits on the device. The scopes layer and experts leave out a
                batch with fewer of them than it would draw.
        """

        settings = self.settings

        def now(value: Any) -> Any:
            return value_at(value, step / total_steps) if isinstance(value, list) else value

        options = {name: now(value) for name, value in self.options.items()}
        if self._adds_up:
            options["total"] = differentiable_sum
        x_TD = x_TD.detach()
        if settings.scope == "pairs":
            f_star = now(settings.check_every)
            selected_TN = selection_mask(index_TK, logits_TN, self.top_k)
            if real_T is not None:
                selected_TN = selected_TN & real_T[:, None]
            count_NN = self.tracker.observe(selected_TN, real_T)
            similarity, measured = self._pairs(
                x_TD, selected_TN, real_T, count_NN, run_experts, f_star, options
            )
        else:
            outputs_NnD = self._every_expert(x_TD, real_T, run_experts)
            compare = self._layer if settings.scope == "layer" else expert_confusion
            similarity = compare(outputs_NnD, **options)
            measured = torch.ones_like(similarity, dtype=torch.bool)
            if real_T is not None:
                measured &= real_T.sum() >= outputs_NnD.shape[1]

        defined = measured & ~similarity.isnan()
        similar = defined & (similarity > now(settings.threshold))
        loss = torch.where(similar, similarity, 0.0).sum()
        count = defined.sum().float()
        mean = torch.where(defined, similarity.detach(), 0.0).sum() / count
        if settings.scope == "pairs":
            count = defined[0].sum().float()
        else:
            loss = loss / count.clamp(min=1)
        if settings.scope == "experts":
            count = count * (count - 1) / 2
        return SimilarityResult(loss, count, mean)

    def _pairs(
        self,
        x_TD: Tensor,
        selected_TN: Tensor,
        real_T: Tensor | None,
        count_NN: Tensor,
        run_experts: Backend,
        check_every: float,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """T of the P pairs most overdue, and which of them are due and were measured, [X, P].

        X is 1, or 2 if the pairs are compared anywhere as well.
        """
        settings = self.settings
        with torch.no_grad():
            enough_NN = count_NN >= settings.min_tokens
            due = self.tracker.due(settings.pairs, check_every, enough_NN)
            if on_cpu_path(x_TD) and not due.due_P.any():
                return self._nothing(x_TD)
            count = settings.tokens // 2 if settings.anywhere else settings.tokens
            index_Pn, mask_Pn = sample_shared(
                selected_TN, due.first_P, due.second_P, count, self.generator
            )
            # A pair that every rank checks may share few tokens on this one.
            enough_P = mask_Pn.sum(1) >= min(settings.min_tokens, count)
            measured_P = due.due_P
            if self._adds_up:
                mask_Pn = mask_Pn & enough_P[:, None]
            else:
                measured_P = measured_P & enough_P
            self.tracker.checked(due)
            first_P, second_P, measured_XP = due.first_P, due.second_P, measured_P[None]
            if settings.anywhere:
                first_P, second_P = first_P.repeat(2), second_P.repeat(2)
                drawn_Pn, real_Pn = sample_any(index_Pn, len(x_TD), real_T, self.generator)
                index_Pn = torch.cat([index_Pn, drawn_Pn])
                mask_Pn = torch.cat([mask_Pn, real_Pn])
                measured_XP = measured_XP.expand(2, -1)
        first_PnD, second_PnD = self._outputs(x_TD, first_P, second_P, index_Pn, run_experts)
        similarity = self.measure(first_PnD, second_PnD, mask_Pn, **options)
        return similarity.view(measured_XP.shape), measured_XP

    def _nothing(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """The result of `_pairs` where no pair is due, [1, 0]; gives the head a gradient of 0."""
        with torch.enable_grad():
            similarity = self._project(x_TD.new_empty(1, 0, x_TD.shape[1]))[..., 0]
        return similarity, torch.empty_like(similarity, dtype=torch.bool)

    def _outputs(
        self,
        x_TD: Tensor,
        first_P: Tensor,
        second_P: Tensor,
        index_Pn: Tensor,
        run_experts: Backend,
    ) -> tuple[Tensor, Tensor]:
        """Both experts' outputs on each pair's tokens, [P, n, D] twice, in one call of the experts.

        Each of the 2P blocks of n rows goes to one expert, so sorting rows is sorting blocks.
        """
        pairs, n = index_Pn.shape
        expert_B = torch.cat([first_P, second_P])
        order_B = expert_B.argsort(stable=True)
        index_R = torch.cat([index_Pn, index_Pn]).index_select(0, order_B).flatten()
        block_rows_B = torch.full_like(expert_B, n)
        count_N = block_rows_B.new_zeros(self.num_experts).scatter_add(0, expert_B, block_rows_B)
        rows_RD = run_experts(x_TD.index_select(0, index_R), count_N)
        blocks_BnD = rows_RD.reshape(2 * pairs, n, -1).index_select(0, order_B.argsort())
        first_PnD, second_PnD = self._project(blocks_BnD).chunk(2)
        return first_PnD, second_PnD

    def _every_expert(self, x_TD: Tensor, real_T: Tensor | None, run_experts: Backend) -> Tensor:
        """All experts' outputs on up to n tokens, drawn uniformly without replacement, [N, n, D].

        From T on, all tokens are taken in order and nothing is drawn. Padding comes last.
        """
        tokens = self.settings.tokens
        if tokens < x_TD.shape[0]:
            chance_T = torch.rand(x_TD.shape[0], device=x_TD.device, generator=self.generator)
            if real_T is not None:
                chance_T = torch.where(real_T, chance_T, -1.0)
            x_TD = x_TD.index_select(0, chance_T.topk(tokens).indices)
        count_N = torch.full((self.num_experts,), x_TD.shape[0], device=x_TD.device)
        rows_RD = run_experts(x_TD.repeat(self.num_experts, 1), count_N)
        return self._project(rows_RD.reshape(self.num_experts, x_TD.shape[0], -1))

    def _layer(self, outputs_NnD: Tensor, **options: Any) -> Tensor:
        """T of all pairs, [P]."""
        first_P, second_P = torch.triu_indices(
            self.num_experts, self.num_experts, 1, device=outputs_NnD.device
        )
        if self.all_pairs is not None:
            similarity_NN = self.all_pairs(outputs_NnD, **options)
            return similarity_NN.flatten().index_select(0, first_P * self.num_experts + second_P)
        first_PnD = outputs_NnD.index_select(0, first_P)
        return self.measure(first_PnD, outputs_NnD.index_select(0, second_P), **options)

    def _project(self, outputs: Tensor) -> Tensor:
        """The head, in fp32."""
        with torch.autocast(outputs.device.type, enabled=False):
            projected: Tensor = self.head(outputs.float())
            return projected


def _head(kind: str, width: int, num_experts: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, num_experts)
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(width, num_experts), nn.ReLU(), nn.Linear(num_experts, num_experts)
        )
    return nn.Identity()
