"""Replays models of transformers (`sources/replay.py`).

The model's own forward pass runs each time, so masks and positions are its own. Decoder layers
below the changed one return at once what they returned in the unchanged model, and the experts of
the changed layer return the mixture of the outputs that it is told to give.

This needs experts that are called with the router's choice and weights and return the weighted sum,
which `expert_calls.py` checks.

Shapes: B windows, M block, T tokens, D width, N experts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simsmoe_cli.any_moe.expert_calls import LayerRecorder, recording
from simsmoe_cli.collapse.sources.replay import (
    CannotReplay,
    Replay,
    Slots,
    StackedPart,
    WindowScores,
    nats_of_windows,
)
from simsmoe_cli.data.streams import IGNORED
from simsmoe_cli.huggingface.foreign_code import foreign_code
from simsmoe_cli.moe import dispatch
from simsmoe_cli.similarity.routed import Routed


class HuggingFaceReplay(Replay):
    """A causal language model.

    Args:
        model: called with `input_ids` [B, M]; gives logits.
        recorders: of its layers with experts, in order.
        batches: inputs and targets [B, M].
        where: its name, for errors.

    Raises:
        CannotReplay: its experts are called otherwise.
    """

    def __init__(
        self,
        model: nn.Module,
        recorders: Sequence[LayerRecorder],
        batches: Sequence[tuple[Tensor, Tensor]],
        where: str,
    ):
        for recorder in recorders:
            if not recorder.layer.stacked:
                raise CannotReplay(
                    f"the experts of {recorder.layer.name} are not called with the router's choice "
                    "and weights"
                )
        self.model = model
        self.recorders = recorders
        device = next(model.parameters()).device
        self.batches = [(inputs.to(device), targets.to(device)) for inputs, targets in batches]
        self.where = where
        self.scored_W = torch.cat([(targets != IGNORED).sum(1) for _, targets in batches])
        self.tokens = int(self.scored_W.sum())
        self.layer = 0
        self.given: list[Tensor] = []  # what the experts of the recorded layer are given
        self.below: list[Any] = []  # what the decoder layer below the recorded one returns
        self.shapes: list[tuple[torch.Size, torch.dtype]] = []  # of what its experts return

    @torch.no_grad()
    def record(self, layer: int) -> list[Routed]:
        self.layer = layer
        self.given, self.below, self.shapes = [], [], []
        decoders, recorder = self._below(), self.recorders[layer]
        found = []
        for inputs, _ in self.batches:
            with contextlib.ExitStack() as hooks:
                if decoders:
                    hook = decoders[-1].register_forward_hook(self._keep)
                    hooks.callback(hook.remove)
                hooks.enter_context(recording([recorder]))
                hooks.enter_context(foreign_code("this model cannot be run", self.where))
                self._logits(inputs)
            found.append(recorder.result(None, self.where))
            self.given.append(found[-1].input_TD)
            made: Tensor = recorder.made
            self.shapes.append((made.shape, made.dtype))
            recorder.begin()  # forget the tensors of this batch
        return found

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self.below.append(output)

    @torch.no_grad()
    def run(self, slots: Sequence[Slots]) -> WindowScores:
        found = []
        decoders = self._below()
        experts = self.recorders[self.layer].layer.experts
        for number, (inputs, targets) in enumerate(self.batches):
            shape, dtype = self.shapes[number]
            mixed = self._mixture(self.given[number], slots[number]).to(dtype).view(shape)
            with contextlib.ExitStack() as replaced:
                for decoder in decoders:
                    replaced.enter_context(_returns(decoder, self.below[number]))
                replaced.enter_context(_returns(experts, mixed))
                replaced.enter_context(foreign_code("this model cannot be run", self.where))
                logits = self._logits(inputs)
            found.append(WindowScores(nats_of_windows(logits, targets)))
        return WindowScores.joined(found)

    def _logits(self, inputs_BM: Tensor) -> Tensor:
        more = {"use_cache": False} if hasattr(self.model, "config") else {}
        logits: Tensor = self.model(input_ids=inputs_BM, **more).logits
        return logits

    def _mixture(self, x_TD: Tensor, slots: Slots) -> Tensor:
        """The weighted sum of the outputs of each token's experts."""
        layer = self.recorders[self.layer].layer
        plan = dispatch.plan(slots.index_TK, layer.number, partial=True)
        rows_RD = dispatch.gather(x_TD, plan)
        used = int(plan.count_N.sum())
        out_RD = layer.run(rows_RD[:used], plan.count_N)
        empty_RD = out_RD.new_zeros(len(rows_RD) - used, out_RD.shape[1])
        return dispatch.combine(torch.cat([out_RD, empty_RD]), slots.weight_TK, plan)

    def _below(self) -> list[nn.Module]:
        """The decoder layers before the one with the recorded layer; none if there is no one list
        of decoder layers."""
        parts = self.recorders[self.layer].layer.name.split(".")
        for end in range(1, len(parts)):
            module = self.model.get_submodule(".".join(parts[:end]))
            if isinstance(module, nn.ModuleList) and parts[end].isdigit():
                return list(module)[: int(parts[end])]
        return []

    def units(self) -> list[Tensor]:
        return self.recorders[self.layer].layer.hidden_units()

    def parts(self) -> list[StackedPart] | None:
        layer = self.recorders[self.layer].layer
        own = [part for part in layer.experts.parameters() if part.ndim > 1]
        units = layer.hidden_units()
        storage = {part.untyped_storage().data_ptr() for part in own}
        views = all(part.untyped_storage().data_ptr() in storage for part in units)
        complete = sum(part.numel() for part in units) == sum(part.numel() for part in own)
        if not (views and complete and len(own) == len(list(layer.experts.parameters()))):
            return None
        return [StackedPart(part, 0) for part in units]


@contextlib.contextmanager
def _returns(module: nn.Module, output: Any) -> Iterator[None]:
    """Within it, a module returns this whatever it is given."""
    own: Callable[..., Any] = module.forward
    module.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        module.forward = own
