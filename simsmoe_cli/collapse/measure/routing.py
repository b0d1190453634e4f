"""How tokens are spread over the experts of a layer: load, dead experts, shared tokens, entropy.

Shapes: T tokens, N experts, K experts per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simsmoe_cli.collapse.findings import defined
from simsmoe_cli.collapse.measure.layer import Layer, matrix
from simsmoe_cli.collapse.specialisation import Margin
from simsmoe_cli.run.dead_experts import dead_experts
from simsmoe_cli.similarity.routed import Routed
from simsmoe_cli.similarity.shared import received


@dataclass
class Counts:
    """Sums over all tokens of one layer.

    They are undefined once the input or the router scores of a token are not finite.
    """

    chosen_N: Tensor
    shared_NN: Tensor
    probability_N: Tensor
    entropy: float = 0.0  # NaN where a router gives no distribution
    top_k: int = 0
    tokens: int = 0
    non_finite_inputs: int = 0
    non_finite_scores: int = 0
    margins: list[Tensor] = field(default_factory=list)  # of each token, [T] on the CPU

    @classmethod
    def of(cls, experts: int) -> Counts:
        """Nothing counted yet."""
        return cls(
            torch.zeros(experts, dtype=torch.float64),
            torch.zeros(experts, experts, dtype=torch.float64),
            torch.zeros(experts, dtype=torch.float64),
        )

    @property
    def defined(self) -> bool:
        return not (self.non_finite_inputs or self.non_finite_scores)

    def add(self, routed: Routed) -> None:
        index_TK, logits_TN = routed.index_TK, routed.logits_TN
        finite_T = routed.input_TD.isfinite().all(-1)
        self.non_finite_inputs += int((~finite_T).sum())
        received_TN = received(index_TK, self.chosen_N.numel())
        chosen_TN = received_TN.float()
        self.chosen_N += chosen_TN.sum(0).double().cpu()
        self.shared_NN += (chosen_TN.T @ chosen_TN).double().cpu()
        self.top_k = max(self.top_k, index_TK.shape[1])
        self.tokens += len(index_TK)
        if logits_TN is None:
            self.entropy = math.nan
            self.probability_N.fill_(math.nan)
            return
        self.margins.append(margin_of(logits_TN.float(), received_TN).cpu())
        probability_TN = logits_TN.float().softmax(-1)  # a score of -inf rules an expert out
        scored_T = probability_TN.isfinite().all(-1)
        self.non_finite_scores += int((finite_T & ~scored_T).sum())
        self.probability_N += probability_TN.sum(0).double().cpu()
        self.entropy += torch.special.entr(probability_TN).sum().item()


def measure_layer(layer: Layer) -> dict[str, Any]:
    counts, experts = layer.counts, layer.spec.experts
    load_N = counts.chosen_N / counts.chosen_N.sum().clamp(min=1)
    mean = load_N.mean().item()
    probability_N = counts.probability_N / counts.tokens
    shared_NN = (counts.shared_NN / counts.tokens).fill_diagonal_(0)
    entropy = counts.entropy / counts.tokens
    if not counts.defined:
        mean = entropy = math.nan
        for values in (load_N, shared_NN, probability_N):
            values.fill_(math.nan)
    return {
        "top_k": counts.top_k,
        "shared": matrix(shared_NN),
        "shared_expected": matrix(expected_shared(counts.chosen_N / counts.tokens, shared_NN)),
        "frequency": [defined(share) for share in (counts.chosen_N / counts.tokens).tolist()]
        if counts.defined
        else [None] * experts,
        "load": [defined(share) for share in load_N.tolist()],
        "load_cv": defined(load_N.std(correction=0).item() / mean if mean else math.nan),
        "load_max_over_mean": defined(load_N.max().item() / mean if mean else math.nan),
        "max_violation": defined(load_N.max().item() / mean - 1 if mean else math.nan),
        "effective_experts": defined(torch.special.entr(load_N).sum().exp().item() / experts),
        **_dead(layer),
        "margin": _margin(counts),
        "entropy_nats": defined(entropy),
        "entropy_of_mean_nats": defined(torch.special.entr(probability_N).sum().item()),
        "entropy_max_nats": math.log(experts),
    }


def _dead(layer: Layer) -> dict[str, Any]:
    """Which experts are dead: as training judged, or by the tokens of this text if they suffice."""
    judged = layer.source.judged.get(layer.index)
    if not layer.counts.defined:
        return {"dead": None, "dead_slots": None, "dead_on": "held-out text"}
    if judged is not None and all(expert < layer.spec.experts for expert in judged.dead):
        return {"dead": judged.dead, "dead_slots": judged.slots, "dead_on": "training batches"}
    slots_N = layer.counts.chosen_N.tolist()
    return {
        "dead": dead_experts(slots_N),
        "dead_slots": int(sum(slots_N)),
        "dead_on": "held-out text",
    }


def margin_of(logits_TN: Tensor, received_TN: Tensor) -> Tensor:
    """The last chosen score minus the first left out, of each token that has both and whose scores
    are finite, [T or fewer]; below 0 where a router chooses by something else."""
    last_T = logits_TN.masked_fill(~received_TN, math.inf).amin(1)
    first_T = logits_TN.masked_fill(received_TN, -math.inf).amax(1)
    margin_T = last_T - first_T
    return margin_T[margin_T.isfinite()]


def _margin(counts: Counts) -> Margin | None:
    margin_T = torch.cat(counts.margins) if counts.margins else torch.empty(0)
    if not len(margin_T) or not counts.defined:
        return None
    low, median, high = np.quantile(margin_T.double().numpy(), [0.1, 0.5, 0.9]).tolist()
    return Margin(
        mean=margin_T.double().mean().item(), quantile_10=low, median=median, quantile_90=high
    )


def expected_shared(frequency_N: Tensor, shared_NN: Tensor) -> Tensor:
    """The share of tokens that two experts would share if experts were combined at random.

    A pair's expectation is proportional to the product of the shares of tokens that its experts
    receive, and all pairs together share as many tokens as they do in `shared_NN`.

    Args:
        frequency_N: share of tokens sent to each expert.
        shared_NN: share of tokens sent to both; diagonal 0.
    """
    product_NN = frequency_N.outer(frequency_N).fill_diagonal_(0)
    return product_NN * (shared_NN.sum() / product_NN.sum().clamp(min=1e-30))
