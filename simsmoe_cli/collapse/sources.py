"""What a report can be made of: a model that shows its routing and runs every expert on any row.

`Source` is what `measure.py` needs, and nothing else; `run_sources.py` has our run folders, and
`huggingface.py` the models of others.

Shapes: T tokens, D model width, H expert hidden width, N experts, K experts per token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from simsmoe_cli.collapse.findings import History, Subject


@dataclass(frozen=True)
class LayerSpec:
    """One layer with experts: its module's name in the model, and N."""

    name: str
    experts: int


@dataclass
class Routed:
    """What one layer did with some tokens.

    Attributes:
        input_TD: what its experts are given.
        index_TK: chosen experts; N for an empty slot.
        logits_TN: scores whose softmax is the router's distribution over experts; None: what it
            gives is no distribution, or not known to be one.
    """

    input_TD: Tensor
    index_TK: Tensor
    logits_TN: Tensor | None


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

    @abstractmethod
    def read(self, tokens: int, rows: int) -> Iterator[Batch]:
        """Run text through the model, without gradients and in evaluation mode.

        Args:
            tokens: to read, about; fewer if the split has no more.
            rows: of them for similarity, about.
        """

    @abstractmethod
    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        """Every expert of a layer on the same rows, without dropout, [N, T, D] fp32."""

    @abstractmethod
    def weights(self, layer: int) -> list[Tensor]:
        """A layer's expert weights by hidden unit, one [N, H, weights of a unit] per matrix."""

    @abstractmethod
    def text_of(self, ids: list[int]) -> list[str]:
        """Each token as text."""
