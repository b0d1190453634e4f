"""The score of a run: bits per character (BPC), accuracy, or nats per token.

It is BPC if a token is a character or a byte, the accuracy if texts are classified, and otherwise
the loss in nats, which is also shown as a perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from simsmoe_cli.run.events import Eval, Number, Train

OF_CHARACTERS = ("byte", "character")
OF_TEXTS = "text"  # what a classifier is trained on, one by one
HIGHEST_NATS = 700.0  # exp of more overflows


class Scores(Protocol):
    """Scores as a report holds them: of a text, or of a step of training."""

    @property
    def accuracy(self) -> Number: ...

    @property
    def bpc(self) -> Number: ...

    @property
    def loss_nats(self) -> Number: ...


def bits(nats: float, unit: str) -> float | None:
    """A mean loss in bits, where a token is a byte or a character; None elsewhere."""
    return nats / math.log(2) if unit in OF_CHARACTERS else None


def perplexity(nats: float) -> float:
    """exp of a mean loss, below overflow."""
    return math.exp(min(nats, HIGHEST_NATS))


def perplexity_text(value: float) -> str:
    """A perplexity in words."""
    return f"perplexity {value:,.2f}" if value < 1e6 else f"perplexity {value:.2e}"


def score_text(scores: Mapping[str, Any], digits: int = 3) -> str:
    """The main score in words: "accuracy 62.50%", "3.000 BPC", "perplexity 168.02" ...

    Args:
        scores: accuracy, bpc, perplexity and loss_nats, as far as they are known; the first of them
            counts.
        digits: decimals.
    """
    if (accuracy := scores.get("accuracy")) is not None:
        return f"accuracy {accuracy:.{digits - 1}%}"
    if (bpc := scores.get("bpc")) is not None:
        return f"{bpc:.{digits}f} BPC"
    if (known := scores.get("perplexity")) is not None:
        return perplexity_text(known)
    return f"{scores['loss_nats']:.{digits}f} nats"


@dataclass(frozen=True)
class Scoring:
    """The reading of a run's scores from its events, and their names.

    Attributes:
        measure: the kind of score.
        unit: of a token ("byte", "word" ...), or "text"; "" where unknown.
    """

    measure: Literal["bits", "accuracy", "nats"]
    unit: str

    @classmethod
    def of_run(cls, unit: str, saw_bpc: bool) -> Scoring:
        """The scoring of a run with this unit; if the unit is unknown, bits in its events
        decide."""
        if unit == OF_TEXTS:
            return cls("accuracy", unit)
        in_bits = unit in OF_CHARACTERS if unit else saw_bpc
        return cls("bits" if in_bits else "nats", unit)

    @classmethod
    def of_scores(cls, unit: str, scores: Iterable[Scores]) -> Scoring:
        """The scoring of known scores of tokens of this unit: accuracy if any has one, else bits if
        any has them, else nats."""
        known = list(scores)
        if any(one.accuracy is not None for one in known):
            return cls("accuracy", OF_TEXTS)
        return cls("nats" if all(one.bpc is None for one in known) else "bits", unit)

    def read(self, scores: Scores) -> Number:
        """The score among known scores; None where it is unknown."""
        values = {"accuracy": scores.accuracy, "bits": scores.bpc, "nats": scores.loss_nats}
        return values[self.measure]

    @property
    def name(self) -> str:
        """The name of the score: "BPC", "accuracy" or "loss"."""
        return {"bits": "BPC", "accuracy": "accuracy", "nats": "loss"}[self.measure]

    @property
    def in_words(self) -> str:
        """The unit of the score in words: bits per character or byte, nats per word ..."""
        if self.measure == "accuracy":
            return "share of texts classified right"
        if self.measure == "bits":
            return f"bits per {self.unit or 'character'}"
        return f"nats per {self.unit or 'token'}"

    @property
    def axis_label(self) -> str:
        """The label of an axis of scores."""
        return {
            "accuracy": self.name,
            "bits": self.in_words,
            "nats": f"{self.name}, {self.in_words}",
        }[self.measure]

    def text(self, score: float) -> str:
        """A score with its name: "3.000 BPC", or "loss 5.123 nats per word, perplexity 168"."""
        if math.isnan(score):
            return f"{self.name} –"
        if self.measure == "nats":
            return f"loss {score:.3f} {self.in_words}, perplexity {perplexity(score):,.4g}"
        return score_text({"accuracy" if self.measure == "accuracy" else "bpc": score})

    def of(self, event: Train | Eval) -> float:
        """The score of an event; nan where it has none."""
        if self.measure == "accuracy":
            return _defined(event.get("accuracy"))
        nats = _defined(event.get("loss_nats"))
        if self.measure == "nats":
            return nats
        bpc = event.get("bpc")
        return nats / math.log(2) if bpc is None else bpc

    def better(self, score: float, than: float) -> bool:
        """Whether a score is better than another; any score is better than nan."""
        if math.isnan(than):
            return not math.isnan(score)
        return score > than if self.measure == "accuracy" else score < than


def _defined(value: Number) -> float:
    return math.nan if value is None else value
