"""Classifies a split of a task, every text once, and the scores computed from that.

Shapes: B texts, M tokens of the longest, T = B*M positions of a batch, E examples, C classes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.data.tasks.batches import evaluation_batches
from simsmoe_cli.data.tasks.encode import EncodedSplit, encode
from simsmoe_cli.data.tasks.store import Example
from simsmoe_cli.model.classifier import real_positions
from simsmoe_cli.model.interface import TextClassifier
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.parallel.world import ALONE, World, sum_over_ranks
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.events import SplitScore, TestScores
from simsmoe_cli.run.vocabulary import Vocabulary
from simsmoe_cli.train.classification_scores import accuracy, confusion, macro_f1
from simsmoe_cli.train.evaluate import Progress, autocast, untold


@dataclass(frozen=True)
class TaskEvaluation:
    """Scores of a classifier on a split.

    Attributes:
        probability_EC: of each class, fp32, examples in the order of the split.
        label_E: the right classes, int64.
        loss_nats: mean cross-entropy.
        tokens: tokens read, padding left out.
        seconds: time it took.
    """

    probability_EC: NDArray[np.float32]
    label_E: NDArray[np.int64]
    loss_nats: float
    tokens: int
    seconds: float

    @property
    def predicted_E(self) -> NDArray[np.int64]:
        """The most probable classes."""
        predicted_E: NDArray[np.int64] = self.probability_EC.argmax(1)
        return predicted_E

    @property
    def confusion_CC(self) -> NDArray[np.int64]:
        """Examples of each class (row) by predicted class (column)."""
        return confusion(self.label_E, self.predicted_E, self.probability_EC.shape[1])

    @property
    def accuracy(self) -> float:
        return float(accuracy(self.confusion_CC))

    @property
    def macro_f1(self) -> float:
        return float(macro_f1(self.confusion_CC))

    def on_split(self, split: str) -> SplitScore:
        """The fields of an eval event.

        Args:
            split: its name.
        """
        return {
            "split": split,
            "loss_nats": self.loss_nats,
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "examples": len(self.label_E),
            "tokens": self.tokens,
            "tokens_per_s": self.tokens / self.seconds,
        }

    def event(self, split: str) -> SplitScore:
        """The fields of an eval event; those of a language model are undefined."""
        return {**self.on_split(split), "bpc": None, "perplexity": None}

    def test_scores(self) -> TestScores:
        """The fields of a run_finished event."""
        return {
            "test_bpc": None,
            "test_loss_nats": self.loss_nats,
            "test_accuracy": self.accuracy,
        }


def encode_split(recipe: Recipe, examples: list[Example], vocabulary: Vocabulary) -> EncodedSplit:
    """Encode a split, with texts cut as the recipe says."""
    return encode(examples, vocabulary.tokenizer, recipe.train.block, recipe.finetune.keep)


def remarks(name: str, split: EncodedSplit, recipe: Recipe) -> list[str]:
    """Notes on texts that were cut and words that were unknown when a split was encoded; one line
    each."""
    found = []
    if split.cut:
        found.append(
            f"{name}: {split.cut:,} of {len(split):,} texts are longer than {recipe.train.block} "
            f"tokens, and their {recipe.finetune.keep} was kept"
        )
    if split.unknown is not None:
        found.append(f"{name}: {split.unknown}")
    return found


@torch.no_grad()
def classify(
    model: TextClassifier,
    split: EncodedSplit,
    batch: int,
    precision: str,
    context: StepContext,
    world: World = ALONE,
    progress: Progress = untold,
) -> TaskEvaluation:
    """Classify every text of a split, leaving the model in the mode it was in.

    The result of a text does not depend on the other texts, except where each expert chooses its
    tokens from the whole batch (router expert-choice).

    Args:
        split: E examples.
        batch: texts at once, of similar length, so that little is padded.
        precision: "fp32" or "bf16" autocast.
        context: the step information for routers.
        world: ranks that share the model, each of which reads a part of every batch.
        progress: told after each batch; it does not wait on the device.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    start = time.perf_counter()
    logits: list[Tensor] = []
    order: list[Tensor] = []
    # FSDP2 keeps gathered weights for the training, which inference tensors cannot serve.
    done = 0
    with torch.inference_mode(world.alone):
        progress(0, len(split))
        for texts in evaluation_batches(split, batch):
            own = slice(None) if world.alone else world.part(len(texts.index))
            # A rank for which no text is left computes one whose result is not used.
            read = own if own == slice(None) or own.start < own.stop else slice(0, 1)
            length_B = texts.mask[read].sum(1)
            real_T = real_positions(length_B, texts.ids.shape[1]).to(device)
            with autocast(device, precision):
                output = model(
                    texts.ids[read].to(device),
                    length_B.to(device),
                    replace(context, real_T=real_T),
                )
            if read == own:
                logits.append(output.logits.float())
                order.append(texts.index[own])
            done += len(texts.index)
            progress(done, len(split))
    model.train(was_training)
    logits_EC = torch.zeros(len(split), model.classifier.out_features)
    if order:
        logits_EC[torch.cat(order)] = torch.cat(logits).cpu()
    logits_EC = sum_over_ranks(logits_EC) if not world.alone else logits_EC
    label_E = torch.from_numpy(split.labels)
    return TaskEvaluation(
        probability_EC=logits_EC.softmax(1).numpy(),
        label_E=split.labels,
        loss_nats=F.cross_entropy(logits_EC, label_E).item(),
        tokens=len(split.ids),
        seconds=time.perf_counter() - start,
    )
