"""The interface between a report and a model: its routing on a text, and every expert on any row.

`Source.walk` sends the text through the model and tells a `Listener` the routing of each layer, and
when a layer has seen the whole text. At that moment its experts can be run without reading weights
again. A model that is completely in memory (`WholeSource`) reads the text batch by batch, and its
layers are measured afterwards; this is used for runs of simsmoe (`run.py`) and small Hugging Face
models (`huggingface/`). A model that is read from its files (`huggingface/layer_by_layer.py`) sends
the whole text through one layer, measures that layer, and continues with the next.

Shapes: T tokens, D model width, H expert hidden width, N experts, K experts per token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from simsmoe_cli.collapse.sources.replay import CannotReplay, Replay
from simsmoe_cli.collapse.subject import History, Subject
from simsmoe_cli.similarity.routed import Routed


@dataclass(frozen=True)
class LayerSpec:
    """One layer with experts: the name of its module in the model, and N."""

    name: str
    experts: int


@dataclass(frozen=True)
class Judged:
    """The experts of a layer that are dead, judged in training.

    Attributes:
        dead: which.
        slots: routed slots of training batches that this rests on.
    """

    dead: list[int]
    slots: int


@dataclass
class Batch:
    """Some tokens after they went through the model.

    Attributes:
        ids_T: the tokens.
        layers: what each layer with experts did with them.
        rows: whether similarity is measured on them.
        nats: summed cross-entropy of the predictions.
        scored: how many predictions: of tokens, or of texts by a classifier.
        right: how many predictions of a classifier are correct; None: the model predicts tokens.
        choices: how many tokens or classes a prediction chooses from; None where not known.
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
    """The results for the text after all of it went through the model.

    Attributes:
        ids: the tokens that similarity is measured on, in order.
        read_T: all tokens that were read, in order.
        choices: as in `Batch`.
        scored, nats, right: as in `Batch`, summed over all batches; `scored` is 0 where no loss was
            asked for.
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
    """Receives the routing of the layers, with their indices among the layers with experts."""

    def routed(self, layer: int, routed: Routed, rows: bool) -> None:
        """A layer has seen some more tokens; similarity is measured on them if `rows`."""

    def seen(self, layer: int) -> None:
        """A layer has seen all tokens; until this returns, its weights are in memory."""

    def progress(self, share: float) -> None:
        """This share of the forward pass is done, 0 to 1."""


@dataclass(frozen=True)
class Size:
    """The sizes of a model from which `estimate.py` computes time and memory.

    Attributes:
        width, experts, top_k: D, the largest N, and K.
        in_experts: how many weights the experts of each layer have.
        products_per_token: multiplications of the forward pass per token, about.
        vocab_size: of the output layer.
        stored: bytes of weights that are read while it runs; 0: all are in memory.
        layer: bytes of its largest decoder layer, if one at a time is in memory; else 0.
        dtype: the dtype it computes in.
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
            weights: of each layer with experts, as `Source.weights` gives them; on any device,
                meta too.
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
        subject: what the model is.
        layers: those with experts, in order.
        corpus, split, notes, unit: of the text, as in `findings.Text`.
        block: tokens of one window of the text.
        history: of the training.
        judged: dead experts by training batches, by layer; empty where that is not known.
        tokens_per_unit: tokens, those that end documents too, per token of text.
    """

    subject: Subject
    layers: list[LayerSpec]
    corpus: str
    split: str
    unit: str
    block: int
    notes: list[str] = field(default_factory=list)
    history: History = field(default_factory=History)
    judged: dict[int, Judged] = field(default_factory=dict)
    tokens_per_unit: float = 1.0

    @property
    @abstractmethod
    def size(self) -> Size:
        """The sizes that determine its time and memory."""

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
            tokens: about how many to read; fewer if the split has fewer.
            rows: about how many of them similarity is measured on.
            listener: `seen` is called in the model's order, and for each layer after all its
                `routed`.
            layers: the numbers of the layers that the listener is told about.
            loss: whether the text is scored. If not, a model may stop after the last of `layers`.
        """

    @abstractmethod
    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        """Every expert of a layer on the same rows, without dropout, [N, T, D] fp32."""

    @abstractmethod
    def weights(self, layer: int) -> list[Tensor]:
        """A layer's expert weights by hidden unit: for each matrix [N, H, weights of a unit]."""

    @abstractmethod
    def release(self, layer: int) -> None:
        """Free the memory of a layer's weights, which are not needed soon."""

    def router_rows(self, layer: int) -> Tensor | None:
        """The router's matrix with a row for each expert, [N, weights]; None: it has none."""
        return None

    @property
    def cannot_replay(self) -> str:
        """Why `replay` is not possible, as far as that is known before; empty if it may be."""
        return ""

    def replay(self, tokens: int) -> Replay:
        """About so many tokens of the held-out text, to be read again and again.

        Raises:
            CannotReplay: this model cannot be run with one layer changed.
        """
        raise CannotReplay(self.cannot_replay or "it cannot be run with one layer changed")

    def domains(self) -> Sequence[tuple[str, Source]]:
        """Parts of the text by name, each as a source of its own; empty if it has no parts."""
        return []

    @abstractmethod
    def text_of(self, ids: list[int]) -> list[str]:
        """Each token as text."""


def rows_of_experts(router: nn.Module, experts: int) -> Tensor | None:
    """The first matrix of a router that has a row for each of N experts."""
    matrices = (part for part in router.parameters() if part.ndim == 2)
    return next((part.detach() for part in matrices if len(part) == experts), None)


class WholeSource(Source):
    """A model that is completely in memory: it reads all batches, then its layers are measured."""

    def release(self, layer: int) -> None:
        """Does nothing: all weights stay in memory."""

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
            for number in layers:
                listener.routed(number, batch.layers[number], batch.rows)
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
        for number in layers:
            listener.seen(number)
        return Reading(ids, torch.cat(read), scored, nats, right, choices)
