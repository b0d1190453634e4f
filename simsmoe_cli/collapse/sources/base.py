"""What a report can be made of: a model that shows its routing and runs every expert on any row.

`Source` is what `measure.py` needs, and nothing else. Its `walk` sends the text through the model
and tells a `Listener` what each layer does with it, and when a layer has seen all of it: then its
experts are at hand. A model that is in memory as a whole (`WholeSource`) does so batch by batch,
then layer by layer: our run folders (`run.py`) and small models of others
(`huggingface.py`). One that is read from its files layer by layer (`layerwise.py`) sends all text
through one layer, has it measured, and goes on to the next.

Shapes: T tokens, D model width, H expert hidden width, N experts, K experts per token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from simsmoe_cli.attach.expert_calls import Routed
from simsmoe_cli.collapse.subject import History, Subject


@dataclass(frozen=True)
class LayerSpec:
    """One layer with experts: its module's name in the model, and N."""

    name: str
    experts: int


@dataclass
class Batch:
    """Some tokens after they went through the model.

    Attributes:
        ids_T: the tokens.
        layers: what each layer did with them.
        rows: whether similarity is to be measured on them.
        nats: summed cross-entropy of what was predicted.
        scored: how many predictions that is of: tokens, or texts of a classifier.
        right: texts of them that a classifier has right; None: the model predicts tokens.
        choices: what a prediction chooses from: the vocabulary's size, or the classes; None where
            that is not known.
    """

    ids_T: Tensor
    layers: list[Routed]
    rows: bool
    nats: float
    scored: int
    right: int | None = None
    choices: int | None = None


@dataclass(frozen=True)
class Reading:
    """The text, when all of it went through the model.

    Attributes:
        ids: the tokens that similarity is measured on, in order.
        read_T: all tokens that were read, in order.
        choices: as in `Batch`.
        scored, nats, right: as in `Batch`, of all batches; `scored` is 0 where no loss was asked
            for.
    """

    ids: list[int]
    read_T: Tensor
    scored: int
    nats: float
    right: int | None = None
    choices: int | None = None

    @property
    def tokens(self) -> int:
        """How many tokens were read."""
        return len(self.read_T)


class Listener(Protocol):
    """Who is told what the layers do. Layers are places among those with experts, from 0."""

    def routed(self, layer: int, routed: Routed, rows: bool) -> None:
        """A layer has seen some more tokens; similarity is to be measured on them if `rows`."""

    def seen(self, layer: int) -> None:
        """A layer has seen all tokens; until this returns, its experts cost no reading."""

    def progress(self, share: float) -> None:
        """So much of the forward pass is done, 0 to 1."""


@dataclass(frozen=True)
class Size:
    """What a model costs, as `plan.py` counts it.

    Attributes:
        width, experts, top_k: D, the largest N, and K.
        in_experts: weights in the experts of each layer.
        products_per_token: multiplications of the forward pass for a token, about.
        vocab_size: of the output layer.
        stored: bytes that are read while it runs; 0: all is in memory.
        layer: bytes of its largest decoder layer, if one at a time is in memory; else 0.
        dtype: what it computes in.
    """

    width: int
    experts: int
    top_k: int
    in_experts: list[int]
    products_per_token: float
    vocab_size: int = 0
    stored: int = 0
    layer: int = 0
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(
        cls, model: nn.Module, weights: list[list[Tensor]], top_k: int | None, vocab_size: int
    ) -> Size:
        """The size of a model in memory.

        Args:
            model: all of it.
            weights: of each layer with experts, as `Source.weights` gives them; they may be without
                memory.
            top_k: K; None: not known.
            vocab_size: of its output layer.
        """
        experts = max(len(parts[0]) for parts in weights)
        in_experts = [sum(part.numel() for part in parts) for parts in weights]
        numbers = sum(parameter.numel() for parameter in model.parameters())
        top_k = min(top_k or 2, experts)
        width = weights[0][-1].shape[2]
        others = numbers - sum(in_experts) - vocab_size * width
        active = sum(
            count * top_k / len(parts[0]) for count, parts in zip(in_experts, weights, strict=True)
        )
        return cls(
            width,
            experts,
            top_k,
            in_experts,
            max(0, others) + active,
            vocab_size=vocab_size,
            dtype=next(model.parameters()).dtype,
        )


@dataclass
class Source(ABC):
    """A model and held-out text.

    Attributes:
        subject: what it is.
        layers: those with experts, in order.
        corpus, split, notes, unit: of the text, as in `findings.Text`.
        block: tokens it sees at once.
        history: of its training.
    """

    subject: Subject
    layers: list[LayerSpec]
    corpus: str
    split: str
    unit: str
    block: int
    notes: list[str] = field(default_factory=list)
    history: History = field(default_factory=History)

    @property
    @abstractmethod
    def size(self) -> Size:
        """What it costs to run and to hold."""

    @abstractmethod
    def walk(
        self,
        tokens: int,
        rows: int,
        listener: Listener,
        layers: Collection[int],
        loss: bool = True,
    ) -> Reading:
        """Send text through the model, without gradients and in evaluation mode.

        Args:
            tokens: to read, about; fewer if the split has no more.
            rows: of them for similarity, about.
            listener: told what happens, layer by layer: `seen` comes in the model's order, and for
                each layer after all its `routed`.
            layers: places of those to tell of.
            loss: whether the text is to be scored. Without, a model may stop after the last layer
                to tell of.
        """

    @abstractmethod
    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        """Every expert of a layer on the same rows, without dropout, [N, T, D] fp32."""

    @abstractmethod
    def weights(self, layer: int) -> list[Tensor]:
        """A layer's expert weights by hidden unit, one [N, H, weights of a unit] per matrix."""

    @abstractmethod
    def release(self, layer: int) -> None:
        """What was read of a layer may go: its experts are not asked for soon."""

    @abstractmethod
    def text_of(self, ids: list[int]) -> list[str]:
        """Each token as text."""


class WholeSource(Source):
    """A model that is in memory as a whole: it reads batches, and any layer can be asked then."""

    def release(self, layer: int) -> None:
        """Nothing goes."""

    @abstractmethod
    def read(self, tokens: int, rows: int) -> Iterator[Batch]:
        """Run text through the model batch by batch; arguments as for `walk`."""

    def walk(
        self,
        tokens: int,
        rows: int,
        listener: Listener,
        layers: Collection[int],
        loss: bool = True,
    ) -> Reading:
        ids: list[int] = []
        read: list[Tensor] = []
        total, scored, nats = 0, 0, 0.0
        right: int | None = None
        choices: int | None = None
        for batch in self.read(tokens, rows):
            for place in layers:
                listener.routed(place, batch.layers[place], batch.rows)
            if batch.rows:
                ids += batch.ids_T.tolist()
            read.append(batch.ids_T)
            choices = batch.choices
            total += len(batch.ids_T)
            scored += batch.scored
            nats += batch.nats
            if batch.right is not None:
                right = (right or 0) + batch.right
            listener.progress(min(1.0, total / tokens))
        listener.progress(1.0)
        for place in layers:
            listener.seen(place)
        return Reading(ids, torch.cat(read), scored, nats, right, choices)
