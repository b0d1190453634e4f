"""Parts of the verdict that are about the whole model: routing, sharing, and another run.

`verdict.py` decides, and says which experts are alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from simsmoe_cli.collapse.findings import Findings, Sentence

UNEVEN_LOAD = 1.0  # coefficient of variation
UNDECIDED, NARROW = 0.95, 0.5  # of ln N: entropy of a token's routing, and of the mean routing
NAMED = 3
ROUNDED = 1e-3  # when all pairs are this close, their order is only rounding
NO_POWER = 0.5  # a null that reaches further hides a correlation worth knowing


def routing(findings: Findings) -> list[Sentence]:
    """What is odd about load and routing."""
    sentences = []
    uneven = [
        (layer, layer.load_cv)
        for layer in findings.layers
        if layer.load_cv is not None and layer.load_cv >= UNEVEN_LOAD
    ]
    if uneven:
        layer, cv = max(uneven, key=lambda found: found[1])
        sentences.append(
            Sentence(
                text=f"The load is uneven in {count(len(uneven), 'layer', 'layers')}: most in "
                f"layer {layer.label}, where it varies by {cv:.1f} times its mean.",
                tone="warning",
                evidence={"layers": len(uneven), "layer": layer.number, "load_cv": cv},
            )
        )
    undecided = [
        (layer, layer.entropy_nats)
        for layer in findings.layers
        if layer.entropy_nats is not None
        and layer.entropy_nats > UNDECIDED * layer.entropy_max_nats
    ]
    narrow = [
        (layer, layer.entropy_of_mean_nats)
        for layer in findings.layers
        if layer.entropy_of_mean_nats is not None
        and layer.entropy_of_mean_nats < NARROW * layer.entropy_max_nats
    ]
    for found, words in (
        (undecided, "The router hardly decides: for a token nearly all experts are equally likely"),
        (narrow, "The router knows few experts: the same ones are likely for all tokens"),
    ):
        if found:
            layer, value = found[0]
            where = named([f"layer {each.label}" for each, _ in found])
            sentences.append(
                Sentence(
                    text=f"{words} ({where}; entropy {value:.2f} of at most "
                    f"{layer.entropy_max_nats:.2f} nats in layer {layer.label}).",
                    tone="note",
                    evidence={
                        "layers": len(found),
                        "layer": layer.number,
                        "entropy_nats": value,
                        "entropy_max_nats": layer.entropy_max_nats,
                    },
                )
            )
    unknown = sum(layer.entropy_nats is None for layer in findings.layers)
    if unknown:
        sentences.append(
            Sentence(
                text=f"The router's entropy is unknown in {count(unknown, 'layer', 'layers')}: "
                "its output there is not a distribution over the experts, or not finite.",
                tone="note",
                evidence={"layers": unknown},
            )
        )
    return sentences


def sharing(findings: Findings) -> list[Sentence]:
    """Whether experts that share tokens are alike (Fig. 4a of the paper)."""
    found = findings.overall.spearman
    if found.value is None or found.null_low is None or found.null_high is None:
        return []
    evidence = {
        "spearman": found.value,
        "low": found.low,
        "high": found.high,
        "null_low": found.null_low,
        "null_high": found.null_high,
        "pairs": found.n,
    }
    alike = [v for layer in findings.layers for i, j in layer.pairs() if (v := layer.cka[i][j])]
    if max(alike, default=0.0) - min(alike, default=0.0) < ROUNDED:
        return []
    if found.null_low < -NO_POWER or found.null_high > NO_POWER:
        words = "Whether two experts that share tokens are more alike cannot be told from so few"
    elif found.null_low <= found.value <= found.null_high:
        words = "Whether two experts share tokens says nothing about how alike they are"
    elif found.low is not None and found.high is not None and found.low <= 0 <= found.high:
        words = "Whether two experts share tokens says little about how alike they are"
    elif found.value > 0:
        words = "Experts that share more tokens are more alike"
    else:
        words = "Experts that share more tokens are less alike"
    text = (
        f"{words} (Spearman {found.value:.2f} over {found.n} pairs; by chance "
        f"{found.null_low:.2f} to {found.null_high:.2f})."
    )
    return [Sentence.model_validate({"text": text, "tone": "note", "evidence": evidence})]


def on_shared_tokens(findings: Findings, against: Findings | None) -> list[Sentence]:
    """How alike experts are where both work, which experts that differ elsewhere need not be."""
    found = findings.overall.cka_shared
    if found.value is None:
        return []
    pairs = sum(layer.experts * (layer.experts - 1) // 2 for layer in findings.layers)
    other = against.overall.cka_shared.value if against is not None else None
    beside = (
        f"; those of {against.subject.name} {other:.2f}" if against and other is not None else ""
    )
    return [
        Sentence(
            text=f"On tokens that were sent to both, two experts are {found.value:.2f} alike on "
            f"average ({found.n} of {pairs} pairs share enough of them){beside}.",
            tone="note",
            evidence={"cka_shared": found.value, "pairs": found.n, "against_cka_shared": other},
        )
    ]


def compared(findings: Findings, against: Findings) -> list[Sentence]:
    """What is different from another run; layers are compared one by one."""
    here, there = findings.overall.cka_mean, against.overall.cka_mean
    ours, theirs = findings.text, against.text
    name = against.subject.name
    sentences = []
    if not all(layer.finite for layer in against.layers):
        sentences.append(
            Sentence(text=f"{name} has values that are not finite (NaN or infinity).", tone="bad")
        )
    if here is None or there is None:
        who = "Its experts" if here is None else f"The experts of {name}"
        text = (
            f"{who} could not be compared with each other, so nothing is said of the other run's."
        )
        return [*sentences, Sentence(text=text, tone="warning")]
    if (ours.corpus, ours.split, ours.rows) != (theirs.corpus, theirs.split, theirs.rows):
        sentences.append(
            Sentence(
                text=f"{name} was measured on other text, so differences may be the text's.",
                tone="warning",
                evidence={"rows": ours.rows, "against_rows": theirs.rows},
            )
        )
    apart = [
        (a.cka_mean.low or 0.0) - (b.cka_mean.high or 0.0) > 0
        or (b.cka_mean.low or 0.0) - (a.cka_mean.high or 0.0) > 0
        for a, b in zip(findings.layers, against.layers, strict=False)
        if None not in (a.cka_mean.low, a.cka_mean.high, b.cka_mean.low, b.cka_mean.high)
    ]
    if not apart:
        words = f"Without intervals its experts cannot be compared with those of {name}"
    elif not any(apart):
        words = f"Its experts are about as alike as those of {name}"
    else:
        less = "less" if here < there else "more"
        words = f"Its experts are {less} alike than those of {name}"
    intervals = f"; the intervals are apart in {sum(apart)} of {len(apart)} layers" if apart else ""
    sentences.append(
        Sentence(
            text=f"{words}: {here:.2f} against {there:.2f}{intervals}.",
            tone="good" if here < there and any(apart) else "note",
            evidence={
                "cka_mean": here,
                "against_cka_mean": there,
                "layers": len(apart),
                "layers_apart": sum(apart),
            },
        )
    )
    if ours.accuracy is not None and theirs.accuracy is not None:
        sentences.append(
            Sentence(
                text=f"It classifies {ours.accuracy:.2%} of these texts right, {name} "
                f"{theirs.accuracy:.2%} (n = {ours.scored:,} texts). One run each proves little.",
                tone="note",
                evidence={"accuracy": ours.accuracy, "against_accuracy": theirs.accuracy},
            )
        )
    elif (
        ours.loss_nats is not None
        and theirs.loss_nats is not None
        and ours.unit == theirs.unit
        and ours.accuracy is theirs.accuracy is None
    ):
        in_bits = ours.bpc is not None and theirs.bpc is not None
        score, other = (ours.bpc, theirs.bpc) if in_bits else (ours.loss_nats, theirs.loss_nats)
        unit = "BPC" if in_bits else f"nats per {ours.unit}"
        sentences.append(
            Sentence(
                text=f"It predicts this text with {score:.3f} {unit}, {name} with {other:.3f}. One "
                "run each proves little: seeds of one setting were seen to differ by 0.05 BPC.",
                tone="note",
                evidence={"score": score, "against_score": other},
            )
        )
    return sentences


def count(number: int, one: str, many: str) -> str:
    """ "1 pair", "2 pairs"."""
    return f"{number:,} {one if number == 1 else many}"


def every(names: Sequence[object]) -> str:
    """All of a few names, "2, 5 and 7"; of more than eight the first eight."""
    shown = [str(name) for name in names[:8]]
    if len(names) > len(shown):
        return f"{', '.join(shown)} and {len(names) - len(shown):,} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def named(names: list[str]) -> str:
    """Some of the names, and how many more there are."""
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
