"""Sends a text through a Hugging Face model with one decoder layer in memory at a time.

All windows of the text are one batch. The model's own `forward` runs on it once, so that masks,
positions and everything else that is passed from layer to layer are right. Each decoder layer is
read from the files when it is reached, runs on a few windows at a time, is measured if requested,
and is freed again. The output of the last layer then goes through the rest of the model, again a
few windows at a time, for the loss. So memory holds one layer and one vector per token, and each
weight is read once.

Shapes: B windows, M block, b some of the windows, T tokens, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from simsmoe_cli.any_moe.expert_calls import LayerRecorder, recording
from simsmoe_cli.collapse.sources.base import Listener, Reading, Size
from simsmoe_cli.collapse.sources.evaluation_windows import (
    evaluation_windows,
    next_token_nats,
    tokens_per_batch,
)
from simsmoe_cli.collapse.sources.huggingface.layer_weights import LayerWeights
from simsmoe_cli.collapse.sources.huggingface.source import HuggingFaceSource
from simsmoe_cli.collapse.sources.replay import CannotReplay, Replay
from simsmoe_cli.data.streams import IGNORED
from simsmoe_cli.huggingface.check_weights import UnusualWeights
from simsmoe_cli.huggingface.foreign_code import foreign_code
from simsmoe_cli.model import available_memory as memory
from simsmoe_cli.similarity.routed import Routed

WHOLE_BYTES = 1.3  # of memory per byte of weights, to hold them all and run the model
LAYER_BATCH_TOKENS = 4096  # tokens that go through a decoder layer at once


class _Stop(Exception):
    """Raised to end the forward pass after the last layer needed; holds the backbone's output."""

    def __init__(self, output: Any = None):
        super().__init__()
        self.output = output


class LayerwiseSource(HuggingFaceSource):
    """A `HuggingFaceSource` whose weights are read layer by layer.

    The experts of any layer can be run at any time: its weights are read if they are not in memory.
    """

    def __init__(self, weights: LayerWeights, unusual: UnusualWeights, *args: Any, **facts: Any):
        super().__init__(*args, **facts)
        self.unusual = unusual
        self.whole: Callable[[], HuggingFaceSource] | None = None  # opens it with all its weights
        self.layer_weights = weights
        self.decoder_of = [
            next(name for name in weights.layers if f"{layer.name}.".startswith(f"{name}."))
            for layer in self.found
        ]
        self.looked_at: set[str] = set()
        for layer in weights.layers:
            module = weights.model.get_submodule(layer)
            module.forward = self._read_before(layer, module.forward)

    def _read_before(self, layer: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self._at_hand(layer)
            return forward(*args, **kwargs)

        return run

    def _at_hand(self, layer: str) -> None:
        with foreign_code("the weights cannot be read", self.subject.name):
            self.layer_weights.load(layer)
        if layer not in self.looked_at:
            self.looked_at.add(layer)
            known = set(self.unusual.notes)
            named = self.model.get_submodule(layer).named_parameters()
            self.unusual.look_at((f"{layer}.{name}", weight) for name, weight in named)
            self.notes = [note for note in self.notes if note not in known] + self.unusual.notes

    @property
    def cannot_replay(self) -> str:
        if refused := super().cannot_replay:
            return refused
        needed = WHOLE_BYTES * self.size.stored
        free = memory.available(self.layer_weights.device)
        if self.whole is None or (free is not None and needed > free * (1 - memory.RESERVE)):
            return (
                "its decoder layers are read one at a time, and all together they would need "
                f"{memory.gigabytes(needed)} of memory"
            )
        return ""

    def replay(self, tokens: int) -> Replay:
        if self.cannot_replay or self.whole is None:
            raise CannotReplay(self.cannot_replay)
        self.layer_weights.release()
        return self.whole().replay(tokens)

    @property
    def size(self) -> Size:
        weights = self.layer_weights
        layers = [weights.bytes_of(layer) for layer in weights.layers]
        return replace(super().size, stored=sum(layers), layer=max(layers), dtype=weights.dtype)

    def _result(self, layer: int, real_T: Tensor) -> Routed:
        self._at_hand(self.decoder_of[layer])
        return super()._result(layer, real_T)

    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        self._at_hand(self.decoder_of[layer])
        return super().dense(layer, x_TD)

    def weights(self, layer: int) -> list[Tensor]:
        self._at_hand(self.decoder_of[layer])
        return super().weights(layer)

    def release(self, layer: int) -> None:
        if self.layer_weights.at_hand == self.decoder_of[layer]:
            self.layer_weights.release()

    def walk(
        self,
        tokens: int,
        rows: int,
        listener: Listener,
        layers: Collection[int],
        loss: bool = True,
    ) -> Reading:
        return LayerWalk(self, tokens, rows, listener, layers, loss and self.predicts).run()


class LayerWalk:
    """One text on its way through a model; arguments as for `Source.walk`."""

    def __init__(
        self,
        source: LayerwiseSource,
        tokens: int,
        rows: int,
        listener: Listener,
        layers: Collection[int],
        loss: bool,
    ):
        self.source, self.listener, self.loss = source, listener, loss
        self.failed: Exception | None = None
        self.where = source.subject.name
        self.model: Any = source.model
        device = source.layer_weights.device
        parts = list(
            evaluation_windows(source.tokens, source.block, tokens, rows, False, LAYER_BATCH_TOKENS)
        )
        self.inputs_BM = torch.cat([inputs for inputs, _, _ in parts]).to(device)
        self.targets_BM = torch.cat([targets for _, targets, _ in parts]).to(device)
        self.windows, self.block = self.inputs_BM.shape
        self.parts: list[tuple[slice, bool]] = []
        start = 0
        for inputs, _, measured in parts:
            self.parts.append((slice(start, start + len(inputs)), measured))
            start += len(inputs)
        if self.windows == self.block:
            # If B = M, shapes do not show which side holds the windows: add one, not measured.
            self.inputs_BM = torch.cat([self.inputs_BM, self.inputs_BM[:1]])
            self.parts.append((slice(start, start + 1), False))
        names = source.layer_weights.layers
        self.indices = {
            name: [index for index in layers if source.decoder_of[index] == name] for name in names
        }
        wanted = [number for number, name in enumerate(names) if self.indices[name]]
        self.names = names if self.loss else names[: max(wanted, default=0) + 1]

    @torch.no_grad()
    def run(self) -> Reading:
        """Send the text through."""
        modules = {name: self.model.get_submodule(name) for name in self.names}
        own = {name: module.forward for name, module in modules.items()}
        base = self._base()
        for name, module in modules.items():
            module.forward = self._through(name, own[name])
        hook = base.register_forward_hook(_stop_after)
        try:
            with self.source.running():
                output = self._backbone()
        finally:
            hook.remove()
            for name, module in modules.items():
                module.forward = own[name]
        self.source.layer_weights.release()
        if self.failed is not None:
            raise self.failed
        scored, nats, choices = self._score(base, output) if self.loss else (0, 0.0, None)
        self.listener.progress(1.0)
        real_BM = self.targets_BM != IGNORED
        ids = [
            token
            for part, measured in self.parts
            if measured
            for token in self.inputs_BM[part][real_BM[part]].tolist()
        ]
        read_T = self.inputs_BM[: self.windows][real_BM]
        return Reading(ids, read_T, scored, nats, choices=choices)

    def _base(self) -> nn.Module:
        """The smallest module that contains the decoder layers; the modules after it are the
        head."""
        name = self.source.layer_weights.stack
        while True:
            name = name.rpartition(".")[0]
            module: nn.Module = self.model.get_submodule(name)
            if not name or hasattr(module, "base_model_prefix"):
                return module

    def _backbone(self) -> Any:
        """The model's own forward pass, as far as the output layer."""
        try:
            output = self.model(input_ids=self.inputs_BM, use_cache=False)
        except _Stop as stop:
            return stop.output
        return output

    def _through(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A decoder layer's forward pass, a few windows at a time."""

        def run(*args: Any, **kwargs: Any) -> Any:
            indices, outputs = self.indices[name], []
            watched = [self.source.watched[index] for index in indices]
            for number, (part, measured) in enumerate(self.parts):
                some = [self._some(value, part) for value in args]
                named = {key: self._some(value, part) for key, value in kwargs.items()}
                with recording(watched):
                    outputs.append(forward(*some, **named))
                self._tell(indices, watched, part, measured)
                self.listener.progress(self._share(name, (number + 1) / len(self.parts)))
            output = _joined(outputs)
            del outputs, some, named
            for recorder in watched:
                recorder.begin()  # forget the tensors of the last windows
            try:
                for index in indices:
                    self.listener.seen(index)
            except Exception as error:  # not an error of the model's code
                self.failed = error
                raise _Stop from None
            if name == self.names[-1] and not self.loss:
                raise _Stop
            return output

        return run

    def _tell(
        self, indices: list[int], watched: list[LayerRecorder], part: slice, measured: bool
    ) -> None:
        if part.start >= self.windows:
            return
        real_T = self.targets_BM[part].flatten() != IGNORED
        with foreign_code("the experts of this model cannot be run", self.where):
            for index, one in zip(indices, watched, strict=True):
                self.listener.routed(index, one.result(real_T, self.where), measured)

    def _share(self, name: str, of_layer: float) -> float:
        head = 1 if self.loss else 0
        return (self.names.index(name) + of_layer) / (len(self.names) + head)

    def _some(self, value: Any, part: slice) -> Any:
        """The part of a value that belongs to some windows; the value itself if all share it."""
        if isinstance(value, Tensor):
            of_windows = (
                value.ndim >= 2
                and len(value) == len(self.inputs_BM)
                and (value.ndim == 4 or value.shape[1] == self.block)
            )
            return value[part] if of_windows else value
        if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
            return type(value)(self._some(item, part) for item in value)
        if type(value) is dict:
            return {key: self._some(item, part) for key, item in value.items()}
        return value

    def _score(self, base: nn.Module, output: Any) -> tuple[int, float, int | None]:
        """The number of predictions, their summed cross-entropy, and the size of the vocabulary."""
        scored, nats, choices = 0, 0.0, None
        step = max(1, tokens_per_batch(self.source.vocab_size) // self.block)
        own = base.forward
        try:
            for start in range(0, self.windows, step):
                part = slice(start, min(start + step, self.windows))
                base.forward = _gives(output, part)
                with self.source.running():
                    found = self.model(input_ids=self.inputs_BM[part], use_cache=False)
                targets_BM = self.targets_BM[part]
                nats += next_token_nats(found.logits, targets_BM)
                scored += int((targets_BM != IGNORED).sum().item())
                choices = found.logits.shape[-1]
        finally:
            base.forward = own
        return scored, nats, choices


def _stop_after(module: nn.Module, args: Any, output: Any) -> None:
    raise _Stop(output)


def _gives(output: Any, part: slice) -> Callable[..., Any]:
    """A forward pass that returns the backbone's output for some windows."""
    if isinstance(output, tuple):
        return lambda *args, **kwargs: (output[0][part], *output[1:])
    some = copy.copy(output)
    some["last_hidden_state"] = output["last_hidden_state"][part]
    return lambda *args, **kwargs: some


def _joined(outputs: list[Any]) -> Any:
    """A layer's outputs for a few windows each, joined into one for all windows."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(outputs)
    if isinstance(first, (tuple, list)):
        return type(first)(map(_joined, map(list, zip(*outputs, strict=True))))
    return first
