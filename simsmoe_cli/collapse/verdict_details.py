"""Everything that was found, one sentence each, with the numbers it rests on.

CKA does not change when outputs are rotated or scaled, so for a high CKA a sentence says "nearly
the same representation up to rotation and scale", and "duplicates" only where the outputs agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simsmoe_cli.collapse.findings import Findings, LayerFindings
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
from simsmoe_cli.collapse.verdict_doubts import (
    copied,
    few_rows,
    hard_text,
    non_finite,
    undefined_experts,
)
from simsmoe_cli.errors import listed

SAME_DIRECTION = 0.95  # mean cosine from which outputs are said to point the same way
SAME_WEIGHTS = 0.99  # matched units from which weights are said to match
RBF_ABOVE = 0.4  # if RBF CKA is this much above linear CKA, single rows may hide a similarity
UNEVEN_LOAD = 1.0  # coefficient of variation
UNDECIDED, NARROW = 0.95, 0.5  # of ln N: entropy of a token's routing, and of the mean routing
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
        *_dead_experts(findings),
        *undefined_experts(findings),
        *_single_tokens(pairs.all),
        *_routing(findings),
        *_sharing(findings),
        *(_compared(findings, against) if against is not None else []),
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


# Routing


def _dead_experts(findings: Findings) -> list[Sentence]:
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


def _routing(findings: Findings) -> list[Sentence]:
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


# Another run


def _compared(findings: Findings, against: Findings) -> list[Sentence]:
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


def _with_cka(pairs: Sequence[Pair]) -> str:
    return listed([f"{pair.full_name} ({pair.cka:.2f})" for pair in pairs], NAMED)


def _experts(experts: Sequence[tuple[LayerFindings, int]]) -> str:
    return listed([f"expert {expert} of layer {layer.label}" for layer, expert in experts], NAMED)
