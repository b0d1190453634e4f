"""The verdict: how different the experts are, and the reasons. `judge` decides.

Thresholds, all on debiased linear CKA, where unrelated experts are at 0 and copies at 1:

- A layer is *similar* from a mean over its pairs of 0.25, *collapsed* from 0.5: experts of a plain
  SMoE were measured at 0.6, with calibrated similarity learning at 0.34. A layer is also
  collapsed if half of its pairs are exact copies.
- A pair is similar from 0.5, and *nearly the same* from 0.95, if the lower end of its interval is
  above the null.
- The model is *collapsed* if half of its layers are; *partly alike* (shown as "Partly collapsed")
  if a layer is similar, one pair in twenty is, a pair is nearly the same or a copy, or an expert is
  dead; else *healthy*.
- It is *undefined* if a value is not finite or no pair is defined. A model that would be healthy is
  also undefined (shown as "Undecided") if the evidence is too weak: the model cannot predict the
  text, there are too few tokens, experts could not be compared, or the intervals include values
  that count as similar (`verdict_doubts.py`).

Untrained experts are similar as well (0.8 to 0.9 was measured: all of them see the same input), so
a verdict on the first steps of a run says little.
"""

from __future__ import annotations

from dataclasses import dataclass

from simsmoe_cli.collapse.findings import Findings, LayerFindings
from simsmoe_cli.collapse.pairs import Pair, pairs_of
from simsmoe_cli.collapse.report import Sentence, Verdict
from simsmoe_cli.collapse.show.format import count
from simsmoe_cli.collapse.verdict_against import compared
from simsmoe_cli.collapse.verdict_doubts import (
    copied,
    few_rows,
    hard_text,
    non_finite,
    unknown,
    wasted_copies,
)
from simsmoe_cli.collapse.verdict_sentences import (
    dead_experts,
    lowered_by_single_tokens,
    mean_similarity,
    nearly_same_pairs,
    on_shared_tokens,
    routing,
    sharing,
    similar_pairs,
    undefined_experts,
    unsure_pairs,
)

SIMILAR_LAYER, COLLAPSED_LAYER = 0.25, 0.5
SIMILAR_PAIR, SAME_PAIR = 0.5, 0.95
MANY_PAIRS = 0.05


@dataclass(frozen=True)
class _Pairs:
    """The pairs whose CKA is defined, the most similar first.

    Attributes:
        all: of them.
        similar: from SIMILAR_PAIR, above the null, and not exact copies, of which more is known.
        same: those of them from SAME_PAIR.
        unsure: from SIMILAR_PAIR, but with an interval that reaches the null.
    """

    all: list[Pair]
    similar: list[Pair]
    same: list[Pair]
    unsure: list[Pair]

    @classmethod
    def of(cls, findings: Findings) -> _Pairs:
        known = [pair for pair in pairs_of(findings.layers) if pair.cka is not None]
        known.sort(key=lambda pair: pair.order)
        high = [p for p in known if (p.cka or 0) >= SIMILAR_PAIR and not p.copies]
        similar = [pair for pair in high if pair.above_null]
        return cls(
            known,
            similar,
            [pair for pair in similar if (pair.cka or 0) >= SAME_PAIR],
            [pair for pair in high if not pair.above_null],
        )

    def many(self, some: list[Pair]) -> bool:
        """Whether these are more than one in twenty."""
        return len(some) > MANY_PAIRS * len(self.all)


def judge(findings: Findings, against: Findings | None = None) -> Verdict:
    """The verdict on a run.

    Args:
        findings: the run.
        against: another to compare it with.
    """
    pairs = _Pairs.of(findings)
    broken = non_finite(findings)
    doubts = [doubt for doubt in (few_rows(findings), hard_text(findings)) if doubt is not None]
    dead = [(layer, expert) for layer in findings.layers for expert in layer.dead or ()]
    level, headline = _level(findings, pairs, len(dead))
    rest = pairs.similar[len(pairs.same) :]
    sentences = [
        *broken,
        *copied(findings),
        *(sentence for _, sentence in doubts),
        *mean_similarity(findings, SIMILAR_LAYER, COLLAPSED_LAYER),
        *on_shared_tokens(findings, against),
        *nearly_same_pairs(pairs.same),
        *similar_pairs(pairs.all, rest, len(pairs.similar), SIMILAR_PAIR, pairs.many(rest)),
        *unsure_pairs(pairs.unsure, SIMILAR_PAIR, pairs.many(pairs.unsure)),
        *dead_experts(findings, dead),
        *undefined_experts(findings),
        *lowered_by_single_tokens(pairs.all, SIMILAR_PAIR),
        *routing(findings),
        *sharing(findings),
        *(compared(findings, against) if against is not None else []),
        *(Sentence.of("note", f"{note.rstrip('.')}.") for note in findings.text.notes),
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
    similar = sum(
        _collapsed(layer) or (layer.cka_mean.value or 0) >= SIMILAR_LAYER for layer in layers
    )
    but = "; but " + ", and ".join(reservations) if reservations else ""
    if broken:
        first = broken[0].text.removesuffix(".")
        return "undefined", f"Not finite: {first[:1].lower()}{first[1:]}"
    if 2 * collapsed >= len(layers) and (copies or not few):
        what = f"the experts are similar in {collapsed} of {len(layers)} layers"
        also = f", {_copies(copies)}" if copies else ""
        return "collapsed", f"Collapsed: {what}{also}{but}"
    if not pairs.all and not copies:
        return "undefined", "Undefined: no two experts could be compared"
    if few and not copies:
        return "undefined", "Undecided: " + "; ".join(reservations)
    if similar or pairs.same or copies or dead or pairs.many(pairs.similar):
        reasons = _reasons(similar, len(layers), pairs, copies, dead)
        return "partly alike", f"Partly collapsed: {reasons}{but}"
    doubts = [*reservations, *unknown(findings, SIMILAR_LAYER)]
    if pairs.many(pairs.unsure):
        doubts.append(f"{count(len(pairs.unsure), 'pair', 'pairs')} may be similar or not")
    if doubts:
        return "undefined", "Undecided: " + "; ".join(doubts)
    return "healthy", "Healthy: the experts are different and all of them work"


def _collapsed(layer: LayerFindings) -> bool:
    mean = layer.cka_mean.value
    copied = sum(len(group.experts) * (len(group.experts) - 1) // 2 for group in layer.copies)
    return (mean is not None and mean >= COLLAPSED_LAYER) or 0 < layer.pair_count <= 2 * copied


def _copies(copies: int) -> str:
    return count(copies, "expert is an exact copy of another", "experts are exact copies of others")


def _reasons(similar: int, layers: int, pairs: _Pairs, copies: int, dead: int) -> str:
    reasons = []
    if copies:
        reasons.append(_copies(copies))
    if similar:
        reasons.append(f"the experts are similar in {similar} of {layers} layers")
    if pairs.same:
        have = count(len(pairs.same), "pair has", "pairs have")
        reasons.append(f"{have} nearly the same representation")
    elif pairs.similar and not similar:
        reasons.append(f"{count(len(pairs.similar), 'pair is', 'pairs are')} similar")
    if dead:
        reasons.append(f"{count(dead, 'expert is', 'experts are')} dead")
    return ", ".join(reasons)
