"""Classification: fine-tune a pre-trained backbone on a task, epoch by epoch.

Texts start with an empty memory and are padded on the right; padding is never routed, counted or
scored. Schedules (learning rate, weight of similarity learning, stages of a router) run over the
steps of the fine-tuning, and start from the state of the checkpoint: a StableMoE router that was
frozen stays frozen, and one that was not freezes after `freeze_after` of the fine-tuning.

Shapes: B texts, M tokens of the longest, T = B*M positions of a batch, E examples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.data.tasks.batches import Batch, TaskBatches, collate
from simsmoe_cli.data.tasks.encode import EncodedSplit
from simsmoe_cli.data.tasks.store import Example, Task
from simsmoe_cli.errors import DataError
from simsmoe_cli.files.background import ReadAhead
from simsmoe_cli.model.classifier import real_positions
from simsmoe_cli.model.interface import TextClassifier, classifier
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.parallel.world import ALONE, World
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.events import SplitScore, TaskFacts, TestScores
from simsmoe_cli.run.vocabulary import Vocabulary
from simsmoe_cli.train.classify import TaskEvaluation, classify, encode_split, remarks
from simsmoe_cli.train.evaluate import Progress, autocast, untold
from simsmoe_cli.train.log_window import ACCURACY, WHOLE, Part
from simsmoe_cli.train.loss import total_loss
from simsmoe_cli.train.objectives.base import Objective
from simsmoe_cli.train.sharding import sharded_as_built


class Classification(Objective[TaskEvaluation]):
    """A task on a backbone; weights are fresh until they are loaded.

    Args:
        recipe: what to train; `train.block` is the longest text in tokens.
        task: a prepared task.
        vocabulary: of the pre-trained model.
        device: where to compute.
        pretrained: the origin of the backbone, to store in checkpoints.
        make: makes the model with the weights to start from, on the device; None: fresh weights.
        world: the ranks that train together.

    Raises:
        UserError: a text has no token in the vocabulary.
    """

    unit = "text"
    in_bits = False
    static_shapes = False
    model: TextClassifier

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        vocabulary: Vocabulary,
        device: torch.device,
        pretrained: Mapping[str, Any],
        make: Callable[[], TextClassifier] | None = None,
        world: World = ALONE,
    ):
        super().__init__(recipe, device, world)
        settings = recipe.train
        self.task, self.vocabulary, self.pretrained = task, vocabulary, dict(pretrained)
        self.warnings = list(task.manifest.warnings)
        train = some(task.split("train"), recipe.finetune.examples, settings.seed)
        self.batches = TaskBatches(self._encode("train", train), settings.batch, settings.seed)
        self._read = ReadAhead(self.batches.read)
        self._valid = self._encode("valid", task.split("valid"))
        self._test = self._encode(task.reported, task.split(task.reported))
        self._probe = _first_texts(self._valid, settings.probe_tokens)
        torch.manual_seed(settings.seed)
        if make is None:
            with sharded_as_built(world, device):
                self.model = classifier(recipe, vocabulary.size, len(task.labels)).to(device)
        else:
            self.model = make()

    def _encode(self, split: str, examples: list[Example]) -> EncodedSplit:
        """Encode a split; add a warning for texts that were cut or have unknown words."""
        encoded = encode_split(self.recipe, examples, self.vocabulary)
        self.warnings += remarks(split, encoded, self.recipe)
        return encoded

    def data_in_words(self) -> str:
        texts, labels = len(self.batches.split), len(self.task.labels)
        return f"{self.task.name}, {texts:,} texts of {labels} classes; in {self.task.path}"

    def micro_batches(
        self, step: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, float, Part, StepContext]]:
        batch = self._read(step)
        examples = len(batch.labels)
        world = self.world
        parts = min(self.recipe.train.micro_batches, max(1, examples // world.size))
        length_E = batch.mask.numpy().sum(1)  # by NumPy: the host never asks a tensor
        for every in np.array_split(np.arange(examples), parts):
            rows, part = every, WHOLE
            if not world.alone:
                # A rank for which no text is left computes one that counts nothing.
                rows = every[world.part(len(every))]
                tokens = float(length_E[rows].sum() / length_E[every].sum())
                part = Part(len(rows) / len(every), tokens)
                rows = rows if len(rows) else every[:1]
            longest = int(length_E[rows].max())
            length_B = torch.from_numpy(length_E[rows])
            own = slice(int(rows[0]), int(rows[-1]) + 1)
            real_T = self.to_device(real_positions(length_B, longest))
            yield (
                self.to_device(batch.ids[own, :longest].contiguous()),
                self.to_device(length_B),
                self.to_device(batch.labels[own]),
                len(every) / examples,
                part,
                self.context(step, real_T),
            )

    def loss(
        self,
        tokens_BM: Tensor,
        length_B: Tensor,
        label_B: Tensor,
        share: float,
        part: Part,
        context: StepContext,
        weights: Mapping[str, float | Tensor],
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        with autocast(self.device, self.precision):
            output = self.model(tokens_BM, length_B, context)
        task = F.cross_entropy(output.logits.float(), label_B)
        total, measured = total_loss(task, output, weights, share, part)
        right_B = output.logits.detach().argmax(1) == label_B
        right = right_B.float().mean() * share
        return total, [], measured | {ACCURACY: right if part == WHOLE else right * part.targets}

    def tokens_read(self, steps: int) -> int:
        return self.batches.tokens_read(steps)

    def probe_batch(self) -> tuple[Tensor, Tensor]:
        return self._probe.ids, real_positions(self._probe.mask.sum(1), self._probe.ids.shape[1])

    def _evaluate(
        self, split: EncodedSplit, context: StepContext, progress: Progress
    ) -> TaskEvaluation:
        rows = self.recipe.train.batch // self.recipe.train.micro_batches
        return classify(self.model, split, rows, self.precision, context, self.world, progress)

    def validate(self, context: StepContext, progress: Progress = untold) -> TaskEvaluation:
        return self._evaluate(self._valid, context, progress)

    def test(self, context: StepContext, progress: Progress = untold) -> TaskEvaluation:
        return self._evaluate(self._test, context, progress)

    def tokens_evaluated(self) -> tuple[int, int]:
        return len(self._valid.ids), len(self._test.ids)

    @property
    def test_split(self) -> str:
        return self.task.reported

    def to_minimise(self, score: TaskEvaluation) -> float:
        return 1 - score.accuracy

    def split_score(self, score: TaskEvaluation, split: str) -> SplitScore:
        return score.event(split)

    def best_fields(self, score: TaskEvaluation) -> dict[str, Any]:
        return {"loss_nats": score.loss_nats, "accuracy": score.accuracy}

    def test_scores(self, score: TaskEvaluation) -> TestScores:
        return score.test_scores()

    def announcement(self) -> TaskFacts:
        return {
            "task": self.task.name,
            "labels": self.task.labels,
            "steps_per_epoch": len(self.batches),
        }

    def identity(self) -> dict[str, Any]:
        manifest = self.task.manifest
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "vocab_size": self.vocabulary.size,
            "unit": self.vocabulary.tokenizer.unit,
            "vocabulary": self.vocabulary.sha256,
            "tokenizer": {"kind": self.vocabulary.kind, "file": self.vocabulary.file},
            "task": {
                "name": manifest.name,
                "labels": manifest.labels,
                "fingerprint": manifest.fingerprint,
                "path": str(self.task.path.resolve()),
            },
            "pretrained": self.pretrained,
        }

    def require_same(self, state: Mapping[str, Any]) -> None:
        if state["task"]["fingerprint"] != self.task.manifest.fingerprint:
            raise DataError(
                "the prepared task is not the one this run was trained on",
                where=str(self.task.path),
                hint="Point --data-dir at the original, or start a new run with another --name.",
            )


def some(examples: list[Example], count: int, seed: int) -> list[Example]:
    """`count` examples, drawn by the seed, in their order; all of them for 0."""
    if not 0 < count < len(examples):
        return examples
    chosen = np.random.default_rng(seed).permutation(len(examples))[:count]
    return [examples[index] for index in np.sort(chosen)]


def _first_texts(split: EncodedSplit, tokens: int) -> Batch:
    """The first texts of a split that hold about this many tokens; at least one text."""
    count = int(np.searchsorted(split.offsets[1:], tokens, side="right"))
    return collate(split, np.arange(min(max(count, 1), len(split))))
