"""The report in words: is it healthy, which experts are alike, and what says so.

Thresholds, all on debiased linear CKA, where unrelated experts are at 0 and copies at 1:

- A layer is *alike* from a mean over its pairs of 0.25, *collapsed* from 0.5: experts of a plain
  SMoE were measured at 0.6, with calibrated similarity learning at 0.34 (METHODS section 4).
- A pair is alike from 0.5, and *one and the same* from 0.95, if the lower end of its interval is
  above the null.
- A layer is collapsed as well if half of its pairs are exact copies.
- The model is *collapsed* if half of its layers are; *partly alike* if a layer is alike, one pair
  in twenty is, a pair is the same or a copy, or an expert is dead; else *healthy*.
- It is *undefined* if a value is not finite or no pair is defined; and where it would be healthy,
  if too little is known to say so: the loss says that the text is beyond the model, too few tokens,
  experts that could not be compared, or intervals that reach what counts as alike (`doubts.py`).

Untrained experts are alike as well (0.8 to 0.9 was measured: all of them see the same input), so a
verdict on a run's first steps says little. Every sentence carries the numbers it rests on; a layer
is called what the model calls it, in sentences and in their evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

from simsmoe_cli.collapse.findings import Findings, LayerFindings, Sentence, Verdict
from simsmoe_cli.collapse.show.format import interval, number
from simsmoe_cli.collapse.verdict_doubts import (
    copied,
    few_rows,
    hard_text,
    non_finite,
    unknown,
    wasted_copies,
)
from simsmoe_cli.collapse.verdict_sentences import (
    NAMED,
    compared,
    count,
    named,
    on_shared_tokens,
    routing,
    sharing,
)

ALIKE_LAYER, COLLAPSED_LAYER = 0.25, 0.5
ALIKE_PAIR, SAME_PAIR = 0.5, 0.95
MANY_PAIRS = 0.05
SAME_WEIGHTS = 0.99  # matched units: more than this is a copy
MOVED = 0.4  # RBF above linear CKA by this much: single rows may hide a likeness


@dataclass(frozen=True)
class _Pair:
    layer: LayerFindings
    i: int
    j: int
    cka: float

    @property
    def name(self) -> str:
        return f"{self.i} and {self.j} of layer {self.layer.label}"

    @property
    def order(self) -> tuple[float, int, int, int]:
        """The most alike first, by the whole number and not as it is shown; then by place."""
        return -self.cka, self.layer.layer, self.i, self.j

    @property
    def sure(self) -> bool:
        """Whether its interval lies above the null; without an interval, whether it does."""
        low, null = self.layer.cka_low[self.i][self.j], self.layer.cka_null.quantile_95
        return null is None or (self.cka if low is None else low) > null

    @property
    def copied(self) -> bool:
        return any({self.i, self.j} <= set(group.experts) for group in self.layer.copies)


@dataclass(frozen=True)
class _Pairs:
    """The pairs whose CKA is defined, the most alike first.

    Attributes:
        all: of them.
        alike: from ALIKE_PAIR, sure, and no exact copies, of which more is known.
        same: those of them from SAME_PAIR.
        unsure: from ALIKE_PAIR, but with an interval that reaches the null.
    """

    all: list[_Pair]
    alike: list[_Pair]
    same: list[_Pair]
    unsure: list[_Pair]

    @classmethod
    def of(cls, findings: Findings) -> _Pairs:
        pairs = [
            _Pair(layer, i, j, value)
            for layer in findings.layers
            for i, j in layer.pairs()
            if (value := layer.cka[i][j]) is not None
        ]
        pairs.sort(key=lambda pair: pair.order)
        high = [pair for pair in pairs if pair.cka >= ALIKE_PAIR and not pair.copied]
        alike = [pair for pair in high if pair.sure]
        return cls(
            pairs,
            alike,
            [pair for pair in alike if pair.cka >= SAME_PAIR],
            [pair for pair in high if not pair.sure],
        )


def judge(findings: Findings, against: Findings | None = None) -> Verdict:
    """What the numbers say.

    Args:
        findings: the run.
        against: another to compare it with.
    """
    pairs = _Pairs.of(findings)
    broken = non_finite(findings)
    few, hard = few_rows(findings), hard_text(findings)
    doubts = [doubt for doubt in (few, hard) if doubt is not None]
    dead = [(layer, expert) for layer in findings.layers for expert in layer.dead or ()]
    level, headline = _level(findings, pairs, len(dead))
    sentences = [
        *broken,
        *copied(findings),
        *(sentence for _, sentence in doubts),
        *_overall(findings),
        *on_shared_tokens(findings, against),
        *_same(pairs.same),
        *_alike(pairs),
        *_dead(findings, dead),
        *_undefined(findings),
        *_hidden(pairs.all),
        *routing(findings),
        *sharing(findings),
        *(compared(findings, against) if against is not None else []),
        *(Sentence(text=f"{note.rstrip('.')}.", tone="note") for note in findings.text.notes),
    ]
    if doubts or level == "undefined":
        sentences = [
            sentence.model_copy(update={"tone": "note"}) if sentence.tone == "good" else sentence
            for sentence in sentences
        ]
    return Verdict.model_validate(
        {"level": level, "headline": f"{headline}.", "sentences": sentences}
    )


def _level(findings: Findings, pairs: _Pairs, dead: int) -> tuple[str, str]:
    """The level, and the headline that says why.

    Args:
        findings: the run.
        pairs: of its experts.
        dead: experts.
    """
    layers, copies = findings.layers, wasted_copies(findings)
    broken, few, hard = non_finite(findings), few_rows(findings), hard_text(findings)
    reservations = [doubt[0] for doubt in (few, hard) if doubt is not None]
    collapsed = sum(_collapsed(layer) for layer in layers)
    close = sum(_collapsed(layer) or (layer.cka_mean.value or 0) >= ALIKE_LAYER for layer in layers)
    but = "; but " + ", and ".join(reservations) if reservations else ""
    if broken:
        first = broken[0].text.removesuffix(".")
        return "undefined", f"Not finite: {first[:1].lower()}{first[1:]}"
    if 2 * collapsed >= len(layers) and (copies or not few):
        what = f"in {collapsed} of {len(layers)} layers experts are alike"
        also = f", {_copies(copies)}" if copies else ""
        return "collapsed", f"Collapsed: {what}{also}{but}"
    if not pairs.all and not copies:
        return "undefined", "Undefined: no two experts could be compared"
    if few and not copies:
        return "undefined", "Undecided: " + "; ".join(reservations)
    if close or pairs.same or copies or dead or len(pairs.alike) > MANY_PAIRS * len(pairs.all):
        reasons = _reasons(close, len(layers), pairs, copies, dead)
        return "partly alike", f"Partly alike: {reasons}{but}"
    doubts = [*reservations, *unknown(findings, ALIKE_LAYER)]
    if len(pairs.unsure) > MANY_PAIRS * len(pairs.all):
        doubts.append(f"{count(len(pairs.unsure), 'pair', 'pairs')} may be alike or not")
    if doubts:
        return "undefined", "Undecided: " + "; ".join(doubts)
    return "healthy", "Healthy: the experts are different and all of them work"


def _collapsed(layer: LayerFindings) -> bool:
    mean = layer.cka_mean.value
    copied = sum(len(group.experts) * (len(group.experts) - 1) // 2 for group in layer.copies)
    pairs = layer.experts * (layer.experts - 1) // 2
    return (mean is not None and mean >= COLLAPSED_LAYER) or (copied > 0 and 2 * copied >= pairs)


def _copies(copies: int) -> str:
    return count(copies, "expert is an exact copy of another", "experts are exact copies of others")


def _reasons(close: int, layers: int, pairs: _Pairs, copies: int, dead: int) -> str:
    reasons = []
    if copies:
        reasons.append(_copies(copies))
    if close:
        reasons.append(f"experts resemble each other in {close} of {layers} layers")
    if pairs.same:
        reasons.append(f"{count(len(pairs.same), 'pair is', 'pairs are')} one and the same")
    elif pairs.alike and not close:
        reasons.append(f"{count(len(pairs.alike), 'pair is', 'pairs are')} alike")
    if dead:
        reasons.append(f"{count(dead, 'expert is', 'experts are')} dead")
    return ", ".join(reasons)


def _overall(findings: Findings) -> list[Sentence]:
    mean = findings.overall.cka_mean
    means = [layer.cka_mean.value for layer in findings.layers]
    defined = [value for value in means if value is not None]
    if mean is None or not defined:
        return []
    nulls = [n for layer in findings.layers if (n := layer.cka_null.quantile_95) is not None]
    null = max(nulls, default=None)
    worst = max(
        (layer for layer in findings.layers if layer.cka_mean.value is not None),
        key=lambda layer: layer.cka_mean.value or 0.0,
    )
    found = worst.cka_mean
    between = (
        f" ({interval(found, findings.settings.level, 2)})"
        if found.low is not None and found.high is not None
        else ""
    )
    chance = "" if null is None else f", and experts with nothing in common stay below {null:.3f}"
    text = (
        f"On {findings.text.rows:,} tokens that every expert of a layer was given, two experts are "
        f"{number(mean, 2)} alike on average (debiased CKA; copies are 1{chance}). "
    )
    if len(defined) == 1:
        text += f"That is of layer {worst.label} alone{between}."
    else:
        text += (
            f"Layer {worst.label} is the highest with {number(found.value, 2)}{between}, the "
            f"lowest has {number(min(defined), 2)}."
        )
    tone = "bad" if mean >= COLLAPSED_LAYER else "warning" if mean >= ALIKE_LAYER else "good"
    evidence = {
        "cka_mean": mean,
        "rows": findings.text.rows,
        "null_quantile_95": null,
        "highest_layer": worst.number,
        "highest_mean": found.value,
        "highest_low": found.low,
        "highest_high": found.high,
        "lowest_mean": min(defined),
    }
    return [Sentence.model_validate({"text": text, "tone": tone, "evidence": evidence})]


def _same(same: list[_Pair]) -> list[Sentence]:
    sentences = []
    for pair in same[:NAMED]:
        matched = pair.layer.weight_matched[pair.i][pair.j]
        near = matched is not None and matched >= SAME_WEIGHTS
        also = (
            ": their weights are nearly the same, up to the order of hidden units" if near else ""
        )
        sentences.append(
            Sentence(
                text=f"Experts {pair.name} compute one and the same thing "
                f"(CKA {pair.cka:.2f}){also}. One of them is wasted.",
                tone="bad",
                evidence={
                    "layer": pair.layer.number,
                    "experts": [pair.i, pair.j],
                    "cka": pair.cka,
                    "cka_low": pair.layer.cka_low[pair.i][pair.j],
                    "cka_rbf": pair.layer.cka_rbf[pair.i][pair.j],
                    "cosine": pair.layer.cosine[pair.i][pair.j],
                    "weight_matched": matched,
                },
            )
        )
    if len(same) > NAMED:
        sentences.append(
            Sentence(
                text=f"{count(len(same) - NAMED, 'more pair does', 'more pairs do')} so.",
                tone="bad",
                evidence={"pairs": len(same)},
            )
        )
    return sentences


def _alike(pairs: _Pairs) -> list[Sentence]:
    if not pairs.all:
        return []
    top = pairs.all[0]
    evidence: dict[str, float | int | str | list[int | str] | None] = {
        "pairs": len(pairs.all),
        "alike": len(pairs.alike),
        "most_alike_layer": top.layer.number,
        "most_alike": [top.i, top.j],
        "most_alike_cka": top.cka,
    }
    sentences = []
    if top.cka < ALIKE_PAIR:
        sentences.append(
            Sentence(
                text=f"No pair reaches {ALIKE_PAIR}; the most alike are experts {top.name} with "
                f"{number(top.cka, 2)}.",
                tone="good",
                evidence=evidence,
            )
        )
    if rest := pairs.alike[len(pairs.same) :]:
        sentences.append(
            Sentence(
                text=f"{count(len(rest), 'pair', 'pairs')} of {len(pairs.all)} "
                f"{'is' if len(rest) == 1 else 'are'} alike (CKA {ALIKE_PAIR} and more): experts "
                + named([f"{pair.name} ({pair.cka:.2f})" for pair in rest])
                + ".",
                tone="warning" if len(rest) > MANY_PAIRS * len(pairs.all) else "note",
                evidence=evidence,
            )
        )
    if pairs.unsure:
        names = named([f"{pair.name} ({pair.cka:.2f})" for pair in pairs.unsure])
        sentences.append(
            Sentence(
                text=f"{count(len(pairs.unsure), 'pair has', 'pairs have')} a CKA of {ALIKE_PAIR} "
                "and more with an interval that reaches that of unrelated experts, so whether they "
                f"are alike is not known: experts {names}.",
                tone="warning" if len(pairs.unsure) > MANY_PAIRS * len(pairs.all) else "note",
                evidence={"pairs": len(pairs.unsure)},
            )
        )
    return sentences


def _dead(findings: Findings, dead: list[tuple[LayerFindings, int]]) -> list[Sentence]:
    if not dead:
        return []
    share = findings.settings.dead_below
    return [
        Sentence(
            text=f"{count(len(dead), 'expert is', 'experts are')} dead, with less than {share:.0%}"
            " of a fair load: "
            + named([f"expert {expert} of layer {layer.label}" for layer, expert in dead])
            + ".",
            tone="bad",
            evidence={
                "dead": len(dead),
                "layers": [layer.number for layer, _ in dead],
                "experts": [expert for _, expert in dead],
            },
        )
    ]


def _undefined(findings: Findings) -> list[Sentence]:
    silent = [
        (layer, expert)
        for layer in findings.layers
        if not layer.non_finite_inputs
        for expert in range(layer.experts)
        if layer.cka[expert][expert] is None and expert not in layer.non_finite
    ]
    if not silent:
        return []
    names = named([f"expert {expert} of layer {layer.label}" for layer, expert in silent])
    return [
        Sentence(
            text=f"Undefined for {names}: the output is the same for every token, or differs for "
            "one token alone, so similarity to it means nothing.",
            tone="warning",
            evidence={"undefined_experts": len(silent)},
        )
    ]


def _hidden(pairs: list[_Pair]) -> list[Sentence]:
    """Pairs a measure that single rows cannot move finds alike, and linear CKA does not."""
    moved = [
        (pair, rbf)
        for pair in pairs
        if (rbf := pair.layer.cka_rbf[pair.i][pair.j]) is not None
        and pair.cka < ALIKE_PAIR
        and rbf - pair.cka >= MOVED
    ]
    if not moved:
        return []
    pair, rbf = max(moved, key=lambda found: found[1] - found[0].cka)
    return [
        Sentence(
            text=f"Linear CKA can be moved by single tokens with large outputs. In "
            f"{count(len(moved), 'pair', 'pairs')} RBF CKA is far above it: experts {pair.name} "
            f"have {rbf:.2f} and {pair.cka:.2f}.",
            tone="note",
            evidence={"pairs": len(moved), "cka_rbf": rbf, "cka": pair.cka},
        )
    ]
