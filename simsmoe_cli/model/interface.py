"""What training, evaluation, text generation and reports need of a model with experts.

Two kinds of models have it: those of a recipe's sections `model` and `moe` (`language_model.py`,
`classifier.py`), and those of transformers (`simsmoe_cli/huggingface/`). `registry.MODELS` names
their classes; `language_model` and `classifier` build the one that a recipe asks for.

Shapes: B batch, M block, D model width, V vocabulary, C classes, T tokens, N experts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor, nn

from simsmoe_cli import registry
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.similarity.cost import Cost
from simsmoe_cli.similarity.learning import SimilarityResult
from simsmoe_cli.similarity.routed import Routed


class Outcome(Protocol):
    """What a forward pass gives besides the result of its task."""

    @property
    def losses(self) -> dict[str, Tensor]:
        """Auxiliary losses summed over layers, by name, without coefficients."""

    @property
    def similarities(self) -> list[SimilarityResult]:
        """The result of similarity learning in each layer where it is on."""

    @property
    def metrics(self) -> list[dict[str, Tensor]]:
        """What the router of each layer reports, by name."""

    @property
    def slots(self) -> list[Tensor]:
        """Routed slots that each expert received, [N] fp32 of each layer with experts."""

    @property
    def memory(self) -> list[Tensor]:
        """For the next block of the same streams; empty where nothing is carried."""


class Scored(Outcome, Protocol):
    """The outcome with the code length of the targets."""

    @property
    def nats(self) -> Tensor:
        """A scalar."""


class Predicted(Outcome, Protocol):
    """The outcome with logits: [B, M, V] of the next tokens, or [B, C] of a text's classes."""

    @property
    def logits(self) -> Tensor:
        """Not normalised."""


@dataclass(frozen=True)
class ReadOn:
    """What a language model knows after it read some more tokens of one text.

    Attributes:
        logits_V: of the token after them.
        foremost: of each layer with experts, the expert with the largest weight for each token,
            [T] int64; -1 where a token went to none.
        memory: for the tokens that follow.
    """

    logits_V: Tensor
    foremost: list[Tensor]
    memory: Any


class MoEModel(nn.Module, ABC):
    """A model with experts.

    Attributes:
        recipe: it was built from.
        vocab_size: V.
        document_end: the token that begins another document, kept with the weights; None where
            attention does not depend on documents.
        compiles: whether torch.compile is of use where all batches have one shape.
    """

    recipe: Recipe
    vocab_size: int
    document_end: Tensor | None
    compiles = True

    def publish(self, run: Path, labels: Sequence[str] = ()) -> None:
        """Write what other programs read of a finished training into its run folder; nothing for
        models of ours.

        Args:
            run: the run folder.
            labels: of a classifier's classes.
        """

    @abstractmethod
    def route(self, tokens_BM: Tensor, context: StepContext) -> list[Routed]:
        """What each layer with experts is given for some text, and where it sends it.

        Args:
            tokens_BM: vocabulary ids, int64.
            context: its `real_T` says which tokens are real; None: all.
        """

    @abstractmethod
    def watching(self, real_T: Tensor | None = None) -> AbstractContextManager[list[Routed]]:
        """Record one forward pass; its list holds the layers when the context ends.

        Args:
            real_T: the positions of the real tokens; None: all.
        """

    @property
    @abstractmethod
    def expert_layers(self) -> list[tuple[str, int]]:
        """The layers with experts, in order: the name of the module, and N."""

    @property
    @abstractmethod
    def router_name(self) -> str:
        """What its router is called."""

    @property
    @abstractmethod
    def experts_per_token(self) -> int | None:
        """K; None where it is not known."""

    @abstractmethod
    def similarity_cost(self, tokens: int) -> Cost | None:
        """What similarity learning costs in training, and how often its budget allows it; None: it
        is off.

        Args:
            tokens: of one micro-batch.
        """

    @abstractmethod
    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        """Every expert of a layer on the same rows, without dropout, [N, T, D]."""

    @abstractmethod
    def router(self, layer: int) -> nn.Module:
        """The router of a layer with experts."""

    @abstractmethod
    def expert_weights(self, layer: int) -> list[Tensor]:
        """A layer's expert weights by hidden unit: for each matrix [N, H, weights of a unit]."""


class TextModel(MoEModel):
    """A model that predicts the next token."""

    @abstractmethod
    def forward(
        self,
        tokens_BM: Tensor,
        memory: Sequence[Tensor] = (),
        context: StepContext | None = None,
    ) -> Predicted:
        """Predict the token after each position; arguments as of `score`."""

    @abstractmethod
    def score(
        self,
        tokens_BM: Tensor,
        targets_BM: Tensor,
        memory: Sequence[Tensor] = (),
        context: StepContext | None = None,
    ) -> Scored:
        """The loss of the targets in nats, summed.

        Args:
            tokens_BM: vocabulary ids, int64.
            targets_BM: the token after each position, int64; -100 is ignored.
            memory: returned for the previous block; empty at the start of streams.
            context: the step information for routers.
        """

    @abstractmethod
    def initial_memory(self, batch: int) -> list[Tensor]:
        """Memory at the start of streams."""

    @abstractmethod
    def initial_cache(self, batch: int) -> Any:
        """The first `memory` for `read_on`."""

    @abstractmethod
    def read_on(self, tokens_1M: Tensor, memory: Any, context: StepContext | None) -> ReadOn:
        """Read the next tokens of one text; the cost does not depend on what was read before.

        Args:
            tokens_1M: vocabulary ids, int64.
            memory: of `initial_cache`, or of the tokens before.
            context: the step information for routers.
        """


class TextClassifier(MoEModel):
    """A model that classifies texts."""

    classifier: nn.Linear

    def remarks(self) -> list[str]:
        """What a user should know about the result of its training."""
        return []

    @abstractmethod
    def forward(
        self, tokens_BM: Tensor, length_B: Tensor, context: StepContext | None = None
    ) -> Predicted:
        """Classify texts that are padded on the right.

        Args:
            tokens_BM: vocabulary ids, int64; any valid id at padding.
            length_B: tokens of each text, at least 1, int64.
            context: with padding, its `real_T` must hold the positions of the real tokens.
        """


def language_model(recipe: Recipe, vocab_size: int) -> TextModel:
    """The language model of a recipe, with fresh weights."""
    return cast(TextModel, _class(recipe, "language_model")(recipe, vocab_size))


def classifier(recipe: Recipe, vocab_size: int, classes: int) -> TextClassifier:
    """The classifier of a recipe, with fresh weights."""
    return cast(TextClassifier, _class(recipe, "classifier")(recipe, vocab_size, classes))


def _class(recipe: Recipe, task: str) -> Any:
    return registry.resolve(getattr(registry.MODELS[recipe.model_kind], task))
