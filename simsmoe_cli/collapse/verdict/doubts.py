"""The reasons to doubt a verdict: non-finite values, exact copies, and weak evidence.

The text is too hard for the model where its loss is

- near that of a uniform guess, ln V: from 0.9 ln V on, as untrained weights have; of a classifier,
  where its accuracy is that of a uniform guess, within two standard errors; or
- at or above that of guessing each token by how often it occurs (`unigram_loss.py`), as trained
  weights have on random text, or on a language they do not know.
"""

from __future__ import annotations

import math

from simsmoe_cli.collapse.findings import Findings, LayerFindings
from simsmoe_cli.collapse.report import Sentence
from simsmoe_cli.collapse.show.format import NAMED, count, every
from simsmoe_cli.errors import listed

NEAR_UNIFORM = 0.9  # of ln V
FEW_ROWS = 64  # with fewer, similar and unrelated experts can hardly be told apart
ONE_TOKEN = math.log(2)  # nats of a choice between two tokens; repeated text has fewer


def non_finite(findings: Findings) -> list[Sentence]:
    """A sentence on where non-finite values come from, and what they affect."""
    experts = [(layer, expert) for layer in findings.layers for expert in layer.non_finite]
    sentences = []
    if experts:
        names = listed(
            [f"expert {expert} of layer {layer.label}" for layer, expert in experts], NAMED
        )
        have = "has weights or outputs" if len(experts) == 1 else "have weights or outputs"
        sentences.append(
            Sentence.of(
                "bad",
                f"{names[:1].upper()}{names[1:]} {have} that are not finite (NaN or infinity).",
                non_finite_experts=len(experts),
                layers=[layer.number for layer, _ in experts],
                experts=[expert for _, expert in experts],
            )
        )
    scores = [layer for layer in findings.layers if layer.non_finite_scores]
    if scores:
        tokens = max(layer.non_finite_scores for layer in scores)
        sentences.append(
            Sentence.of(
                "bad",
                f"The router's scores in {_layers(scores)} are not finite for up to {tokens:,} of "
                f"{findings.text.tokens:,} tokens, so load and dead experts there are undefined.",
                layers=[layer.number for layer in scores],
                tokens=tokens,
            )
        )
    inputs = [layer for layer in findings.layers if layer.non_finite_inputs]
    if inputs:
        first = inputs[0]
        tokens = max(layer.non_finite_inputs for layer in inputs)
        causes = [layer.layer for layer, _ in experts] + [layer.layer for layer in scores]
        why = (
            ""
            if min(causes, default=first.layer) < first.layer
            else " The cause is before that layer: embedding, attention or a dense layer."
        )
        sentences.append(
            Sentence.of(
                "bad",
                f"Up to {tokens:,} of {findings.text.tokens:,} tokens reach {_layers(inputs)} with "
                "values that are not finite, so routing, load, dead experts and similarity there "
                f"are undefined.{why}",
                layers=[layer.number for layer in inputs],
                tokens=tokens,
            )
        )
    return sentences


def copied(findings: Findings) -> list[Sentence]:
    """Experts with equal weights, group by group."""
    groups = [(layer, group) for layer in findings.layers for group in layer.copies]
    groups.sort(key=lambda found: (-len(found[1].experts), found[0].layer, found[1].experts))
    sentences = []
    for layer, group in groups[:NAMED]:
        experts = group.experts
        whole = len(experts) == layer.experts and len(experts) > 2
        who = f"All {len(experts)} experts" if whole else f"Experts {every(experts)}"
        how = ", up to the order of hidden units" if group.renumbered else ""
        extra = "One of them is" if len(experts) == 2 else "All but one of them are"
        sentences.append(
            Sentence.of(
                "bad",
                f"{who} of layer {layer.label} are exact copies: their weights are equal{how}. "
                f"{extra} redundant.",
                layer=layer.number,
                experts=[*experts],
                cka=layer.cka[experts[0]][experts[1]],
                weight_matched=layer.weight_matched[experts[0]][experts[1]],
            )
        )
    rest = groups[NAMED:]
    if rest:
        sentences.append(
            Sentence.of(
                "bad",
                f"{count(len(rest), 'more group', 'more groups')} of experts are exact copies, in "
                f"{_layers(list({layer.layer: layer for layer, _ in rest}.values()))}.",
                groups=len(groups),
                wasted=wasted_copies(findings),
            )
        )
    return sentences


def wasted_copies(findings: Findings) -> int:
    """How many experts could be left out because another has the same weights."""
    return sum(len(group.experts) - 1 for layer in findings.layers for group in layer.copies)


def hard_text(findings: Findings) -> tuple[str, Sentence] | None:
    """The reason why the text says little about the experts: in a few words, and as a sentence."""
    text = findings.text
    loss, choices, frequency = text.loss_nats, text.choices, text.frequency_nats
    little = "Such text says little about the experts."
    if frequency is not None and frequency < ONE_TOKEN:
        short = "the text is hardly more than one token, repeated"
        words = (
            f"Nearly all of the {text.tokens:,} tokens read are the same ({text.distinct:,} "
            f"different ones): the text is hardly more than one token, repeated. {little}"
        )
    elif loss is None:
        short = "the loss on this text is undefined"
        words = "The loss on this text is undefined, so whether the model predicts it is not known."
    elif text.accuracy is not None:
        if not choices or text.accuracy > _by_chance(choices, text.scored):
            return None
        short = "the model classifies these texts no better than a uniform guess"
        words = (
            f"The model classifies these texts no better than a uniform guess: {text.accuracy:.1%} "
            f"of {text.scored:,} are correct, with {choices} classes. {little}"
        )
    elif choices and choices > 1 and loss >= NEAR_UNIFORM * math.log(choices):
        better = "no" if loss >= math.log(choices) else "hardly"
        short = f"the model predicts this text {better} better than a uniform guess"
        words = (
            f"The model predicts this text {better} better than a uniform guess: {loss:.2f} nats "
            f"per {text.unit}, and a guess among {choices:,} has {math.log(choices):.2f}. "
            "Untrained weights do the same, and trained ones on text unlike their training data. "
            f"{little}"
        )
    elif frequency is not None and loss >= frequency:
        short = "the model predicts this text no better than the frequencies of its tokens do"
        words = (
            f"The model predicts this text no better than the frequencies of its tokens do: "
            f"{loss:.2f} nats per {text.unit}, and guessing each by its frequency has "
            f"{frequency:.2f}. Weights after few steps do the same, and trained ones on random "
            f"text or in a language or format they do not know. {little}"
        )
    else:
        return None
    return short, Sentence.of(
        "warning", words, loss_nats=loss, choices=choices, frequency_nats=frequency
    )


def few_rows(findings: Findings) -> tuple[str, Sentence] | None:
    """Whether similarity was measured on too few tokens: in a few words, and as a sentence."""
    rows = findings.text.rows
    if rows >= FEW_ROWS:
        return None
    short = f"only {count(rows, 'token was', 'tokens were')} compared"
    text = (
        f"Only {rows:,} tokens went through every expert: too few to tell similar experts from "
        f"different ones. Use more --tokens, at least {FEW_ROWS}."
    )
    return short, Sentence.of("warning", text, rows=rows)


def undefined_experts(findings: Findings) -> list[Sentence]:
    """Experts whose similarity is undefined although all their outputs are finite."""
    silent = [
        (layer, expert)
        for layer in findings.layers
        if not layer.non_finite_inputs
        for expert in range(layer.experts)
        if layer.cka[expert][expert] is None and expert not in layer.non_finite
    ]
    if not silent:
        return []
    named = listed([f"expert {expert} of layer {layer.label}" for layer, expert in silent], NAMED)
    text = (
        f"Similarity is undefined for {named}: the output is the same for every token, "
        "or for every token but one."
    )
    return [Sentence.of("warning", text, undefined_experts=len(silent))]


def unknown(findings: Findings, similar_layer: float) -> list[str]:
    """Why too little is known to call the experts different, each reason in a few words.

    Args:
        findings: of one set of weights.
        similar_layer: mean CKA from which the experts of a layer count as similar.
    """
    layers = findings.layers
    doubts = []
    if undefined := [layer for layer in layers if layer.cka_mean.value is None]:
        doubts.append(f"{_of(len(undefined), len(layers))} layers could not be compared")
    if mostly := [layer for layer in layers if 0 < 2 * layer.cka_mean.n < layer.pair_count]:
        doubts.append(f"most pairs of {_layers(mostly)} could not be compared")
    silent = sum(layer.cka[i][i] is None for layer in layers for i in range(layer.experts))
    experts = sum(layer.experts for layer in layers)
    if silent and not undefined and not mostly:
        doubts.append(f"{_of(silent, experts)} experts could not be compared")
    means = [layer.cka_mean for layer in layers if layer.cka_mean.value is not None]
    if any(mean.high is None for mean in means):
        doubts.append("there are too few tokens for an interval")
    high = max((mean.high for mean in means if mean.high is not None), default=-1.0)
    if high >= similar_layer:
        doubts.append(f"the interval of a layer's mean CKA reaches {high:.2f}")
    return doubts


def _by_chance(choices: int, texts: int) -> float:
    """The accuracy that a uniform guess stays below, nearly always."""
    chance = 1 / choices
    return chance + 2 * math.sqrt(chance * (1 - chance) / max(1, texts))


def _of(some: int, all_of_them: int) -> str:
    return f"{some:,} of {all_of_them:,}"


def _layers(layers: list[LayerFindings]) -> str:
    """ "layer 3", "layers 3, 5 and 7"."""
    labels = [layer.label for layer in layers]
    return f"layer {labels[0]}" if len(labels) == 1 else f"layers {every(labels)}"
