"""Sentences of the verdict that compare a model with another run."""

from __future__ import annotations

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.report import Sentence
from simsmoe_cli.collapse.subject import Text
from simsmoe_cli.run.score import Scoring


def compared(findings: Findings, against: Findings) -> list[Sentence]:
    """Sentences on the differences from another run, layer by layer."""
    here, there = findings.overall.cka_mean, against.overall.cka_mean
    ours, theirs, name = findings.text, against.text, against.subject.name
    sentences = []
    if not all(layer.finite for layer in against.layers):
        sentences.append(
            Sentence.of("bad", f"{name} has values that are not finite (NaN or infinity).")
        )
    if here is None or there is None:
        who = "its experts" if here is None else f"the experts of {name}"
        text = f"The two runs are not compared, because the similarity of {who} is undefined."
        return [*sentences, Sentence.of("warning", text)]
    if (ours.corpus, ours.split, ours.rows) != (theirs.corpus, theirs.split, theirs.rows):
        sentences.append(
            Sentence.of(
                "warning",
                f"{name} was measured on other text, which alone may cause differences.",
                rows=ours.rows,
                against_rows=theirs.rows,
            )
        )
    sentences.append(_similarity(findings, against, here, there))
    sentences += _scores(ours, theirs, name)
    return sentences


def _scores(ours: Text, theirs: Text, name: str) -> list[Sentence]:
    """How well both do, where that can be compared."""
    scoring = Scoring.of_scores(ours.unit, [ours])
    score, other = scoring.read(ours), scoring.read(theirs)
    comparable = scoring == Scoring.of_scores(theirs.unit, [theirs])
    if not comparable or score is None or other is None:
        return []
    if scoring.measure == "accuracy":
        text = (
            f"It classifies {score:.2%} of these texts correctly, {name} {other:.2%} (n = "
            f"{ours.scored:,} texts). One run each proves little."
        )
        return [Sentence.of("note", text, accuracy=score, against_accuracy=other)]
    unit = scoring.name if scoring.measure == "bits" else scoring.in_words
    text = (
        f"It predicts this text with {score:.3f} {unit}, {name} with {other:.3f}. One run each "
        "proves little: seeds of one setting were seen to differ by 0.05 BPC."
    )
    return [Sentence.of("note", text, score=score, against_score=other)]


def _similarity(findings: Findings, against: Findings, here: float, there: float) -> Sentence:
    """Which of the two has the more similar experts, by the intervals of the layers' means."""
    both = [
        (ours.cka_mean, theirs.cka_mean)
        for ours, theirs in zip(findings.layers, against.layers, strict=False)
    ]
    apart = [
        ours.low > theirs.high or theirs.low > ours.high
        for ours, theirs in both
        if ours.low is not None
        and ours.high is not None
        and theirs.low is not None
        and theirs.high is not None
    ]
    name = against.subject.name
    if not apart:
        words = f"Without intervals its experts cannot be compared with those of {name}"
    elif not any(apart):
        words = f"Its experts are about as similar as those of {name}"
    else:
        less = "less" if here < there else "more"
        words = f"Its experts are {less} similar than those of {name}"
    layers = f"; the intervals are apart in {sum(apart)} of {len(apart)} layers" if apart else ""
    return Sentence.of(
        "good" if here < there and any(apart) else "note",
        f"{words}: mean CKA {here:.2f} against {there:.2f}{layers}.",
        cka_mean=here,
        against_cka_mean=there,
        layers=len(apart),
        layers_apart=sum(apart),
    )
