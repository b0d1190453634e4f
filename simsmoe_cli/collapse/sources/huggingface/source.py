"""A Hugging Face mixture of experts that is completely in memory, as the source of a report.

Shapes: B windows, M block, T tokens, D width, N experts, K experts per token, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from simsmoe_cli.any_moe.expert_calls import LayerRecorder, recording
from simsmoe_cli.any_moe.find_layers import find_expert_layers, no_experts
from simsmoe_cli.collapse.sources.base import (
    Batch,
    LayerSpec,
    Size,
    Source,
    WholeSource,
    rows_of_experts,
)
from simsmoe_cli.collapse.sources.evaluation_windows import (
    evaluation_windows,
    next_token_nats,
    tokens_per_batch,
)
from simsmoe_cli.collapse.sources.huggingface.replay import HuggingFaceReplay
from simsmoe_cli.collapse.sources.replay import CannotReplay, Replay
from simsmoe_cli.data.streams import IGNORED, Tokens
from simsmoe_cli.files.foreign_calls import silent_stderr
from simsmoe_cli.huggingface.foreign_code import foreign_code
from simsmoe_cli.similarity.routed import Routed


class HuggingFaceSource(WholeSource):
    """A model of transformers, or one that is called the same way; see `open_huggingface`.

    Args:
        model: called with `input_ids` [B, M]; gives logits [B, M, V].
        tokens: the text, ids.
        tokenizer: with `decode`; None where tokens have no text.
        top_k: K of listed experts whose router gives logits alone.
        vocab_size: V; None: as the subject's settings have it.
        predicts: whether its logits are of the next token; else no loss is measured.
        both_stacks: whether it is an encoder and a decoder, which then read the same text.
        suspects: a hint about what to check if the model cannot be run.
        facts: the fields of a `Source`, without `layers`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: Tokens,
        tokenizer: Any = None,
        top_k: int | None = None,
        *,
        vocab_size: int | None = None,
        predicts: bool = True,
        both_stacks: bool = False,
        suspects: str = "",
        **facts: Any,
    ):
        self.found = find_expert_layers(model)
        if not self.found:
            raise no_experts(model, facts["subject"].name)
        super().__init__(
            layers=[LayerSpec(layer.name, layer.number) for layer in self.found], **facts
        )
        self.watched = [LayerRecorder(layer, top_k) for layer in self.found]
        self.model = model.eval()
        self.tokens = tokens
        self.tokenizer = tokenizer
        self.domain_tokens: dict[str, Tokens] = {}
        self.predicts = predicts
        self.both_stacks = both_stacks
        self.suspects = suspects
        self.vocab_size = vocab_size or int(self.subject.settings.get("vocab_size") or 0)

    @property
    def size(self) -> Size:
        weights = [layer.hidden_units() for layer in self.found]
        return Size.of(self.model, weights, self.watched[0].top_k, self.vocab_size)

    def read(self, tokens: int, rows: int) -> Iterator[Batch]:
        first = next(self.model.parameters())
        together = tokens_per_batch(self.vocab_size)
        for inputs, targets, measured in evaluation_windows(
            self.tokens, self.block, tokens, rows, carries_memory=False, together=together
        ):
            with torch.no_grad():
                yield self._run(inputs.to(first.device), targets.to(first.device), measured)

    def _run(self, inputs_BM: Tensor, targets_BM: Tensor, measured: bool) -> Batch:
        where = self.subject.name
        more = {"decoder_input_ids": inputs_BM} if self.both_stacks else {}
        with recording(self.watched), self.running():
            output = self.model(input_ids=inputs_BM, **more, **self._without_cache())
        real_T = targets_BM.flatten() != IGNORED
        with foreign_code("the experts of this model cannot be run", where):
            layers = [self._result(layer, real_T) for layer in range(len(self.watched))]
        for recorder in self.watched:
            recorder.begin()  # forget the tensors of this batch
        ids_T = inputs_BM.flatten()[real_T]
        if not self.predicts:
            return Batch(ids_T, layers, measured, 0.0, 0)
        return Batch(
            ids_T,
            layers,
            measured,
            next_token_nats(output.logits, targets_BM),
            int(real_T.sum().item()),
            choices=output.logits.shape[-1],
        )

    def running(self) -> contextlib.AbstractContextManager[list[str]]:
        """Run the model's code; an exception becomes one UserError."""
        return foreign_code("this model cannot be run", self.subject.name, self.suspects)

    def _result(self, layer: int, real_T: Tensor) -> Routed:
        """The routing of the real tokens in a layer."""
        return self.watched[layer].result(real_T, self.subject.name)

    def _without_cache(self) -> dict[str, Any]:
        return {"use_cache": False} if hasattr(self.model, "config") else {}

    def router_rows(self, layer: int) -> Tensor | None:
        return rows_of_experts(self.found[layer].router, self.found[layer].number)

    @property
    def cannot_replay(self) -> str:
        return "" if self.predicts else "the model does not predict the next token"

    def domains(self) -> list[tuple[str, Source]]:
        """The files of text, where there are several."""
        found: list[tuple[str, Source]] = []
        for name, tokens in self.domain_tokens.items():
            part = copy.copy(self)
            part.tokens = tokens
            found.append((name, part))
        return found

    def replay(self, tokens: int) -> Replay:
        if self.cannot_replay:
            raise CannotReplay(self.cannot_replay)
        windows = evaluation_windows(
            self.tokens, self.block, tokens, tokens, False, tokens_per_batch(self.vocab_size)
        )
        batches = [(inputs, targets) for inputs, targets, _ in windows]
        return HuggingFaceReplay(self.model, self.watched, batches, self.subject.name)

    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        with torch.no_grad():
            return self.found[layer].dense(x_TD).float()

    def weights(self, layer: int) -> list[Tensor]:
        return self.found[layer].hidden_units()

    def text_of(self, ids: list[int]) -> list[str]:
        if self.tokenizer is None:
            return []
        with silent_stderr(), foreign_code("the tokenizer cannot decode", self.subject.name):
            return [str(self.tokenizer.decode([token])) for token in ids]
