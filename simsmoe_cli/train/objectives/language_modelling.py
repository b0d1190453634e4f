"""Language modelling: predict the next token of contiguous streams, with carried memory.

Shapes: B streams, M block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.streams import TrainStreams, evaluation_steps
from simsmoe_cli.errors import DataError
from simsmoe_cli.files.background import ReadAhead
from simsmoe_cli.model.interface import TextModel, language_model
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.parallel.world import ALONE, World
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.events import SplitScore, TaskFacts, TestScores
from simsmoe_cli.run.score import OF_CHARACTERS
from simsmoe_cli.train.evaluate import (
    Evaluation,
    Progress,
    autocast,
    evaluate_split,
    look_back,
    untold,
)
from simsmoe_cli.train.log_window import Part
from simsmoe_cli.train.loss import total_loss
from simsmoe_cli.train.objectives.base import Objective
from simsmoe_cli.train.probes import probe_batch
from simsmoe_cli.train.sharding import sharded_as_built


class LanguageModelling(Objective[Evaluation]):
    """Next-token prediction on a prepared corpus.

    Args:
        recipe: what to train.
        store: the prepared corpus.
        device: where to compute.
        make: makes the model with the weights to start from, on the device; None: fresh weights.
        world: the ranks that train together.
        origin: run, step and hash of the weights of the run that this one starts from, if any.
    """

    model: TextModel

    def __init__(
        self,
        recipe: Recipe,
        store: TokenStore,
        device: torch.device,
        make: Callable[[], TextModel] | None = None,
        world: World = ALONE,
        origin: dict[str, Any] | None = None,
    ):
        super().__init__(recipe, device, world)
        settings = recipe.train
        self.origin = origin
        self.store = store
        self.unit = store.manifest.unit
        self.in_bits = self.unit in OF_CHARACTERS
        self.warnings = store.warnings
        # A rank takes its part of every micro-batch, so a micro-batch is the same for any number.
        rows = self._rows_of_all
        own = range(rows)[world.part(rows)]
        self.rows = len(own)
        self.part = Part(self.rows / rows, self.rows / rows)
        self.streams = TrainStreams(
            store.split("train"),
            settings.batch,
            settings.block,
            shuffle_seed=settings.seed if recipe.shuffles_blocks else None,
            rows=None
            if world.alone
            else [first + row for first in range(0, settings.batch, rows) for row in own],
        )
        self._read = ReadAhead(self.streams.read)
        self._probe_batch = probe_batch(store.split("valid"), settings.block, settings.probe_tokens)
        torch.manual_seed(settings.seed)
        if make is None:
            with sharded_as_built(world, device):
                self.model = language_model(recipe, store.manifest.vocab_size).to(device)
        else:
            self.model = make()
        self.static_shapes = self.model.compiles
        if self.model.document_end is not None:
            assert store.manifest.end_id is not None
            self.model.document_end.fill_(store.manifest.end_id)
        self.memory = [self.model.initial_memory(self.rows) for _ in range(settings.micro_batches)]

    def data_in_words(self) -> str:
        manifest = self.store.manifest
        tokens = manifest.splits["train"].tokens
        times = self.tokens_read(self.recipe.train.steps) / tokens
        read = f"read {times:.3g} times" if times >= 1 else f"{times:.2%} of it are read"
        return f"{manifest.name}, {tokens:,} {self.unit}s, {read}; in {self.store.path}"

    def micro_batches(
        self, step: int
    ) -> Iterator[tuple[Tensor, Tensor, list[Tensor], StepContext]]:
        inputs, targets, restart = self._read(step)
        context = self.context(step)
        for part, memory in enumerate(self.memory):
            if restart:
                for tensor in memory:
                    tensor.zero_()
            own = slice(part * self.rows, (part + 1) * self.rows)
            yield self.to_device(inputs[own]), self.to_device(targets[own]), memory, context

    def loss(
        self,
        x_BM: Tensor,
        y_BM: Tensor,
        memory: list[Tensor],
        context: StepContext,
        weights: Mapping[str, float | Tensor],
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        with autocast(self.device, self.precision):
            output = self.model.score(x_BM, y_BM, memory, context)
        task = output.nats / y_BM.numel()
        total, measured = total_loss(
            task, output, weights, 1 / self.recipe.train.micro_batches, self.part
        )
        return total, output.memory, measured

    def keep(self, part: int, memory: list[Tensor]) -> None:
        self.memory[part] = memory

    def tokens_read(self, steps: int) -> int:
        return steps * self.recipe.train.batch * self.recipe.train.block

    def probe_batch(self) -> tuple[Tensor, None]:
        return self._probe_batch, None

    def _evaluate(
        self, split: str, max_blocks: int, context: StepContext, progress: Progress
    ) -> Evaluation:
        settings = self.recipe.eval
        return evaluate_split(
            self.model,
            self.store.checked_split(split),
            block=self.recipe.train.block,
            streams=settings.streams,
            overlap=settings.overlap,
            max_blocks=max_blocks,
            precision=self.precision,
            context=context,
            world=self.world,
            progress=progress,
        )

    def validate(self, context: StepContext, progress: Progress = untold) -> Evaluation:
        return self._evaluate("valid", self.recipe.train.validate_blocks, context, progress)

    def test(self, context: StepContext, progress: Progress = untold) -> Evaluation:
        return self._evaluate("test", self.recipe.eval.final_blocks, context, progress)

    def tokens_evaluated(self) -> tuple[int, int]:
        settings, splits = self.recipe.eval, self.store.manifest.splits
        valid, test = (
            steps * tokens
            for steps, tokens in (
                evaluation_steps(
                    splits[split].tokens,
                    settings.streams,
                    self.recipe.train.block,
                    settings.overlap,
                    most,
                    0 if most else look_back(self.model),
                )
                for split, most in (
                    ("valid", self.recipe.train.validate_blocks),
                    ("test", settings.final_blocks),
                )
            )
        )
        return valid, test

    def to_minimise(self, score: Evaluation) -> float:
        return score.loss_nats

    def split_score(self, score: Evaluation, split: str) -> SplitScore:
        return score.on_split(split, self.store.manifest)

    def best_fields(self, score: Evaluation) -> dict[str, Any]:
        return {"loss_nats": score.loss_nats}

    def test_scores(self, score: Evaluation) -> TestScores:
        return score.test_scores(self.store.manifest)

    def announcement(self) -> TaskFacts:
        return {}

    def identity(self) -> dict[str, Any]:
        manifest = self.store.manifest
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "vocab_size": self.model.vocab_size,
            "unit": self.unit,
            "corpus": manifest.fingerprint,
            "vocabulary": manifest.vocabulary,
            "store": str(self.store.path.resolve()),
            **({} if self.origin is None else {"pretrained": self.origin}),
        }

    def require_same(self, state: Mapping[str, Any]) -> None:
        size = state["vocab_size"]
        if state["corpus"] != self.store.manifest.fingerprint or size != self.model.vocab_size:
            raise DataError(
                "the prepared corpus is not the one this run was trained on",
                where=str(self.store.path),
                hint="Point --data-dir at the original, or start a new run with another --name.",
            )

    def carried(self) -> dict[str, Tensor]:
        return {
            f"memory.{part}.{layer}": self._of_all_ranks(tensor)
            for part, memory in enumerate(self.memory)
            for layer, tensor in enumerate(memory)
        }

    def _of_all_ranks(self, memory_BLD: Tensor) -> Tensor:
        """The memory of all rows of a micro-batch."""
        if self.world.alone:
            return memory_BLD
        return torch.cat(self.world.gather(memory_BLD, self._rows_of_all))

    @property
    def _rows_of_all(self) -> int:
        return self.recipe.train.batch // self.recipe.train.micro_batches

    def restore_carried(self, tensors: Mapping[str, Tensor]) -> None:
        own = self.carried()
        found = {name: tensor for name, tensor in tensors.items() if name.startswith("memory.")}
        shapes = [
            {name: tensor.shape for name, tensor in tensors.items() if tensor.is_floating_point()}
            for tensors in (own, found)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError("the carried memory is not that of this model and batch")
        for part, memory in enumerate(self.memory):
            for layer in range(len(memory)):
                whole = found[f"memory.{part}.{layer}"]
                memory[layer] = whole[self.world.part(len(whole))].to(self.device)
