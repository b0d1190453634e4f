"""Sentences on another run that a run is compared with."""

from __future__ import annotations

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.report import Sentence


def compared(findings: Findings, against: Findings) -> list[Sentence]:
    """Which of two runs has the more similar experts, by the intervals of the layers' means."""
    here, there = findings.overall.cka_mean, against.overall.cka_mean
    ours, theirs, name = findings.text, against.text, against.subject.name
    sentences = []
    if not all(layer.finite for layer in against.layers):
        text = f"{name} has values that are not finite (NaN or infinity)."
        sentences.append(Sentence.of("bad", text))
    if (ours.unit, ours.choices) != (theirs.unit, theirs.choices):
        text = f"{name} predicts other tokens, so scores per token cannot be compared."
        evidence = {"choices": ours.choices, "against_choices": theirs.choices}
        sentences.append(Sentence.of("warning", text, **evidence))
    if (ours.corpus, ours.split, ours.rows) != (theirs.corpus, theirs.split, theirs.rows):
        text = f"{name} was measured on other text, which alone may cause differences."
        evidence = {"rows": ours.rows, "against_rows": theirs.rows}
        sentences.append(Sentence.of("warning", text, **evidence))
    if here is None or there is None:
        who = "its experts" if here is None else f"the experts of {name}"
        text = f"The two runs are not compared, because the similarity of {who} is undefined."
        return [*sentences, Sentence.of("warning", text)]
    both = [
        (layer, other)
        for layer in findings.layers
        if (other := against.partner_of(layer, findings)) is not None
    ]
    apart = [
        mean.low > other.high or other.low > mean.high
        for mean, other in ((one.cka_mean, two.cka_mean) for one, two in both)
        if mean.low is not None and mean.high is not None
        if other.low is not None and other.high is not None
    ]
    if not apart:
        words = f"Without intervals its experts cannot be compared with those of {name}"
    elif not any(apart):
        words = f"Its experts are about as similar as those of {name}"
    else:
        words = f"Its experts are {'less' if here < there else 'more'} similar than those of {name}"
    tone = "good" if here < there and any(apart) else "note"
    text = f"{words}: mean CKA {here:.2f} against {there:.2f}"
    if apart:
        text += f"; the intervals are apart in {sum(apart)} of {len(apart)} layers"
    evidence = {"layers": len(apart), "layers_apart": sum(apart)}
    means = {"cka_mean": here, "against_cka_mean": there}
    return [*sentences, Sentence.of(tone, f"{text}.", **means, **evidence)]
