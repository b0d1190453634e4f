"""The numbers behind a sentence of the verdict, with labels for people."""

from __future__ import annotations

from simsmoe_cli.collapse.report import Sentence
from simsmoe_cli.collapse.show.format import UNDEFINED, number

# Names in the JSON, where a blank instead of each _ would not be understood.
_LABELS = {
    "against_cka_mean": "mean CKA of the other run",
    "against_rows": "tokens of the other run",
    "alike": "similar pairs",
    "apart": "difference of the outputs",
    "cka": "CKA",
    "cka_low": "CKA, lower end of the interval",
    "cka_mean": "mean CKA",
    "cka_rbf": "RBF CKA",
    "cka_shared": "CKA on shared tokens",
    "cosine": "cosine of the outputs",
    "dead": "dead experts",
    "difference_high": "difference, upper end",
    "difference_low": "difference, lower end",
    "entropy_max_nats": "largest entropy, nats",
    "entropy_nats": "entropy, nats",
    "frequency_nats": "loss of guessing by frequency, nats",
    "high": "upper end of the interval",
    "highest_high": "its upper end",
    "highest_layer": "layer with the highest mean",
    "highest_low": "its lower end",
    "highest_mean": "highest mean of a layer",
    "layers_apart": "layers with intervals apart",
    "load_cv": "load CV",
    "loss_nats": "loss, nats",
    "low": "lower end of the interval",
    "lowest_mean": "lowest mean of a layer",
    "most_alike_cka": "CKA of the most similar pair",
    "null_quantile_95": "95% of unrelated pairs stay below",
    "random_nats": "random pairs, nats",
    "rows": "tokens compared",
    "similar_nats": "similar pairs, nats",
    "spearman": "Spearman correlation",
    "wasted": "redundant experts",
    "weight_matched": "matched weights",
}

SMALL = 0.01  # a change of the loss in nats may be less


def facts(sentence: Sentence) -> list[tuple[str, str]]:
    """Label and value of each number that a sentence rests on."""
    return [
        (_LABELS.get(name, name.replace("_", " ")), _shown(value))
        for name, value in sentence.evidence.items()
    ]


def _shown(value: object) -> str:
    if isinstance(value, float):
        return number(value, 5 if 0 < abs(value) < SMALL else 3)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int):
        return f"{value:,}"
    return UNDEFINED if value is None else str(value)
