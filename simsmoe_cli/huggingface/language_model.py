"""A causal language model of transformers that is trained, evaluated and sampled as one of ours.

Its logits are those of the model's own head, with whatever scaling or cap the model has. No memory
is carried from block to block: every block is read from position 0, as transformers does.

Shapes: B batch, M block, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from simsmoe_cli.files import atomic
from simsmoe_cli.huggingface.foreign_code import transformers_module
from simsmoe_cli.huggingface.save import FOLDER, save_model, whole_tensors
from simsmoe_cli.huggingface.wrapped import Wrapped, WrappedOutcome, build
from simsmoe_cli.model.interface import ReadOn, TextModel
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.parallel.world import first
from simsmoe_cli.recipe.schema import Recipe


@dataclass(kw_only=True)
class ScoredText(WrappedOutcome):
    """With the code length of the targets in nats, a scalar."""

    nats: Tensor


@dataclass(kw_only=True)
class PredictedText(WrappedOutcome):
    """With logits, [B, M, V]."""

    logits: Tensor


class HuggingFaceLanguageModel(Wrapped, TextModel):
    """A language model of transformers; see `Wrapped`.

    Args:
        recipe: its section huggingface describes the model.
        vocab_size: V.
        body: the model; None builds it with fresh weights.
    """

    def __init__(self, recipe: Recipe, vocab_size: int, body: nn.Module | None = None):
        super().__init__(recipe, vocab_size, build(recipe) if body is None else body)

    def forward(
        self,
        tokens_BM: Tensor,
        memory: Sequence[Tensor] = (),
        context: StepContext | None = None,
    ) -> PredictedText:
        output, found = self.learn(tokens_BM, context or StepContext())
        return PredictedText(**vars(found), logits=output.logits)

    def score(
        self,
        tokens_BM: Tensor,
        targets_BM: Tensor,
        memory: Sequence[Tensor] = (),
        context: StepContext | None = None,
    ) -> ScoredText:
        output, found = self.learn(tokens_BM, context or StepContext())
        logits_TV = output.logits.float().flatten(0, 1)
        nats = F.cross_entropy(logits_TV, targets_BM.flatten(), ignore_index=-100, reduction="sum")
        return ScoredText(**vars(found), nats=nats)

    def publish(self, run: Path, labels: Sequence[str] = ()) -> None:
        """Write `RUN/huggingface`."""
        tensors = whole_tensors(self.body)
        if first():
            with atomic.whole_folder(run / FOLDER, replace=True) as partial:
                save_model(self.body, tensors, self.dtype, run / FOLDER, partial)

    def save(self, folder: Path, run: Path) -> None:
        """Fill a folder that transformers loads.

        Args:
            folder: an empty folder.
            run: the run folder, which has the tokenizer.
        """
        save_model(self.body, whole_tensors(self.body), self.dtype, run / FOLDER, folder)

    def initial_memory(self, batch: int) -> list[Tensor]:
        return []

    def initial_cache(self, batch: int) -> Any:
        return transformers_module().DynamicCache(config=self.body.config)

    def read_on(self, tokens_1M: Tensor, memory: Any, context: StepContext | None) -> ReadOn:
        with self.watching() as seen:
            output = self.run(tokens_1M, use_cache=True, **{self._cache_name: memory})
        foremost = []
        for (_, experts), routed in zip(self.expert_layers, seen, strict=True):
            foremost.append(routed.foremost_T(experts))
        return ReadOn(output.logits[0, -1], foremost, memory)

    @property
    def _cache_name(self) -> str:
        """The argument that takes the cache; its name depends on the version of transformers."""
        known = inspect.signature(self.body.forward).parameters
        return "cache" if "cache" in known else "past_key_values"
