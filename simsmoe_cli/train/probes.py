"""Probes: measure the load of the experts and their similarity on held-out tokens.

One held-out batch, the same every time, goes through the model. Then every expert of a layer runs
on all inputs of that layer, so that all pairs are compared on the same tokens and not only on
shared tokens. The measure is debiased linear CKA, because biased estimators are far from 0 for
unrelated experts. A probe runs in evaluation mode without gradients and draws no random numbers, so
it does not change the results of the training.

Shapes: B batch, M block, T = B*M tokens, N experts, K experts per token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsmoe_cli.data.streams import Tokens
from simsmoe_cli.model.interface import MoEModel
from simsmoe_cli.moe.balance import load_fraction
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.run import probes
from simsmoe_cli.run.dead_experts import dead_experts
from simsmoe_cli.run.events import ProbedSimilarity, RouterLayer, SimilarityLayer
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.similarity.cka import pairwise_debiased_cka
from simsmoe_cli.similarity.routed import Routed
from simsmoe_cli.similarity.shared import FEWEST_SHARED, cka_of_routed, received, shared_counts
from simsmoe_cli.train.evaluate import Progress, autocast, untold

MEASURE = "cka-linear-debiased"


@dataclass(frozen=True)
class Probe:
    """The results of a probe.

    Attributes:
        tokens: that the model read, padding left out.
        router, similarity: of each layer, for the events.
        cka, shared, cka_shared: of each layer, [N, N]: similarity of pairs, nan where undefined;
            tokens that both experts of a pair were given; and similarity on these.
    """

    tokens: int
    router: list[RouterLayer]
    similarity: list[SimilarityLayer]
    cka: list[NDArray[np.float32]]
    shared: list[NDArray[np.int32]]
    cka_shared: list[NDArray[np.float32]]

    def judge_dead(self, slots: list[list[int]]) -> bool:
        """Say which experts are dead by the slots of training batches; whether they were enough to
        judge every layer.

        Args:
            slots: of each layer, routed slots of each expert; empty: none yet.
        """
        for layer, slots_N in zip(self.router, slots, strict=True):
            layer["slots"] = slots_N or [0] * len(layer["load"])
            layer["dead"] = dead_experts(layer["slots"])
        return all(layer["dead"] is not None for layer in self.router)

    def write(self, run: RunDir, step: int) -> ProbedSimilarity:
        """Write the matrices to the disk, and return the fields of the similarity event that names
        them."""
        said: ProbedSimilarity = {
            "measure": MEASURE,
            "tokens": self.tokens,
            "fewest_shared": FEWEST_SHARED,
            "layers": self.similarity,
        }
        if self.cka:
            cka_LNN, shared_LNN = np.stack(self.cka), np.stack(self.shared)
            said["matrices"] = probes.write(
                run,
                step,
                measure=MEASURE,
                tokens=self.tokens,
                cka_LNN=cka_LNN,
                shared_LNN=shared_LNN,
                cka_shared_LNN=np.stack(self.cka_shared),
            )
        return said


def probe_batch(tokens: Tokens, block: int, count: int) -> Tensor:
    """About `count` tokens of a split as [B, M] int64, blocks spread evenly over the split."""
    block = min(block, count, len(tokens))
    starts = np.linspace(0, len(tokens) - block, max(1, count // block)).astype(np.int64)
    window = np.stack([tokens[start : start + block] for start in starts])
    return torch.from_numpy(window.astype(np.int64))


@torch.no_grad()
def probe(
    model: MoEModel,
    batch_BM: Tensor,
    context: StepContext,
    precision: str,
    progress: Progress = untold,
) -> Probe:
    """Measure the load and the similarity of a model's experts.

    Args:
        model: left in the mode it was in.
        batch_BM: from `probe_batch`, or texts with padding.
        context: step and options of routing; its `real_T` says which tokens are real.
        precision: "fp32" or "bf16" autocast.
        progress: told when the model has read the tokens, and after each layer.
    """
    device = next(model.parameters()).device
    real_T = None if context.real_T is None else context.real_T.to(device)
    tokens = batch_BM.numel() if real_T is None else real_T.numel()
    was_training = model.training
    model.eval()
    try:
        with autocast(device, precision):
            layers = model.route(batch_BM.to(device), replace(context, real_T=real_T))
            parts, cka = len(layers) + 1, []
            for number, routed in enumerate(layers):
                progress(number + 1, parts)
                cka.append(_cka(model.dense(number, routed.input_TD).float(), routed))
            progress(parts, parts)
    finally:
        model.train(was_training)
    found = Probe(tokens, [], [], [], [], [])
    # The host reads the numbers here, once per probe and layer.
    for number, (routed, (cka_NN, cka_shared_NN)) in enumerate(zip(layers, cka, strict=True)):
        found.router.append(_router_layer(number, routed, len(cka_NN)))
        shared_NN = shared_counts(received(routed.index_TK, len(cka_NN)))
        found.cka.append(cka_NN.cpu().numpy())
        found.shared.append(shared_NN.fill_diagonal_(0).int().numpy())
        found.cka_shared.append(cka_shared_NN.numpy())
        summary = probes.layer_summary(number, found.cka[-1], found.cka_shared[-1])
        found.similarity.append(summary)
    return found


def _cka(outputs_NTD: Tensor, routed: Routed) -> tuple[Tensor, Tensor]:
    """Debiased CKA of each pair on all tokens, and on those sent to both, [N, N] each."""
    received_TN = received(routed.index_TK, len(outputs_NTD))
    rows_RD = outputs_NTD[received_TN.T]  # sorted by expert, then by token
    return pairwise_debiased_cka(outputs_NTD), cka_of_routed(rows_RD, received_TN)


def _router_layer(number: int, routed: Routed, num_experts: int) -> RouterLayer:
    """A layer's part of a router event; entropies only where the router's distribution is known."""
    load_N = load_fraction(routed.index_TK, num_experts)
    layer: RouterLayer = {
        "layer": number,
        "load": load_N.tolist(),
        "load_cv": (load_N.std(correction=0) / load_N.mean()).item(),
        "slots": [],
        "dead": None,
        "entropy_nats": None,
        "entropy_of_mean_nats": None,
    }
    if routed.logits_TN is not None:
        probability_TN = routed.logits_TN.softmax(-1)
        layer["entropy_nats"] = _entropy(probability_TN).mean().item()
        layer["entropy_of_mean_nats"] = _entropy(probability_TN.mean(0)).item()
    return layer


def _entropy(probability: Tensor) -> Tensor:
    """In nats, over the last dimension."""
    entropy: Tensor = torch.special.entr(probability).sum(-1)
    return entropy
