"""Everything that was found, one sentence each, with the numbers it rests on.

CKA does not change when outputs are rotated or scaled, so for a high CKA a sentence says "nearly
the same representation up to rotation and scale", and "duplicates" only where the outputs agree.
"""

from __future__ import annotations

from collections.abc import Sequence

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.pairs import (
    COLLAPSED_LAYER,
    SAME_PAIR,
    SIMILAR_LAYER,
    SIMILAR_PAIR,
    Pair,
    SortedPairs,
)
from simsmoe_cli.collapse.report import Sentence
from simsmoe_cli.collapse.show.format import (
    NAMED,
    count,
    interval,
    number,
    says_nothing,
)
from simsmoe_cli.collapse.verdict.compared import compared
from simsmoe_cli.collapse.verdict.doubts import (
    copied,
    few_rows,
    hard_text,
    non_finite,
    undefined_experts,
)
from simsmoe_cli.collapse.verdict.routing import dead_experts, routing
from simsmoe_cli.errors import listed

SAME_DIRECTION = 0.95  # mean cosine from which outputs are said to point the same way
SAME_WEIGHTS = 0.99  # matched units from which weights are said to match
RBF_ABOVE = 0.4  # if RBF CKA is this much above linear CKA, single rows may hide a similarity
ROUNDED = 1e-3  # when all pairs are this close, their order is only rounding


def details(
    findings: Findings, pairs: SortedPairs, against: Findings | None, *, sure: bool
) -> list[Sentence]:
    """All sentences on a model, what is wrong with it first.

    Args:
        findings: of the model.
        pairs: of its experts.
        against: another run to compare it with.
        sure: whether the verdict could decide; if not, nothing is called good.
    """
    doubts = [doubt[1] for doubt in (few_rows(findings), hard_text(findings)) if doubt is not None]
    sentences = [
        *non_finite(findings),
        *copied(findings),
        *doubts,
        *_mean_similarity(findings),
        *_on_shared_tokens(findings),
        *_nearly_same(pairs.same),
        *_similar_pairs(pairs),
        *_merging(findings),
        *dead_experts(findings),
        *undefined_experts(findings),
        *_single_tokens(pairs.all),
        *routing(findings),
        *_sharing(findings),
        *(compared(findings, against) if against is not None else []),
        *(Sentence.of("note", f"{note.rstrip('.')}.") for note in findings.text.notes),
    ]
    if doubts or not sure:
        return [
            sentence.model_copy(update={"tone": "note"}) if sentence.tone == "good" else sentence
            for sentence in sentences
        ]
    return sentences


# Similarity


def _mean_similarity(findings: Findings) -> list[Sentence]:
    """The mean CKA of the model, and the layers with the highest and the lowest."""
    mean, highest = findings.overall.cka_mean, findings.highest
    if mean is None or highest is None:
        return []
    found = highest.cka_mean
    known = [value for layer in findings.layers if (value := layer.cka_mean.value) is not None]
    sure = found.low is not None and found.high is not None
    between = f" ({interval(found, findings.settings.level, 2)})" if sure else ""
    text = (
        f"Two experts of a layer have a mean CKA of {number(mean, 2)}. It is highest in layer "
        f"{highest.label}, {number(found.value, 2)}{between}; the lowest is "
        f"{number(min(known), 2)}."
    )
    tone = "bad" if mean >= COLLAPSED_LAYER else "warning" if mean >= SIMILAR_LAYER else "good"
    return [
        Sentence.of(
            tone,
            text,
            cka_mean=mean,
            null_quantile_95=findings.null_95,
            highest_layer=highest.number,
            highest_mean=found.value,
            highest_low=found.low,
            highest_high=found.high,
            lowest_mean=min(known),
            rows=findings.text.rows,
        )
    ]


def _on_shared_tokens(findings: Findings) -> list[Sentence]:
    """Mean CKA on the tokens routed to both experts of a pair."""
    found = findings.overall.cka_shared
    if found.value is None:
        return []
    pairs = sum(layer.pair_count for layer in findings.layers)
    text = (
        "On tokens that were sent to both experts of a pair, the mean CKA is "
        f"{number(found.value, 2)} ({found.n:,} of {pairs:,} pairs share enough of them)."
    )
    return [Sentence.of("note", text, cka_shared=found.value, pairs=found.n)]


def _nearly_same(same: Sequence[Pair]) -> list[Sentence]:
    """Pairs with a CKA near 1, and whether they give the same outputs as well."""
    sentences = []
    for pair in same[:NAMED]:
        cosine, apart = pair.layer.cosine[pair.i][pair.j], pair.apart
        matched = pair.layer.weight_matched[pair.i][pair.j]
        also = []
        if pair.duplicate:
            text = f"Experts {pair.full_name} are duplicates: their outputs differ by {apart:.1%}"
            text += f" of their size (CKA {pair.cka:.2f})"
        else:
            text = (
                f"Experts {pair.full_name} have nearly the same representation up to rotation and "
                f"scale (CKA {pair.cka:.2f})"
            )
            if cosine is not None and cosine >= SAME_DIRECTION:
                also.append(f"their outputs point the same way (mean cosine {cosine:.2f})")
            elif apart is not None:
                also.append(f"their outputs differ by {apart:.0%} of their size")
        if matched is not None and matched >= SAME_WEIGHTS:
            also.append(
                f"their weights match up to the order of hidden units ({matched:.3f} of at most 1)"
            )
        sentences.append(
            Sentence.of(
                "bad",
                f"{text}{'; ' * bool(also)}{', and '.join(also)}.",
                layer=pair.layer.number,
                experts=[pair.i, pair.j],
                cka=pair.cka,
                cka_low=pair.layer.cka_low[pair.i][pair.j],
                cka_rbf=pair.layer.cka_rbf[pair.i][pair.j],
                cosine=cosine,
                apart=apart,
                weight_matched=matched,
            )
        )
    if len(same) > NAMED:
        more = count(len(same) - NAMED, "more pair has", "more pairs have")
        text = f"{more} a CKA of {SAME_PAIR} or more."
        sentences.append(Sentence.of("bad", text, pairs=len(same)))
    return sentences


def _similar_pairs(pairs: SortedPairs) -> list[Sentence]:
    """The most similar pair where it is below the limit; else those above it, and those of which
    that is not known."""
    if not pairs.all:
        return []
    top, rest, unsure = pairs.all[0], pairs.similar[len(pairs.same) :], pairs.unsure
    evidence = {"pairs": len(pairs.all), "alike": len(pairs.similar), "most_alike_cka": top.cka}
    sentences = []
    if top.cka is not None and top.cka < SIMILAR_PAIR:
        text = (
            f"No pair has a CKA of {SIMILAR_PAIR} or more; the most similar are experts "
            f"{top.full_name} with {number(top.cka, 2)}."
        )
        sentences.append(Sentence.of("good", text, **evidence))
    if rest:
        text = (
            f"{count(len(rest), 'pair', 'pairs')} of {len(pairs.all):,} "
            f"{'is' if len(rest) == 1 else 'are'} similar (CKA of {SIMILAR_PAIR} or more): experts "
            f"{_with_cka(rest)}."
        )
        sentences.append(Sentence.of("warning" if pairs.many(rest) else "note", text, **evidence))
    if unsure:
        text = (
            f"{count(len(unsure), 'pair has', 'pairs have')} a CKA of {SIMILAR_PAIR} or more, but "
            "with an interval that reaches that of unrelated experts, so whether they are similar "
            f"is not known: experts {_with_cka(unsure)}."
        )
        tone = "warning" if pairs.many(unsure) else "note"
        sentences.append(Sentence.of(tone, text, pairs=len(unsure)))
    return sentences


def _single_tokens(pairs: Sequence[Pair]) -> list[Sentence]:
    """Pairs that RBF CKA, which single rows cannot move, finds similar and linear CKA does not."""
    moved = [
        (rbf, pair.cka, pair)
        for pair in pairs
        if (rbf := pair.layer.cka_rbf[pair.i][pair.j]) is not None
        and pair.cka is not None
        and pair.cka < SIMILAR_PAIR
        and rbf - pair.cka >= RBF_ABOVE
    ]
    if not moved:
        return []
    rbf, cka, pair = max(moved, key=lambda found: found[0] - found[1])
    text = (
        "Single tokens with large outputs can lower linear CKA. RBF CKA, which they cannot move, "
        f"is far above it in {count(len(moved), 'pair', 'pairs')}: experts {pair.full_name} have "
        f"{rbf:.2f} and {cka:.2f}."
    )
    return [Sentence.of("note", text, pairs=len(moved), cka_rbf=rbf, cka=cka)]


def _sharing(findings: Findings) -> list[Sentence]:
    """Whether experts that share tokens are similar (Fig. 4a of the paper)."""
    found = findings.overall.spearman
    if says_nothing(found) or found.null_low is None or found.null_high is None:
        return []
    assert found.value is not None
    known = [v for layer in findings.layers for i, j in layer.pairs() if (v := layer.cka[i][j])]
    if max(known, default=0.0) - min(known, default=0.0) < ROUNDED:
        return []
    if found.null_low <= found.value <= found.null_high:
        words = "Whether two experts share tokens says nothing about how similar they are"
    elif found.low is not None and found.high is not None and found.low <= 0 <= found.high:
        words = "Whether two experts share tokens says little about how similar they are"
    elif found.value > 0:
        words = "Experts that share more tokens are more similar"
    else:
        words = "Experts that share more tokens are less similar"
    text = (
        f"{words} (Spearman {found.value:.2f} over {found.n:,} pairs; by chance "
        f"{found.null_low:.2f} to {found.null_high:.2f})."
    )
    evidence = {"low": found.low, "high": found.high}
    return [Sentence.of("note", text, spearman=found.value, **evidence, pairs=found.n)]


# What could be done without


def _merging(findings: Findings) -> list[Sentence]:
    """Whether similar pairs are cheaper to make one of than random pairs."""
    measured = findings.ablation
    if measured is None or measured.similar is None or measured.random is None:
        return []
    similar, random = measured.similar.mean_output, measured.random.mean_output
    if similar.nats is None or random.nats is None or measured.similar_minus_random is None:
        return []
    gap = measured.similar_minus_random.mean_output
    if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
        words = "about as much as"
    else:
        words = "less than" if gap.high < 0 else "more than"
    text = (
        f"To give two similar experts one output, their mean, costs {words} to give it to two at "
        f"random: {number(similar.nats, 4)} against {number(random.nats, 4)} nats of loss."
    )
    costs = {"similar_nats": similar.nats, "random_nats": random.nats}
    between = {"difference_low": gap.low, "difference_high": gap.high}
    return [Sentence.of("note", text, **costs, **between, pairs=measured.similar.pairs)]


def _with_cka(pairs: Sequence[Pair]) -> str:
    return listed([f"{pair.full_name} ({pair.cka:.2f})" for pair in pairs], NAMED)
