"""Replays models of our own training (`replay.py`), also those that carry memory between blocks.

Blocks of a stream are read in order. Below the changed layer the memory is that of the unchanged
model; above it each run carries its own, as the changed model would.

Shapes: B windows, M block, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simsmoe_cli.collapse.sources.replay import (
    Replay,
    Slots,
    StackedPart,
    WindowScores,
    nats_of_windows,
)
from simsmoe_cli.data.streams import IGNORED
from simsmoe_cli.data.tasks.batches import Batch as Texts
from simsmoe_cli.model.blocks import SubLayer
from simsmoe_cli.model.classifier import Classifier, pool, real_positions
from simsmoe_cli.model.language_model import Backbone, LanguageModel
from simsmoe_cli.moe.experts.base import Experts
from simsmoe_cli.moe.routers.base import Routing, StepContext
from simsmoe_cli.similarity.routed import Routed


@dataclass
class Windows:
    """A batch of windows.

    Attributes:
        inputs_BM: token ids.
        targets: [B, M] next tokens, or [B] labels of texts.
        context: for the routers.
        length_B: tokens of each text; None: windows are full.
        hidden_BMD: in front of the recorded layer.
    """

    inputs_BM: Tensor
    targets: Tensor
    context: StepContext
    length_B: Tensor | None
    hidden_BMD: Tensor


class RunReplay(Replay):
    """A model of ours.

    Args:
        model: in evaluation mode.
        context: for the routers.
        batches: inputs and targets [B, M] of a language model; where it carries memory, each
            continues the streams of the one before.
        texts: instead of batches, for a classifier.
    """

    def __init__(
        self,
        model: Backbone,
        context: StepContext,
        batches: Sequence[tuple[Tensor, Tensor]] = (),
        *,
        texts: Sequence[Texts] = (),
    ):
        self.model = model
        self.device = next(model.parameters()).device
        self.batches = [self._of_text(*batch, context) for batch in batches]
        self.batches += [self._of_task(some, context) for some in texts]
        self.carries_memory = bool(model.initial_memory(1)) and not texts
        self.layer = 0  # the recorded one, among those with experts
        self.reached = 0  # the sub-layer whose input is recorded
        if texts:
            self.tokens = sum(int(some.mask.sum()) for some in texts)
            self.scored_W = torch.ones(sum(len(some.labels) for some in texts), dtype=torch.int64)
        else:
            scored = [(targets != IGNORED).sum(1) for _, targets in batches]
            self.scored_W = torch.cat(scored)
            self.tokens = int(self.scored_W.sum())

    def _of_text(self, inputs_BM: Tensor, targets_BM: Tensor, context: StepContext) -> Windows:
        inputs_BM = inputs_BM.to(self.device)
        hidden_BMD = self._embedded(inputs_BM)
        return Windows(inputs_BM, targets_BM.to(self.device), context, None, hidden_BMD)

    def _of_task(self, texts: Texts, context: StepContext) -> Windows:
        length_B, ids_BM = texts.mask.sum(1), texts.ids.to(self.device)
        real_T = real_positions(length_B, ids_BM.shape[1]).to(self.device)
        return Windows(
            ids_BM,
            texts.labels.to(self.device),
            replace(context, real_T=real_T),
            length_B.to(self.device),
            self._embedded(ids_BM),
        )

    @torch.no_grad()
    def _embedded(self, inputs_BM: Tensor) -> Tensor:
        hidden: Tensor = self.model.embedding(inputs_BM)
        return hidden

    def _through(
        self, layers: range, batch: Windows, memory: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """A batch through some sub-layers, and the memory of those for the next batch."""
        if not memory:
            memory = self._initial(layers, len(batch.inputs_BM))
        hidden, memory, _ = self.model.through(
            layers, batch.hidden_BMD, batch.inputs_BM, memory, batch.context
        )
        return hidden, memory if self.carries_memory else []

    def _initial(self, layers: range, streams: int) -> list[Tensor]:
        """The memory of some sub-layers at the start of streams."""
        attentions = sum(self._kind(number) == "s" for number in layers)
        return self.model.initial_memory(streams)[:attentions]

    def _kind(self, number: int) -> str:
        return cast(SubLayer, self.model.layers[number]).kind

    @torch.no_grad()
    def record(self, layer: int) -> list[Routed]:
        with_experts = [n for n in range(len(self.model.layers)) if self._kind(n) == "g"]
        place = with_experts[layer]
        assert place >= self.reached
        memory: list[Tensor] = []
        for batch in self.batches:
            batch.hidden_BMD, memory = self._through(range(self.reached, place), batch, memory)
        self.layer, self.reached = layer, place
        found = []
        for batch in self.batches:
            with self.model.watching(batch.context.real_T) as seen:
                self._through(range(place, place + 1), batch, [])
            found += seen
        return found

    @torch.no_grad()
    def run(self, slots: Sequence[Slots]) -> WindowScores:
        found: list[WindowScores] = []
        memory: list[Tensor] = []
        above = range(self.reached, len(self.model.layers))
        for batch, chosen in zip(self.batches, slots, strict=True):
            with _sent(self._moe.router, chosen):
                hidden, memory = self._through(above, batch, memory)
            found.append(self._score(hidden, batch))
        return WindowScores.joined(found)

    def _score(self, hidden_BMD: Tensor, batch: Windows) -> WindowScores:
        hidden_BMD = self.model.norm(hidden_BMD)
        if batch.length_B is None:
            logits_BMV = cast(LanguageModel, self.model).output(hidden_BMD)
            return WindowScores(nats_of_windows(logits_BMV, batch.targets))
        model = cast(Classifier, self.model)
        logits_BC = model.classifier(pool(hidden_BMD, batch.length_B, model.pooling)).float()
        nats_B = F.cross_entropy(logits_BC, batch.targets, reduction="none").double().cpu()
        return WindowScores(nats_B, (logits_BC.argmax(1) == batch.targets).cpu())

    @property
    def _moe(self) -> Any:
        return cast(SubLayer, self.model.layers[self.reached]).moe

    def units(self) -> list[Tensor]:
        return self.model.expert_weights(self.layer)

    def parts(self) -> list[StackedPart]:
        experts: Experts = self._moe.experts
        entering: list[tuple[Tensor, int]] = [(experts.w_in.data, 0)]
        if experts.b_in is not None:
            entering.append((experts.b_in.data, 0))
        halves = 2 if experts.swiglu else 1  # gate and up of a hidden unit
        found = [
            StackedPart(half, units)
            for stacked, units in entering
            for half in stacked.chunk(halves, dim=1)
        ]
        found.append(StackedPart(experts.w_out.data, 1))
        if experts.b_out is not None:
            found.append(StackedPart(experts.b_out.data, None))
        return found


@contextlib.contextmanager
def _sent(router: nn.Module, slots: Slots) -> Iterator[None]:
    """Within it, a router sends the tokens of one batch as told."""

    def otherwise(module: nn.Module, args: Any, routing: Routing) -> Routing:
        return replace(routing, index_TK=slots.index_TK, weight_TK=slots.weight_TK, partial=True)

    hook = router.register_forward_hook(otherwise)
    try:
        yield
    finally:
        hook.remove()
