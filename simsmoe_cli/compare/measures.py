"""The numbers by which runs are compared, and the curves over the steps of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A number by which runs are compared.

    Attributes:
        name: its key in JSON.
        label: for people.
        form: format specification.
        best: the function that gives the best value, `min` or `max`.
    """

    name: str
    label: str
    form: str
    best: Callable[[list[float]], float]

    @property
    def score(self) -> bool:
        """Whether it says how well a model does, and not what its experts are like."""
        return self.name.startswith(("test_", "valid_", "text_", "train_"))

    @property
    def split(self) -> str | None:
        """The split whose score it is; None for others."""
        split = self.name.partition("_")[0]
        return split if split in ("test", "valid") else None


MEASURES = (
    Measure("test_bpc", "test BPC", ".4f", min),
    Measure("test_perplexity", "test perplexity", ",.2f", min),
    Measure("test_accuracy", "test accuracy", ".4f", max),
    Measure("valid_bpc", "best validation BPC", ".4f", min),
    Measure("valid_perplexity", "best validation perplexity", ",.2f", min),
    Measure("valid_accuracy", "best validation accuracy", ".4f", max),
    Measure("text_perplexity", "perplexity of the report's text", ",.2f", min),
    Measure("train_loss", "training loss in nats, last tenth", ".4f", min),
    Measure("cka", "mean CKA, last probe", ".3f", min),
    Measure("cka_worst_layer", "mean CKA, worst layer", ".3f", min),
    Measure("load_cv", "load CV, mean of layers", ".3f", min),
    Measure("dead_experts", "dead experts", ".0f", min),
    Measure("tokens_per_s", "tokens/s, median", ",.0f", max),
)

CURVES = {
    "train_bpc": "training BPC",
    "valid_bpc": "validation BPC",
    "train_accuracy": "training accuracy",
    "train_loss": "training loss, nats per token",
    "valid_accuracy": "validation accuracy",
    "cka": "mean debiased CKA of all pairs",
    "load_cv": "load CV",
}
