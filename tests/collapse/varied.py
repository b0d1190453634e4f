"""Findings with chosen means, and the sentence of their verdict that has some words."""

from __future__ import annotations

from typing import Any

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.report import Sentence
from simsmoe_cli.collapse.verdict.judge import judge
from tests.collapse.planted import EXPERTS

LAYERS = 4


def varied(base: Findings, *means: float, spread: float = 0.0, **changes: Any) -> Findings:
    """The findings with every pair of each layer at a mean, intervals of 0.02 around it."""
    layers = []
    for layer, mean in zip(base.layers, means, strict=True):
        cka = [
            [1.0 if i == j else mean + spread * (i + j == 1) for j in range(EXPERTS)]
            for i in range(EXPERTS)
        ]
        low, high = ([[value + shift for value in row] for row in cka] for shift in (-0.01, 0.01))
        estimate = layer.cka_mean.model_copy(
            update={"value": mean, "low": mean - 0.01, "high": mean + 0.01}
        )
        fields = {"cka": cka, "cka_low": low, "cka_high": high, "cka_mean": estimate}
        layers.append(layer.model_copy(update=fields | changes))
    overall = base.overall.model_copy(update={"cka_mean": sum(means) / len(means)})
    return base.model_copy(update={"layers": layers, "overall": overall})


def sentence(findings: Findings, words: str, against: Findings | None = None) -> Sentence:
    (found,) = [s for s in judge(findings, against).sentences if words in s.text]
    return found
