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

A comparison has three parts: `choose` decides which experts are run on which tokens, the caller
runs them (in one product with the batch's own rows, or with `run`), and `compare` measures their
outputs. Under a budget (`cost.py`) experts are compared in every m-th step alone, and the loss
counts m times. While the loss's weight is 0, nothing is compared.

Departures from published code: the loss carries no coefficient here and is
never mixed into the balance loss; at most P pairs and n tokens of each are measured, all in one
batched call with static shapes; pairs with fewer than `min_tokens` shared tokens wait; K = 1 works;
on a CPU, nothing is computed where no pair is due.

Shapes: T tokens, D width, N experts, K experts per token, P pairs, n sampled tokens, R rows, B
blocks: n tokens that go to one expert.
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
from simsmoe_cli.similarity.hsic_ratio import DEBIASED_ROWS
from simsmoe_cli.similarity.pairs import (
    PairTracker,
    sample_any,
    sample_shared,
    selection_mask,
)

Backend = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Choice:
    """What is compared in one step: B blocks of n tokens, each given to one expert.

    Attributes:
        expert_B: the expert of each block, int64. In scope pairs B = 2XP: the first experts of all
            pairs, then the second ones, where X is 1, or 2 if pairs are also compared anywhere.
            Otherwise every expert in order.
        token_Bn: its tokens, int64.
        mask_Pn: scope pairs: which of a pair's n tokens count, [XP, n].
        measured_XP: scope pairs: which pairs are due and measured, [X, P].
        enough: other scopes, with padding: whether there are n real tokens, a bool scalar.
        options: of the measure, with the values of this step.
        threshold: T* of this step.
        stands_for: how many steps the comparison stands for.
    """

    expert_B: Tensor
    token_Bn: Tensor
    mask_Pn: Tensor | None
    measured_XP: Tensor | None
    enough: Tensor | None
    options: dict[str, Any]
    threshold: float
    stands_for: int

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Expert and token of every row, [B*n] each, block after block."""
        expert_R = self.expert_B[:, None].expand_as(self.token_Bn).flatten()
        return expert_R, self.token_Bn.flatten()


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

    @property
    def _least_shared(self) -> int:
        """How many tokens of all ranks a pair must share to be compared.

        If they add up, so many that at least one rank can estimate HSIC from its own; else as many
        on an average rank as in one process.
        """
        least = self.settings.min_tokens
        if self._adds_up:
            return max(least, ranks() * (DEBIASED_ROWS - 1) + 1)
        return least * ranks()

    def forward(
        self,
        x_TD: Tensor,
        index_TK: Tensor,
        logits_TN: Tensor,
        run_experts: Backend,
        step: int = 0,
        total_steps: int = 1,
        real_T: Tensor | None = None,
        stands_for: int = 1,
    ) -> SimilarityResult:
        """Choose, run the experts and compare, where the caller does not run them himself.

        Args:
            x_TD: hidden states the MoE layer was given; detached here.
            run_experts: (rows [R, D] sorted by expert, count_N int64) -> rows [R, D], without
                dropout.
            index_TK, logits_TN, step, total_steps, real_T, stands_for: as of `choose`.
        """
        choice = self.choose(index_TK, logits_TN, step, total_steps, real_T, stands_for)
        if choice is None:
            return self.nothing(x_TD)
        return self.compare(choice, self.run(choice, x_TD, run_experts))

    @torch.no_grad()
    def choose(
        self,
        index_TK: Tensor,
        logits_TN: Tensor,
        step: int = 0,
        total_steps: int = 1,
        real_T: Tensor | None = None,
        stands_for: int = 1,
    ) -> Choice | None:
        """Count a batch's shared tokens, and choose what is compared; None: nothing.

        Args:
            index_TK: experts each token was routed to, int64.
            logits_TN: router logits.
            step, total_steps: of the training, for schedules.
            real_T: which tokens are not padding, bool; None: all. Shapes do not depend on their
                number, so nothing waits on the device. The scopes layer and experts leave out a
                batch with fewer of them than it would draw.
            stands_for: how many steps this one stands for: as often its shared tokens and its loss
                count. 0: it is left out.
        """
        if not stands_for:
            return None
        settings = self.settings

        def now(value: Any) -> Any:
            return value_at(value, step / total_steps) if isinstance(value, list) else value

        options = {name: now(value) for name, value in self.options.items()}
        if self._adds_up:
            options["total"] = differentiable_sum
        threshold = now(settings.threshold)
        if settings.scope == "pairs":
            selected_TN = selection_mask(index_TK, logits_TN, self.top_k)
            if real_T is not None:
                selected_TN = selected_TN & real_T[:, None]
            f_star = now(settings.check_every)
            pairs = self._due_pairs(selected_TN, real_T, f_star, stands_for)
            return None if pairs is None else Choice(*pairs, None, options, threshold, stands_for)
        token_n = self._any_tokens(logits_TN, real_T)
        enough = None if real_T is None else real_T.sum() >= len(token_n)
        expert_N = torch.arange(self.num_experts, device=token_n.device)
        token_Nn = token_n.expand(self.num_experts, -1)
        return Choice(expert_N, token_Nn, None, None, enough, options, threshold, stands_for)

    def run(self, choice: Choice, x_TD: Tensor, run_experts: Backend) -> Tensor:
        """The experts' outputs on the chosen tokens, [B, n, D], in one call of the experts.

        Each block goes to one expert, so sorting rows is sorting blocks.
        """
        expert_B, token_Bn = choice.expert_B, choice.token_Bn
        order_B = expert_B.argsort(stable=True)
        index_R = token_Bn.index_select(0, order_B).flatten()
        block_rows_B = torch.full_like(expert_B, token_Bn.shape[1])
        count_N = block_rows_B.new_zeros(self.num_experts).scatter_add(0, expert_B, block_rows_B)
        rows_RD = run_experts(x_TD.detach().index_select(0, index_R), count_N)
        return rows_RD.reshape(*token_Bn.shape, -1).index_select(0, order_B.argsort())

    def compare(self, choice: Choice, outputs_BnD: Tensor) -> SimilarityResult:
        """The loss, from the experts' outputs on the chosen tokens, [B, n, D]."""
        settings, options = self.settings, choice.options
        projected_BnD = self._project(outputs_BnD)
        if choice.measured_XP is not None:
            first_PnD, second_PnD = projected_BnD.chunk(2)
            similarity = self.measure(first_PnD, second_PnD, choice.mask_Pn, **options)
            similarity, measured = similarity.view(choice.measured_XP.shape), choice.measured_XP
        else:
            of_all = self._layer if settings.scope == "layer" else expert_confusion
            similarity = of_all(projected_BnD, **options)
            measured = torch.ones_like(similarity, dtype=torch.bool)
            if choice.enough is not None:
                measured &= choice.enough
        defined = measured & ~similarity.isnan()
        similar = defined & (similarity > choice.threshold)
        loss = torch.where(similar, similarity, 0.0).sum()
        count = defined.sum().float()
        mean = torch.where(defined, similarity.detach(), 0.0).sum() / count
        if settings.scope == "pairs":
            count = defined[0].sum().float()
        else:
            loss = loss / count.clamp(min=1)
        if settings.scope == "experts":
            count = count * (count - 1) / 2
        if choice.stands_for != 1:
            loss = loss * choice.stands_for
        return SimilarityResult(loss, count, mean)

    def nothing(self, x_TD: Tensor) -> SimilarityResult:
        """The result where nothing is compared; gives the head a gradient of 0."""
        loss = self._project(x_TD.new_empty(0, x_TD.shape[1])).sum()
        zero = torch.zeros_like(loss, requires_grad=False)
        return SimilarityResult(loss, zero, zero / zero)

    def _due_pairs(
        self, selected_TN: Tensor, real_T: Tensor | None, check_every: float, stands_for: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """The P pairs most overdue: fields of `Choice`. On a CPU None if none of them is due."""
        settings = self.settings
        count_NN = self.tracker.observe(selected_TN, real_T, stands_for)
        enough_NN = count_NN >= self._least_shared
        due = self.tracker.due(settings.pairs, check_every, enough_NN)
        if on_cpu_path(selected_TN) and not due.due_P.any():
            return None
        count = settings.tokens // 2 if settings.anywhere else settings.tokens
        token_Pn, mask_Pn = sample_shared(
            selected_TN, due.first_P, due.second_P, count, self.generator
        )
        measured_P = due.due_P
        if not self._adds_up:
            # A pair that every rank checks may share few tokens on this one.
            measured_P = measured_P & (mask_Pn.sum(1) >= min(settings.min_tokens, count))
        self.tracker.checked(due)
        first_P, second_P, measured_XP = due.first_P, due.second_P, measured_P[None]
        if settings.anywhere:
            first_P, second_P = first_P.repeat(2), second_P.repeat(2)
            drawn_Pn, real_Pn = sample_any(token_Pn, len(selected_TN), real_T, self.generator)
            token_Pn = torch.cat([token_Pn, drawn_Pn])
            mask_Pn = torch.cat([mask_Pn, real_Pn])
            measured_XP = measured_XP.expand(2, -1)
        return torch.cat([first_P, second_P]), token_Pn.repeat(2, 1), mask_Pn, measured_XP

    def _any_tokens(self, logits_TN: Tensor, real_T: Tensor | None) -> Tensor:
        """Up to n tokens, drawn uniformly without replacement, [n].

        From T on, all tokens are taken in order and nothing is drawn. Padding comes last.
        """
        tokens, device = logits_TN.shape[0], logits_TN.device
        if self.settings.tokens >= tokens:
            return torch.arange(tokens, device=device)
        chance_T = torch.rand(tokens, device=device, generator=self.generator)
        if real_T is not None:
            chance_T = torch.where(real_T, chance_T, -1.0)
        return chance_T.topk(self.settings.tokens).indices

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
    """The head, with random weights drawn apart, so that models with and without it begin with the
    same weights."""
    if kind == "none":
        return nn.Identity()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch.initial_seed() + 1)
        if kind == "linear":
            return nn.Linear(width, num_experts)
        return nn.Sequential(
            nn.Linear(width, num_experts), nn.ReLU(), nn.Linear(num_experts, num_experts)
        )
