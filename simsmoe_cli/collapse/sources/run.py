"""Checkpoints of run folders as sources of a report; `open_run.py` opens them.

A language model reads windows of its corpus, and a fine-tuned classifier whole texts of its task,
spread evenly; padding is left out of everything. Both compute in fp32, whatever precision they were
trained in, so that rounding does not change the results.

Shapes: B streams or texts, M block or longest text, T tokens, D model width, N experts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.collapse.sources.base import Batch, Size, Source, WholeSource, rows_of_experts
from simsmoe_cli.collapse.sources.evaluation_windows import (
    BATCH_TOKENS,
    evaluation_windows,
    next_token_nats,
    tokens_per_batch,
)
from simsmoe_cli.collapse.sources.huggingface.replay import HuggingFaceReplay
from simsmoe_cli.collapse.sources.replay import CannotReplay, Replay
from simsmoe_cli.collapse.sources.run_replay import RunReplay
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.streams import IGNORED, Tokens
from simsmoe_cli.data.tasks.batches import Batch as Texts
from simsmoe_cli.data.tasks.batches import collate
from simsmoe_cli.data.tasks.encode import EncodedSplit
from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.huggingface.language_model import HuggingFaceLanguageModel
from simsmoe_cli.model.classifier import real_positions
from simsmoe_cli.model.interface import MoEModel, TextClassifier, TextModel
from simsmoe_cli.model.language_model import Backbone
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.similarity.routed import Routed

MOST_DOMAINS = 24  # classes of a task whose routing is counted apart


class RunSource(WholeSource):
    """A model of our own training; `facts` are the fields of a `Source`."""

    def __init__(self, model: MoEModel, context: StepContext, tokenizer: Tokenizer, **facts: Any):
        super().__init__(**facts)
        self.model = model.eval()
        self.context = context
        self.tokenizer = tokenizer
        self.device = next(model.parameters()).device

    def _run(
        self, inputs: tuple[Any, ...], context: StepContext, real_T: Tensor
    ) -> tuple[Any, list[Routed]]:
        """The model's output, and the routing of the real tokens, which are at the positions
        real_T."""
        with torch.no_grad(), self.model.watching(context.real_T) as seen:
            output = self.model(*inputs, context)
        if context.real_T is None:
            seen = [routed.of(real_T) for routed in seen]
        return output, seen

    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model.dense(layer, x_TD).float()

    def weights(self, layer: int) -> list[Tensor]:
        return self.model.expert_weights(layer)

    def router_rows(self, layer: int) -> Tensor | None:
        return rows_of_experts(self.model.router(layer), self.layers[layer].experts)

    @property
    def size(self) -> Size:
        layers = range(len(self.layers))
        weights = [self.weights(layer) for layer in layers]
        return Size.of(self.model, weights, self.model.experts_per_token, self.model.vocab_size)

    def text_of(self, ids: list[int]) -> list[str]:
        return [self.tokenizer.decode([token]) for token in ids]


class CorpusSource(RunSource):
    """A language model and the corpus it was trained on."""

    model: TextModel

    def __init__(self, model: TextModel, context: StepContext, store: TokenStore, **facts: Any):
        super().__init__(model, context, store.tokenizer, **facts)
        self.store = store
        self.tokens: Tokens = store.checked_split(self.split)
        self.domain_tokens: dict[str, Tokens] = {}
        self.tokens_per_unit = store.manifest.splits[self.split].tokens_per_unit

    def read(self, tokens: int, rows: int) -> Iterator[Batch]:
        carries = bool(self.model.initial_memory(1))
        memory: list[Tensor] = []
        together = tokens_per_batch(self.model.vocab_size)
        for inputs, targets, measured in evaluation_windows(
            self.tokens, self.block, tokens, rows, carries, together
        ):
            batch, memory = self._read(inputs.to(self.device), targets.to(self.device), memory)
            batch.rows = measured
            yield batch

    def domains(self) -> list[tuple[str, Source]]:
        """The corpus and further texts, where there are any."""
        known = {self.corpus: self.tokens, **self.domain_tokens} if self.domain_tokens else {}
        found: list[tuple[str, Source]] = []
        for name, tokens in known.items():
            part = copy.copy(self)
            part.tokens = tokens
            found.append((name, part))
        return found

    def replay(self, tokens: int) -> Replay:
        carries = bool(self.model.initial_memory(1))
        together = tokens_per_batch(self.model.vocab_size)
        windows = evaluation_windows(self.tokens, self.block, tokens, tokens, carries, together)
        batches = [(inputs, targets) for inputs, targets, _ in windows]
        if isinstance(self.model, Backbone):
            return RunReplay(self.model, self.context, batches)
        assert isinstance(self.model, HuggingFaceLanguageModel)
        return HuggingFaceReplay(self.model.body, self.model.recorders, batches, self.subject.name)

    def _read(
        self, inputs_BM: Tensor, targets_BM: Tensor, memory: list[Tensor]
    ) -> tuple[Batch, list[Tensor]]:
        real_T = (targets_BM.flatten() != IGNORED).nonzero().flatten()
        output, layers = self._run((inputs_BM, memory), self.context, real_T)
        batch = Batch(
            inputs_BM.flatten()[real_T],
            layers,
            False,
            next_token_nats(output.logits, targets_BM),
            len(real_T),
            choices=output.logits.shape[-1],
        )
        return batch, output.memory


class TaskSource(RunSource):
    """A fine-tuned classifier and the texts of its task.

    A text's routing does not depend on the texts it is read with, unless the router is
    expert-choice, which compares the tokens of a whole batch.
    """

    model: TextClassifier

    def __init__(
        self,
        model: TextClassifier,
        context: StepContext,
        tokenizer: Tokenizer,
        texts: EncodedSplit,
        labels: Sequence[str],
        **facts: Any,
    ):
        super().__init__(model, context, tokenizer, **facts)
        self.texts = texts
        self.labels = labels
        self.some_E = np.arange(len(texts))  # the texts that are read

    def read(self, tokens: int, rows: int) -> Iterator[Batch]:
        read_E = spread_texts(self.texts, self.some_E, tokens)
        rows_E = spread_texts(self.texts, read_E, rows)
        for measured, index_E in ((True, rows_E), (False, np.setdiff1d(read_E, rows_E))):
            for texts in self._batches(index_E):
                batch = self._read(texts)
                batch.rows = measured
                yield batch

    def domains(self) -> list[tuple[str, Source]]:
        """The texts of each class; of many classes, those with most texts."""
        count_C = np.bincount(self.texts.labels, minlength=len(self.labels))
        found: list[tuple[str, Source]] = []
        for label in sorted(np.argsort(-count_C, kind="stable")[:MOST_DOMAINS].tolist()):
            part = copy.copy(self)
            part.some_E = np.flatnonzero(self.texts.labels == label)
            if len(part.some_E):
                found.append((self.labels[label], part))
        return found

    def _batches(self, index_E: NDArray[np.int64]) -> Iterator[Texts]:
        """Some of the texts, those of similar length together."""
        by_length = index_E[np.argsort(self.texts.lengths[index_E], kind="stable")]
        longest = int(self.texts.lengths[index_E].max(initial=1))
        together = max(1, BATCH_TOKENS // longest)
        for start in range(0, len(by_length), together):
            yield collate(self.texts, by_length[start : start + together])

    @property
    def cannot_replay(self) -> str:
        ours = isinstance(self.model, Backbone)
        return "" if ours else "it is a classifier of transformers"

    def replay(self, tokens: int) -> Replay:
        if not isinstance(self.model, Backbone):
            raise CannotReplay(self.cannot_replay)
        read_E = spread_texts(self.texts, np.arange(len(self.texts)), tokens)
        return RunReplay(self.model, self.context, texts=list(self._batches(read_E)))

    def _read(self, texts: Texts) -> Batch:
        length_B, label_B = texts.mask.sum(1), texts.labels.to(self.device)
        real_T = real_positions(length_B, texts.ids.shape[1]).to(self.device)
        ids_BM = texts.ids.to(self.device)
        context = replace(self.context, real_T=real_T)
        output, layers = self._run((ids_BM, length_B.to(self.device)), context, real_T)
        logits_BC = output.logits.float()
        return Batch(
            ids_BM.flatten()[real_T],
            layers,
            False,
            F.cross_entropy(logits_BC, label_B, reduction="sum").item(),
            len(label_B),
            int((logits_BC.argmax(1) == label_B).sum().item()),
            choices=logits_BC.shape[1],
        )


def spread_texts(texts: EncodedSplit, index_E: NDArray[np.int64], tokens: int) -> NDArray[np.int64]:
    """Some of the texts, evenly spread, with about so many tokens together; at least one."""
    of_all = int(texts.lengths[index_E].sum())
    wanted = min(len(index_E), max(1, round(len(index_E) * tokens / of_all)))
    return index_E[np.linspace(0, len(index_E) - 1, wanted).round().astype(np.int64)]
