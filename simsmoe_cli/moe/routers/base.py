"""The interface of a router: its specification, its input and its output.

Shapes: T tokens, D model width, N experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from simsmoe_cli.moe.balance import balance_loss
from simsmoe_cli.recipe.routers import RouterSettings


@dataclass(frozen=True)
class RouterSpec:
    """The specification from which a router is built.

    Attributes:
        width, num_experts, top_k: D, N and K.
        bias: whether linear logits have a bias.
        vocab_size: number of ids that `RouterInput.token_ids_T` may hold.
        seed: of random values that a router draws once and keeps, such as a table.
        layer, layers: index of its MoE layer among all MoE layers, and their number.
        global_balance: whether the balance loss is that of all ranks' tokens together.
        settings: the router's own section of the recipe.
    """

    width: int
    num_experts: int
    top_k: int
    bias: bool = True
    vocab_size: int = 0
    seed: int = 0
    layer: int = 0
    layers: int = 1
    global_balance: bool = True
    settings: RouterSettings = field(default_factory=RouterSettings)


@dataclass(frozen=True)
class StepContext:
    """Information of the present step: the progress of training, and the padding of the batch.

    The caller of the model makes one for each forward pass. The model does not copy it, so a
    compiled graph depends on the step only if a router reads it.

    Attributes:
        step: optimizer steps taken so far.
        total_steps: optimizer steps of the whole training.
        real_T: positions of the tokens that are not padding, int64, ascending; None: there is no
            padding. Made on the host, which knows the lengths.
        top_k: overrides the layer's K (evaluation of a router at another k).
        compare: how many steps a comparison of the experts in this step stands for, in similarity
            learning; 0: experts are not compared.
    """

    step: int = 0
    total_steps: int = 1
    real_T: Tensor | None = None
    top_k: int | None = None
    compare: int = 1


@dataclass(frozen=True)
class RouterInput:
    """The input of a router apart from the hidden states. The MoE layer makes it.

    Attributes:
        context: information of the step. Padding is already left out of all inputs of a router.
        token_ids_T: vocabulary ids of the tokens, for routers that look at them.
        run_experts: runs every expert on rows [T, D] and returns [N, T, D].
    """

    context: StepContext = StepContext()
    token_ids_T: Tensor | None = None
    run_experts: Callable[[Tensor], Tensor] | None = None


@dataclass
class Routing:
    """The experts of each token.

    Attributes:
        index_TK: chosen experts, int64. N marks an empty slot, which only a router with `partial`
            returns: it costs almost nothing, is not counted, and its weight is ignored.
        weight_TK: their mixing weights.
        logits_TN: the scores that the choice is based on, fp32.
        losses: auxiliary losses by name, each a scalar without its coefficient: the mean over this
            rank's tokens, or the same on every rank.
        partial: whether slots may be empty.
        metrics: further scalars to log, by name.
        learned_TN: the router's own logits, fp32, if the choice is based on other scores; the
            z-loss is computed from them.
    """

    index_TK: Tensor
    weight_TK: Tensor
    logits_TN: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    partial: bool = False
    metrics: dict[str, Tensor] = field(default_factory=dict)
    learned_TN: Tensor | None = None

    def foremost_T(self) -> Tensor:
        """The expert with the largest weight of each token, int64; -1 where it has none."""
        empty_TK = self.index_TK == self.logits_TN.shape[1]
        weight_TK = self.weight_TK.float().masked_fill(empty_TK, -1.0)
        best_T1 = weight_TK.argmax(1, keepdim=True)
        return torch.where(empty_TK.all(1), -1, self.index_TK.gather(1, best_T1).squeeze(1))


class Router(nn.Module):
    """Base of all routers: `forward(x_TD, given) -> Routing`.

    Attributes:
        changed_in_forward: names of parameters that the forward pass changes in place.
    """

    changed_in_forward: tuple[str, ...] = ()

    def __init__(self, spec: RouterSpec):
        super().__init__()
        self.spec = spec
        self.num_experts = spec.num_experts
        self.top_k = spec.top_k

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        raise NotImplementedError

    def chosen_k(self, given: RouterInput) -> int:
        """K: the value of the step if it has one, else the layer's own."""
        return given.context.top_k or self.top_k

    def balance_loss(self, probability_TN: Tensor, index_TK: Tensor) -> Tensor:
        """The balance loss; in training over all ranks, unless the recipe says otherwise."""
        over_ranks = self.training and self.spec.global_balance
        return balance_loss(probability_TN, index_TK, over_ranks=over_ranks)

    def softmax_routing(self, logits_TN: Tensor, top_k: int, balance_tau: float = 1.0) -> Routing:
        """The K largest logits, weights their softmax, and the balance loss.

        Args:
            logits_TN: fp32.
            top_k: K.
            balance_tau: the balance loss takes the softmax of logits / tau.
        """
        top_logits_TK, index_TK = logits_TN.topk(top_k, dim=-1)
        balance = self.balance_loss((logits_TN / balance_tau).softmax(-1), index_TK)
        return Routing(index_TK, top_logits_TK.softmax(-1), logits_TN, {"balance": balance})


def vocabulary_of(spec: RouterSpec) -> int:
    """V; raises ValueError if the spec does not give it."""
    if spec.vocab_size < 1:
        raise ValueError("this router needs to know the size of the vocabulary")
    return spec.vocab_size


def token_ids(given: RouterInput) -> Tensor:
    """The ids of the tokens; raises ValueError if there are none."""
    if given.token_ids_T is None:
        raise ValueError("this router looks at token ids, and was given none")
    return given.token_ids_T


def fp32_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` in fp32, also under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return nn.functional.linear(
            x.float(), weight.float(), None if bias is None else bias.float()
        )


def list_routing(order_TN: Tensor, top_k: int) -> Routing:
    """The first K experts of a fixed list, with equal weights.

    The logits are 0 for the chosen experts and fall from -1000 for the others: their softmax gives
    the weights, and they still rank the experts that were not chosen.

    Args:
        order_TN: all experts in each token's order, int64.
        top_k: K.
    """
    rank_N = torch.arange(order_TN.shape[1], device=order_TN.device)
    score_N = torch.where(rank_N < top_k, 0.0, -1000.0 - rank_N).float()
    logits_TN = torch.zeros_like(order_TN, dtype=torch.float32)
    logits_TN = logits_TN.scatter(1, order_TN, score_N.expand_as(order_TN))
    index_TK = order_TN[:, :top_k]
    return Routing(index_TK, torch.full_like(index_TK, 1 / top_k, dtype=torch.float32), logits_TN)
