"""The interface between the training loop and the two objectives: language modelling and
classification.

The loop has steps, optimizer, events and checkpoints. An objective has the model, the batches, the
loss, the scores, and the identity that a checkpoint stores.

Shapes: B rows of a micro-batch, M block, T = B*M positions of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from simsmoe_cli.model.interface import MoEModel
from simsmoe_cli.model.precision import resolve_precision
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.parallel.world import ALONE, World, ranks
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.events import SplitScore, TaskFacts, TestScores
from simsmoe_cli.similarity.cost import Cost
from simsmoe_cli.train.evaluate import Progress, untold


class Score(Protocol):
    """The result of an evaluation."""

    @property
    def loss_nats(self) -> float:
        """Mean loss of the task."""


S = TypeVar("S", bound=Score)


class Objective(ABC, Generic[S]):
    """A model with its data and loss; S is the type of an evaluation's result.

    Attributes:
        recipe, device, world: of the training; of several ranks, each reads its part of a batch.
        precision: "fp32" or "bf16".
        model: trained in place.
        unit: the unit that the loss is averaged over: a kind of token ("byte", "word" ...), or
            "text".
        in_bits: whether tokens are characters or bytes, so that the loss is also given in bits.
        static_shapes: whether every step reads tensors of the same shapes, so that it is compiled
            only once.
        warnings: for the start of a run.
    """

    model: MoEModel
    unit: str
    in_bits: bool
    static_shapes: bool
    warnings: list[str]

    def __init__(self, recipe: Recipe, device: torch.device, world: World = ALONE):
        self.recipe = recipe
        self.device = device
        self.world = world
        self.precision = resolve_precision(recipe.train.precision, device)

    def context(self, step: int, real_T: Tensor | None = None) -> StepContext:
        """The step information for routers, of a step of this training (0 is the first)."""
        steps, cost, compare = self.recipe.train.steps, self.similarity_cost, 0
        if cost is not None and self.recipe.similarity.compares(step / steps):
            compare = cost.at(step)
        return StepContext(step, steps, real_T, compare=compare)

    @cached_property
    def similarity_cost(self) -> Cost | None:
        """What similarity learning costs in a rank's part of a micro-batch of mean size; None: it
        is off."""
        train = self.recipe.train
        tokens = self.tokens_read(train.steps) // (train.steps * train.micro_batches * ranks())
        return self.model.similarity_cost(max(1, tokens))

    @abstractmethod
    def data_in_words(self) -> str:
        """What it is trained on, such as "enwik8: 90,000,000 bytes to train on, in data/enwik8"."""

    @abstractmethod
    def micro_batches(self, step: int) -> Iterator[tuple[Any, ...]]:
        """The micro-batches of a step (0 is the first), as arguments of `loss`."""

    @abstractmethod
    def loss(self, *arguments: Any) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """A micro-batch's share of the loss of a step, and this rank's part of it.

        Args:
            arguments: those from `micro_batches`, and the coefficients of losses by name.

        Returns:
            The loss, the micro-batch's memory for the next step, and the values to log (detached).
        """

    def keep(self, part: int, memory: list[Tensor]) -> None:
        """Store the memory that a micro-batch returned."""

    @abstractmethod
    def tokens_read(self, steps: int) -> int:
        """Tokens of the first steps of a training, padding left out."""

    @abstractmethod
    def probe_batch(self) -> tuple[Tensor, Tensor | None]:
        """Held-out tokens [B, M], the same every time, and the positions of the real tokens if
        there is padding (`StepContext.real_T`)."""

    @abstractmethod
    def validate(self, context: StepContext, progress: Progress = untold) -> S:
        """Score the model as it is on the validation split."""

    @abstractmethod
    def test(self, context: StepContext, progress: Progress = untold) -> S:
        """Score the model on the split that is reported at the end."""

    @abstractmethod
    def tokens_evaluated(self) -> tuple[int, int]:
        """Tokens that a validation reads, and the test."""

    @property
    def test_split(self) -> str:
        """The split that is reported at the end."""
        return "test"

    @abstractmethod
    def to_minimise(self, score: S) -> float:
        """The score that is minimised to choose the best checkpoint."""

    @abstractmethod
    def split_score(self, score: S, split: str) -> SplitScore:
        """The fields of an eval event."""

    @abstractmethod
    def best_fields(self, score: S) -> dict[str, Any]:
        """The fields about the validation in the checkpoint of the best weights."""

    @abstractmethod
    def test_scores(self, score: S) -> TestScores:
        """The test scores in the last event of a run."""

    @abstractmethod
    def announcement(self) -> TaskFacts:
        """Further fields of a run_started event."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """The identity of the model and its data, stored in checkpoints."""

    @abstractmethod
    def require_same(self, state: Mapping[str, Any]) -> None:
        """Raise a UserError unless a checkpoint's state is of this objective and this data."""

    def carried(self) -> dict[str, Tensor]:
        """Further tensors that a resumed run needs, apart from those of model and optimizer."""
        return {}

    def restore_carried(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the tensors from `carried`; other names are ignored.

        Raises:
            ValueError: the tensors do not come from `carried`.
        """

    def to_device(self, tensor: Tensor) -> Tensor:
        """A tensor of the host, on the device; does not wait for it."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)
