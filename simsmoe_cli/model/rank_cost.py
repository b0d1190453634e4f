"""Computes what each rank of a training in several processes holds, computes and sends, before it
starts.

Parameters come from the model, built without memory for its contents; arithmetic and activations
from `size.py`, for a rank's share of the batch. What is sent follows from how PyTorch's engines
work (FSDP2; an all-to-all for experts) and from the ring algorithm, where a rank sends (g-1)/g of
what it gathers or reduces over g ranks. Experts are taken to be evenly loaded.

Ranks: S = shard, G = replicate (copies of the model), E = expert; W = S G in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.model.size import measure, require_possible
from simsmoe_cli.parallel.shard_dim import shard_dim
from simsmoe_cli.recipe.parallel import Layout
from simsmoe_cli.recipe.schema import Recipe

WEIGHT_BYTES = 4
COUNT_BYTES = 8
BASIS = {
    "memory": "Memory of a rank: 1/shard of weights, gradients and Adam's two moments in fp32; "
    "what is gathered at a time: weights of two sub-layers and gradients of one, and both of the "
    "embedding and output; carried memory and activations of its part of a micro-batch.",
    "fsdp": "FSDP, sent by a rank in a step: for each micro-batch, weights are gathered in the "
    "forward and again in the backward pass (those of embedding and output once) and gradients "
    "reduced once. Each time it sends (s-1)/s of the fp32 bytes; s = shard, and for experts "
    "s = shard/expert of 1/expert of them. Copies add 2 (r-1)/r of 1/shard of the gradients; "
    "r = replicate.",
    "all_to_all": "All-to-all, sent by a rank in a step: tokens of the rank x top_k x width x "
    "bytes of an activation x (e-1)/e, four times in each layer of experts (there and back, "
    "forward and backward); e = expert. Experts are taken to be evenly loaded; similarity "
    "learning and probes are left out.",
    "time": "Step time: the longer of computing and FSDP, which overlap, plus the all-to-all, for "
    "which a rank waits. Computing is FLOPs / --gpu-tflops, sending is bytes / --link-gbs.",
}


@dataclass(frozen=True)
class RankCost:
    """What one rank holds, and computes and sends in an optimizer step; the rank with most rows.

    Attributes:
        parameters: of the model that it holds.
        weight_bytes, gradient_bytes, optimizer_bytes: of those.
        gathered_bytes: weights and gradients of whole sub-layers that it holds for a short time.
        carried_bytes, activation_bytes: as of `size.ModelSize`, of its rows.
        flops: of a training step.
        all_gather_bytes, reduce_scatter_bytes: sent by FSDP among the ranks of a copy.
        all_reduce_bytes: sent to add up the gradients of the copies.
        all_to_all_bytes: sent to and from experts of other ranks.
    """

    parameters: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    gathered_bytes: int
    carried_bytes: int
    activation_bytes: int
    flops: int
    all_gather_bytes: int
    reduce_scatter_bytes: int
    all_reduce_bytes: int
    all_to_all_bytes: int

    @property
    def memory_bytes(self) -> int:
        """All that is in memory at once."""
        fixed = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes
        return fixed + self.gathered_bytes + self.carried_bytes + self.activation_bytes

    @property
    def fsdp_bytes(self) -> int:
        """All that FSDP sends."""
        return self.all_gather_bytes + self.reduce_scatter_bytes + self.all_reduce_bytes

    def times(self, gpu_tflops: float, link_gbs: float) -> StepTime:
        """How long a step takes.

        Args:
            gpu_tflops: 1e12 floating-point operations a second that a rank sustains.
            link_gbs: 1e9 bytes a second that a rank sends.
        """
        return StepTime(
            self.flops / (gpu_tflops * 1e12),
            self.fsdp_bytes / (link_gbs * 1e9),
            self.all_to_all_bytes / (link_gbs * 1e9),
        )


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step: computing, FSDP's sending, and the all-to-all's."""

    compute_s: float
    fsdp_s: float
    all_to_all_s: float

    @property
    def step_s(self) -> float:
        """Computing and FSDP overlap; the rows of experts are waited for."""
        return max(self.compute_s, self.fsdp_s) + self.all_to_all_s


def rank_cost(recipe: Recipe, vocab_size: int, ranks: int) -> RankCost:
    """The cost of one of `ranks` processes that train a recipe.

    Args:
        recipe: resolved, and fit for so many ranks (`recipe.load.require_ranks`).
        vocab_size: symbols of the tokenizer.

    Raises:
        UserError: the model is larger than any machine.
    """
    require_possible(recipe, vocab_size)
    layout, train = recipe.parallel.layout(ranks), recipe.train
    rows = -(-train.batch // train.micro_batches // ranks) * train.micro_batches
    own = recipe.model_copy(update={"train": train.model_copy(update={"batch": rows})})
    size = measure(own, vocab_size)
    sent = _Fsdp(layout, train.micro_batches)
    for unit, times, whole in _units(recipe, vocab_size):
        sent.add(unit, times, whole=whole)
    tokens = rows * train.block
    return RankCost(
        parameters=sent.held,
        weight_bytes=WEIGHT_BYTES * sent.held,
        gradient_bytes=WEIGHT_BYTES * sent.held_learning,
        optimizer_bytes=2 * WEIGHT_BYTES * sent.held_learning,
        gathered_bytes=WEIGHT_BYTES * (2 * sent.whole + 3 * sent.largest),
        carried_bytes=size.carried_bytes,
        activation_bytes=size.activation_bytes,
        flops=tokens * size.training_flops_per_token,
        all_gather_bytes=round(WEIGHT_BYTES * sent.gathered),
        reduce_scatter_bytes=round(WEIGHT_BYTES * sent.reduced),
        all_reduce_bytes=round(WEIGHT_BYTES * sent.copied),
        all_to_all_bytes=_all_to_all_bytes(recipe, layout, tokens),
    )


def _units(recipe: Recipe, vocab_size: int) -> Iterator[tuple[dict[str, nn.Parameter], int, bool]]:
    """The parts of the model that FSDP gathers at once: their parameters by name, how many such
    parts there are, and whether it stays whole from the forward to the backward pass.

    All repeats of the pattern are alike, so only one is built.
    """
    model = recipe.model.model_copy(update={"repeats": 1})
    # Whatever the backend, the weights are the same.
    moe = recipe.moe.model_copy(update={"backend": "auto"})
    with torch.device("meta"):
        built = LanguageModel(recipe.model_copy(update={"model": model, "moe": moe}), vocab_size)
    outside = dict(built.named_parameters())
    for number, layer in enumerate(built.layers):
        unit = dict(layer.named_parameters())
        yield unit, recipe.model.repeats, False
        for name in unit:
            del outside[f"layers.{number}.{name}"]
    yield outside, 1, True


class _Fsdp:
    """Counts parameters that a rank holds and sends, in numbers, not bytes.

    Attributes:
        held, held_learning: in its shard, all and those that learn.
        whole: outside of sub-layers.
        largest: of the largest sub-layer, with experts of one rank.
        gathered, reduced, copied: sent in a step.
    """

    def __init__(self, layout: Layout, micro_batches: int):
        self.layout, self.micro_batches = layout, micro_batches
        self.held = self.held_learning = self.whole = self.largest = 0
        self.gathered = self.reduced = self.copied = 0.0

    def add(self, unit: dict[str, nn.Parameter], times: int, *, whole: bool) -> None:
        """Count `times` units of these parameters."""
        layout, total = self.layout, 0
        for name, parameter in unit.items():
            if parameter.ndim == 0:  # every rank holds it whole
                self.held += times
                self.held_learning += times * parameter.requires_grad
                continue
            expert = layout.expert if "moe.experts." in name else 1
            ranks = layout.shard // expert
            shape = [parameter.shape[0] // expert, *parameter.shape[1:]]
            size = shape[shard_dim(shape, ranks, divided=expert > 1)]
            numbers = parameter.numel() // expert
            # All shards are sent in the size of the largest.
            shard = -(-size // ranks) * (numbers // size)
            total += numbers
            self.held += times * shard
            gathers = times * self.micro_batches * (1 if whole else 2)
            self.gathered += gathers * shard * (ranks - 1)
            if parameter.requires_grad:
                self.held_learning += times * shard
                self.reduced += times * self.micro_batches * shard * (ranks - 1)
                copies = layout.replicate
                self.copied += times * self.micro_batches * shard * 2 * (copies - 1) / copies
        if layout.shard == 1:
            return
        if whole:
            self.whole = total
        else:
            self.largest = max(self.largest, total)


def _all_to_all_bytes(recipe: Recipe, layout: Layout, tokens: int) -> int:
    """Sent by a rank in a step: rows four times, and counts once, in each layer of experts."""
    share = (layout.expert - 1) / layout.expert
    layers = recipe.model.sublayers.count("g")
    width = 2 if recipe.train.precision == "bf16" else 4
    rows = 4 * tokens * recipe.moe.top_k * recipe.model.width * width
    counts = recipe.train.micro_batches * recipe.moe.experts * COUNT_BYTES
    return round(layers * share * (rows + counts))
