"""Reads the same held-out windows again and again, each time with one layer of experts changed.

`Replay.record` keeps what enters a layer and how its router sends the tokens; `Replay.run` gives
the scores of all windows if that layer sends them otherwise. What lies below the layer is computed
once, and each run is one pass of the layer and what is above it. Weights of two experts can be
merged for a while (`Replay.merged`).

Shapes: T tokens of a batch, W windows, D model width, H hidden units, N experts, K experts per
token.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.data.streams import IGNORED
from simsmoe_cli.similarity.routed import Routed


class CannotReplay(Exception):
    """The reason, in words, why nothing can be left out or merged."""


@dataclass(frozen=True)
class Slots:
    """Where a layer sends the tokens of a batch.

    Attributes:
        index_TK: experts, int64; N for an empty slot.
        weight_TK: what their outputs are scaled with.
    """

    index_TK: Tensor
    weight_TK: Tensor


@dataclass(frozen=True)
class WindowScores:
    """The scores of all windows, on the CPU; a window is a text for a classifier.

    Attributes:
        nats_W: summed cross-entropy of the predictions, fp64.
        right_W: correct predictions of a classifier; None: the model predicts tokens.
    """

    nats_W: Tensor
    right_W: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[WindowScores]) -> WindowScores:
        """The scores of several batches, in order."""
        right = [part.right_W for part in parts if part.right_W is not None]
        return cls(torch.cat([part.nats_W for part in parts]), torch.cat(right) if right else None)


@dataclass(frozen=True)
class StackedPart:
    """A parameter of all experts of a layer, or a part of one; changing it changes the model.

    Attributes:
        of_expert: [N, ...], a view of the parameter.
        units: the dimension, of one expert's tensor, of its hidden units; None: it has none.
    """

    of_expert: Tensor
    units: int | None


class Replay(ABC):
    """A model and its windows.

    Attributes:
        tokens: of all windows.
        scored_W: predictions of each window, int64.
    """

    tokens: int
    scored_W: Tensor

    @abstractmethod
    def record(self, layer: int) -> list[Routed]:
        """Keep what enters a layer; returns how it sends each batch. Layers come in order."""

    @abstractmethod
    def run(self, slots: Sequence[Slots]) -> WindowScores:
        """The scores if the recorded layer sends its tokens like this, batch by batch."""

    @abstractmethod
    def parts(self) -> list[StackedPart] | None:
        """All parameters of the experts of the recorded layer; None: it is not known which belong
        to which hidden unit."""

    @abstractmethod
    def units(self) -> list[Tensor]:
        """The weights of the recorded layer's experts by hidden unit, as of `Source.weights`."""

    @contextlib.contextmanager
    def merged(self, keep: int, give: int, order_H: Tensor, share: float) -> Iterator[None]:
        """Give an expert of the recorded layer the mean of two experts' weights, for a while.

        Args:
            keep: the expert that gets them.
            give: the other one.
            order_H: for each hidden unit of `keep`, the unit of `give` that it is averaged with.
            share: weight of `keep` in the mean, 0 to 1.
        """
        parts = self.parts()
        assert parts is not None
        before = [part.of_expert[keep].clone() for part in parts]
        try:
            with torch.no_grad():
                for part, own in zip(parts, before, strict=True):
                    other = part.of_expert[give]
                    if part.units is not None:
                        other = other.index_select(part.units, order_H.to(other.device))
                    part.of_expert[keep] = share * own + (1 - share) * other
            yield
        finally:
            with torch.no_grad():
                for part, own in zip(parts, before, strict=True):
                    part.of_expert[keep] = own


def nats_of_windows(logits_BMV: Tensor, targets_BM: Tensor) -> Tensor:
    """Summed cross-entropy of each window's targets that are not ignored, [B] fp64 on the CPU."""
    nats_T = F.cross_entropy(
        logits_BMV.flatten(0, 1).float(),
        targets_BM.flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    return nats_T.view(targets_BM.shape).double().sum(1).cpu()
