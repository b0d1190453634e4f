"""Sentences on the load and the routing of experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simsmoe_cli.collapse.findings import Findings, LayerFindings
from simsmoe_cli.collapse.report import Sentence
from simsmoe_cli.collapse.show.format import NAMED, count
from simsmoe_cli.errors import listed

UNEVEN_LOAD = 1.0  # coefficient of variation
UNDECIDED, NARROW = 0.95, 0.5  # of ln N: entropy of a token's routing, and of the mean routing


def dead_experts(findings: Findings) -> list[Sentence]:
    """Experts that receive hardly any tokens."""
    dead = [(layer, expert) for layer in findings.layers for expert in layer.dead or ()]
    if not dead:
        return []
    text = (
        f"{count(len(dead), 'expert is', 'experts are')} dead, with less than "
        f"{findings.settings.dead_below:.0%} of a fair load: {_experts(dead)}."
    )
    experts = [expert for _, expert in dead]
    numbers = [layer.number for layer, _ in dead]
    return [Sentence.of("bad", text, dead=len(dead), layers=numbers, experts=experts)]


def routing(findings: Findings) -> list[Sentence]:
    """Unusual load and routing."""
    layers = findings.layers
    sentences = []
    uneven = [layer for layer in layers if (layer.load_cv or 0) >= UNEVEN_LOAD]
    if uneven:
        worst = max(uneven, key=lambda layer: layer.load_cv or 0)
        text = (
            f"The load is uneven in {count(len(uneven), 'layer', 'layers')}: most in layer "
            f"{worst.label}, where its standard deviation is {worst.load_cv:.1f} times its mean."
        )
        evidence = {"layers": len(uneven), "layer": worst.number, "load_cv": worst.load_cv}
        sentences.append(Sentence.of("warning", text, **evidence))
    sentences += _entropy(
        layers,
        lambda layer: layer.entropy_nats,
        lambda part: part > UNDECIDED,
        "The router hardly decides: for a token nearly all experts are equally likely",
    )
    sentences += _entropy(
        layers,
        lambda layer: layer.entropy_of_mean_nats,
        lambda part: part < NARROW,
        "The router uses few experts: the same ones are likely for all tokens",
    )
    if unknown := sum(layer.entropy_nats is None for layer in layers):
        text = (
            f"The router's entropy is unknown in {count(unknown, 'layer', 'layers')}: its output "
            "there is not a distribution over the experts, or not finite."
        )
        sentences.append(Sentence.of("note", text, layers=unknown))
    return sentences


def _entropy(
    layers: Sequence[LayerFindings],
    of: Callable[[LayerFindings], float | None],
    odd: Callable[[float], bool],
    words: str,
) -> list[Sentence]:
    """A sentence if the share of ln N that an entropy has is odd in any layer."""
    found = [
        (value, layer)
        for layer in layers
        if (value := of(layer)) is not None and layer.experts > 1
        if odd(value / layer.entropy_max_nats)
    ]
    if not found:
        return []
    value, layer = found[0]
    where = listed([f"layer {each.label}" for _, each in found], NAMED)
    most = layer.entropy_max_nats
    text = (
        f"{words} ({where}; entropy {value:.2f} of at most {most:.2f} nats in layer {layer.label})."
    )
    return [Sentence.of("note", text, layers=len(found), entropy_nats=value, entropy_max_nats=most)]


def _experts(experts: Sequence[tuple[LayerFindings, int]]) -> str:
    return listed([f"expert {expert} of layer {layer.label}" for layer, expert in experts], NAMED)
