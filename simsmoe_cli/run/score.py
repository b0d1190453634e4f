"""What a run is scored by: bits per character, accuracy of a classifier, or nats per token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from simsmoe_cli.monitor.state.series import Array
from simsmoe_cli.run.events import Event, number

OF_CHARACTERS = ("byte", "character")
OF_TEXTS = "text"  # what a classifier is trained on, one by one


@dataclass(frozen=True)
class Scoring:
    """How scores of a run are read from its events, and how they are named.

    Attributes:
        measure: what a score is.
        unit: of a token ("byte", "word" ...), or "text"; "" where unknown.
    """

    measure: Literal["bits", "accuracy", "nats"]
    unit: str

    @classmethod
    def of_run(cls, unit: str, saw_bpc: bool) -> Scoring:
        """That of a run with this unit; where none is known, by whether its events have bits."""
        if unit == OF_TEXTS:
            return cls("accuracy", unit)
        in_bits = unit in OF_CHARACTERS if unit else saw_bpc
        return cls("bits" if in_bits else "nats", unit)

    @property
    def name(self) -> str:
        """What the score is called: "BPC", "accuracy", or "loss" where a token is no character."""
        return {"bits": "BPC", "accuracy": "accuracy", "nats": "loss"}[self.measure]

    @property
    def in_words(self) -> str:
        """What it is measured in: bits per character or byte, nats per word ..."""
        if self.measure == "accuracy":
            return "share of texts classified right"
        if self.measure == "bits":
            return f"bits per {self.unit or 'character'}"
        return f"nats per {self.unit or 'token'}"

    def text(self, score: float) -> str:
        """A score with its name: "3.000 BPC", or "loss 5.123 nats per word, perplexity 168"."""
        if math.isnan(score):
            return f"{self.name} –"
        if self.measure == "accuracy":
            return f"accuracy {score:.2%}"
        if self.measure == "bits":
            return f"{score:.3f} BPC"
        return f"loss {score:.3f} {self.in_words}, perplexity {math.exp(min(score, 700)):,.4g}"

    def of(self, event: Event) -> float:
        """The score of a train or eval event; nan where it has none."""
        return float(self.column([event])[0])

    def column(self, events: Sequence[Event]) -> Array:
        """The scores of events, [events]."""
        if self.measure == "accuracy":
            return numbers([event.get("accuracy") for event in events])
        nats = numbers([event.get("loss_nats") for event in events])
        if self.measure == "nats":
            return nats
        bits = numbers([event.get("bpc") for event in events])
        return np.where(np.isnan(bits), nats / math.log(2), bits)

    def better(self, score: float, than: float) -> bool:
        """Whether a score is a better one; any is better than none."""
        if math.isnan(than):
            return not math.isnan(score)
        return score > than if self.measure == "accuracy" else score < than


def numbers(values: list[Any]) -> Array:
    """Numbers; nan for null and whatever is none."""
    try:
        column = np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        column = np.empty(0)
    if column.shape != (len(values),):
        column = np.array([number(value) for value in values], dtype=np.float64)
    column[~np.isfinite(column)] = np.nan
    return column
