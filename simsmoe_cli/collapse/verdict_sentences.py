"""The sentences of the verdict on one model, each with the numbers it rests on.

`verdict.py` decides and holds the thresholds of similarity. CKA does not change when outputs are
rotated or scaled, so for a high CKA the sentence is "nearly the same representation up to rotation
and scale". A sentence says that outputs or weights are nearly the same only if these were compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from simsmoe_cli.collapse.findings import Findings, LayerFindings
from simsmoe_cli.collapse.pairs import Pair
from simsmoe_cli.collapse.report import Sentence
from simsmoe_cli.collapse.show.format import NAMED, count, interval, number
from simsmoe_cli.errors import listed

SAME_OUTPUT = 0.95  # mean cosine from which outputs are said to point the same way
SAME_WEIGHTS = 0.99  # matched units from which weights are said to match
RBF_ABOVE = 0.4  # if RBF CKA is this much above linear CKA, single rows may hide a similarity
UNEVEN_LOAD = 1.0  # coefficient of variation
UNDECIDED, NARROW = 0.95, 0.5  # of ln N: entropy of a token's routing, and of the mean routing
ROUNDED = 1e-3  # when all pairs are this close, their order is only rounding
NO_POWER = 0.5  # if the null reaches further, even a strong correlation would not be seen


def mean_similarity(findings: Findings, similar: float, collapsed: float) -> list[Sentence]:
    """The mean CKA of the model, and the layers with the highest and the lowest.

    Args:
        findings: of the model.
        similar, collapsed: means from which layers count as such.
    """
    mean, highest = findings.overall.cka_mean, findings.highest
    if mean is None or highest is None:
        return []
    found, null = highest.cka_mean, findings.null_95
    known = [value for layer in findings.layers if (value := layer.cka_mean.value) is not None]
    sure = found.low is not None and found.high is not None
    between = f" ({interval(found, findings.settings.level, 2)})" if sure else ""
    chance = "" if null is None else f", 95% of unrelated pairs stay below {null:.3f}"
    text = (
        f"On {findings.text.rows:,} tokens that every expert of a layer was given, the mean CKA of "
        f"two experts is {number(mean, 2)} (debiased; copies have 1{chance}). "
    )
    if len(known) == 1:
        text += f"This is of layer {highest.label} alone{between}."
    else:
        text += (
            f"Layer {highest.label} has the highest mean, {number(found.value, 2)}{between}; the "
            f"lowest is {number(min(known), 2)}."
        )
    tone = "bad" if mean >= collapsed else "warning" if mean >= similar else "good"
    return [
        Sentence.of(
            tone,
            text,
            cka_mean=mean,
            rows=findings.text.rows,
            null_quantile_95=null,
            highest_layer=highest.number,
            highest_mean=found.value,
            highest_low=found.low,
            highest_high=found.high,
            lowest_mean=min(known),
        )
    ]


def on_shared_tokens(findings: Findings, against: Findings | None) -> list[Sentence]:
    """Mean CKA on the tokens routed to both experts of a pair."""
    found = findings.overall.cka_shared
    if found.value is None:
        return []
    pairs = sum(layer.pair_count for layer in findings.layers)
    other = against.overall.cka_shared.value if against else None
    beside = (
        f"; for {against.subject.name} it is {number(other, 2)}"
        if against and other is not None
        else ""
    )
    return [
        Sentence.of(
            "note",
            f"On tokens that were sent to both experts of a pair, the mean CKA is "
            f"{number(found.value, 2)} ({found.n} of {pairs} pairs share enough of them){beside}.",
            cka_shared=found.value,
            pairs=found.n,
            against_cka_shared=other,
        )
    ]


def nearly_same_pairs(same: Sequence[Pair]) -> list[Sentence]:
    """Pairs with a CKA near 1, and what their outputs and weights say of them."""
    sentences = []
    for pair in same[:NAMED]:
        cosine = pair.layer.cosine[pair.i][pair.j]
        matched = pair.layer.weight_matched[pair.i][pair.j]
        also = []
        if cosine is not None and cosine >= SAME_OUTPUT:
            also.append(f"their outputs point the same way (mean cosine {cosine:.2f})")
        if matched is not None and matched >= SAME_WEIGHTS:
            also.append(
                f"their weights match up to the order of hidden units ({matched:.3f} of at most 1)"
            )
        sentences.append(
            Sentence.of(
                "bad",
                f"Experts {pair.full_name} have nearly the same representation up to rotation and "
                f"scale (CKA {pair.cka:.2f}){'; ' * bool(also)}{', and '.join(also)}.",
                layer=pair.layer.number,
                experts=[pair.i, pair.j],
                cka=pair.cka,
                cka_low=pair.layer.cka_low[pair.i][pair.j],
                cka_rbf=pair.layer.cka_rbf[pair.i][pair.j],
                cosine=cosine,
                weight_matched=matched,
            )
        )
    if len(same) > NAMED:
        text = f"The same holds for {count(len(same) - NAMED, 'more pair', 'more pairs')}."
        sentences.append(Sentence.of("bad", text, pairs=len(same)))
    return sentences


def similar_pairs(
    pairs: Sequence[Pair], rest: Sequence[Pair], similar: int, limit: float, many: bool
) -> list[Sentence]:
    """The most similar pair where it is below the limit; else those above it.

    Args:
        pairs: all that are defined, the most similar first.
        rest: pairs at or above the limit that no sentence has mentioned yet.
        similar: how many are at or above the limit.
        limit: CKA from which a pair counts as similar.
        many: whether `rest` is a large part of all.
    """
    if not pairs:
        return []
    top = pairs[0]
    evidence = {
        "pairs": len(pairs),
        "alike": similar,
        "most_alike_layer": top.layer.number,
        "most_alike": [top.i, top.j],
        "most_alike_cka": top.cka,
    }
    sentences = []
    if top.cka is not None and top.cka < limit:
        text = (
            f"No pair has a CKA of {limit} or more; the most similar are experts {top.full_name} "
            f"with {number(top.cka, 2)}."
        )
        sentences.append(Sentence.of("good", text, **evidence))
    if rest:
        are = "is" if len(rest) == 1 else "are"
        text = (
            f"{count(len(rest), 'pair', 'pairs')} of {len(pairs)} {are} similar (CKA of {limit} or "
            f"more): experts {_with_cka(rest)}."
        )
        sentences.append(Sentence.of("warning" if many else "note", text, **evidence))
    return sentences


def unsure_pairs(unsure: Sequence[Pair], limit: float, many: bool) -> list[Sentence]:
    """Pairs above the limit whose interval reaches the null."""
    if not unsure:
        return []
    text = (
        f"{count(len(unsure), 'pair has', 'pairs have')} a CKA of {limit} or more, but with an "
        "interval that reaches that of unrelated experts, so whether they are similar is not "
        f"known: experts {_with_cka(unsure)}."
    )
    return [Sentence.of("warning" if many else "note", text, pairs=len(unsure))]


def lowered_by_single_tokens(pairs: Sequence[Pair], limit: float) -> list[Sentence]:
    """Pairs that RBF CKA, which single rows cannot move, finds similar and linear CKA does not."""
    moved = [
        (rbf, pair.cka, pair)
        for pair in pairs
        if (rbf := pair.layer.cka_rbf[pair.i][pair.j]) is not None
        and pair.cka is not None
        and pair.cka < limit
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


def dead_experts(findings: Findings, dead: Sequence[tuple[LayerFindings, int]]) -> list[Sentence]:
    """A sentence on experts that receive hardly any tokens."""
    if not dead:
        return []
    text = (
        f"{count(len(dead), 'expert is', 'experts are')} dead, with less than "
        f"{findings.settings.dead_below:.0%} of a fair load: {_experts(dead)}."
    )
    numbers = [layer.number for layer, _ in dead]
    experts = [expert for _, expert in dead]
    return [Sentence.of("bad", text, dead=len(dead), layers=numbers, experts=experts)]


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
    text = (
        f"Similarity is undefined for {_experts(silent)}: the output is the same for every token, "
        "or for every token but one."
    )
    return [Sentence.of("warning", text, undefined_experts=len(silent))]


def routing(findings: Findings) -> list[Sentence]:
    """Sentences on unusual load and routing."""
    sentences = []
    layers = findings.layers
    uneven = [(cv, layer) for layer in layers if (cv := layer.load_cv or 0) >= UNEVEN_LOAD]
    if uneven:
        cv, layer = max(uneven, key=lambda found: found[0])
        text = (
            f"The load is uneven in {count(len(uneven), 'layer', 'layers')}: most in layer "
            f"{layer.label}, where its standard deviation is {cv:.1f} times its mean."
        )
        evidence = {"layers": len(uneven), "layer": layer.number, "load_cv": cv}
        sentences.append(Sentence.of("warning", text, **evidence))
    undecided = [
        (value, layer)
        for layer in layers
        if (value := layer.entropy_nats) is not None and value > UNDECIDED * layer.entropy_max_nats
    ]
    narrow = [
        (value, layer)
        for layer in layers
        if (value := layer.entropy_of_mean_nats) is not None
        and value < NARROW * layer.entropy_max_nats
    ]
    for found, words in (
        (undecided, "The router hardly decides: for a token nearly all experts are equally likely"),
        (narrow, "The router uses few experts: the same ones are likely for all tokens"),
    ):
        if found:
            value, layer = found[0]
            most = layer.entropy_max_nats
            where = listed([f"layer {each.label}" for _, each in found], NAMED)
            text = (
                f"{words} ({where}; entropy {value:.2f} of at most {most:.2f} nats in layer "
                f"{layer.label})."
            )
            evidence = {"layers": len(found), "layer": layer.number, "entropy_nats": value}
            sentences.append(Sentence.of("note", text, **evidence, entropy_max_nats=most))
    if unknown := sum(layer.entropy_nats is None for layer in layers):
        text = (
            f"The router's entropy is unknown in {count(unknown, 'layer', 'layers')}: its output "
            "there is not a distribution over the experts, or not finite."
        )
        sentences.append(Sentence.of("note", text, layers=unknown))
    return sentences


def sharing(findings: Findings) -> list[Sentence]:
    """Whether experts that share tokens are similar (Fig. 4a of the paper)."""
    found = findings.overall.spearman
    if found.value is None or found.null_low is None or found.null_high is None:
        return []
    known = [v for layer in findings.layers for i, j in layer.pairs() if (v := layer.cka[i][j])]
    if max(known, default=0.0) - min(known, default=0.0) < ROUNDED:
        return []
    if found.null_low < -NO_POWER or found.null_high > NO_POWER:
        words = "The pairs are too few to tell whether experts that share tokens are more similar"
    elif found.null_low <= found.value <= found.null_high:
        words = "Whether two experts share tokens says nothing about how similar they are"
    elif found.low is not None and found.high is not None and found.low <= 0 <= found.high:
        words = "Whether two experts share tokens says little about how similar they are"
    elif found.value > 0:
        words = "Experts that share more tokens are more similar"
    else:
        words = "Experts that share more tokens are less similar"
    return [
        Sentence.of(
            "note",
            f"{words} (Spearman {found.value:.2f} over {found.n} pairs; by chance "
            f"{found.null_low:.2f} to {found.null_high:.2f}).",
            spearman=found.value,
            low=found.low,
            high=found.high,
            null_low=found.null_low,
            null_high=found.null_high,
            pairs=found.n,
        )
    ]


def _with_cka(pairs: Sequence[Pair]) -> str:
    return listed([f"{pair.full_name} ({pair.cka:.2f})" for pair in pairs], NAMED)


def _experts(experts: Sequence[tuple[LayerFindings, int]]) -> str:
    return listed([f"expert {expert} of layer {layer.label}" for layer, expert in experts], NAMED)
