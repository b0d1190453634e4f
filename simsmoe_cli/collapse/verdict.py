"""The report in words: is it healthy, which experts are alike, and what says so.

Thresholds, all on debiased linear CKA, where unrelated experts are at 0 and copies at 1:

- A layer is *alike* from a mean over its pairs of 0.25, *collapsed* from 0.5: experts of a plain
  SMoE were measured at 0.6, with calibrated similarity learning at 0.34 (METHODS section 4).
- A pair is alike from 0.5, and *one and the same* from 0.95, if the lower end of its interval is
  above the null.
- The model is *collapsed* if half of its layers are; *partly alike* if a layer is alike, one pair
  in twenty is, a pair is the same, or an expert is dead; else *healthy*; *undefined* if no pair is
  defined.

Untrained experts are alike as well (0.8 to 0.9 was measured: all of them see the same input), so a
verdict on a run's first steps says little. Every sentence carries the numbers it rests on.
"""

from __future__ import annotations

from dataclasses import dataclass

from simsmoe_cli.collapse.findings import Findings, LayerFindings, Sentence, Verdict
from simsmoe_cli.collapse.remarks import (
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
        return f"{self.i} and {self.j} of layer {self.layer.layer}"

    @property
    def sure(self) -> bool:
        """Whether its interval lies above the null; without an interval, whether it does."""
        low, null = self.layer.cka_low[self.i][self.j], self.layer.cka_null.quantile_95
        return null is None or (self.cka if low is None else low) > null


def judge(findings: Findings, against: Findings | None = None) -> Verdict:
    """What the numbers say.

    Args:
        findings: the run.
        against: another to compare it with.
    """
    pairs = [
        _Pair(layer, i, j, value)
        for layer in findings.layers
        for i, j in layer.pairs()
        if (value := layer.cka[i][j]) is not None
    ]
    alike = sorted((p for p in pairs if p.cka >= ALIKE_PAIR and p.sure), key=lambda p: -p.cka)
    same = [pair for pair in alike if pair.cka >= SAME_PAIR]
    means = [layer.cka_mean.value for layer in findings.layers]
    defined = [mean for mean in means if mean is not None]
    dead = [(layer.layer, expert) for layer in findings.layers for expert in layer.dead]
    collapsed = sum(mean >= COLLAPSED_LAYER for mean in defined)
    close = sum(mean >= ALIKE_LAYER for mean in defined)
    if not pairs:
        level, headline = "undefined", "Undefined: no two experts could be compared"
    elif 2 * collapsed >= len(defined):
        level = "collapsed"
        headline = f"Collapsed: in {collapsed} of {len(defined)} layers experts are alike"
    elif close or same or dead or len(alike) > MANY_PAIRS * len(pairs):
        level = "partly alike"
        headline = "Partly alike: " + _reasons(close, len(defined), len(alike), same, len(dead))
    else:
        level, headline = "healthy", "Healthy: the experts are different and all of them work"
    sentences = [
        *_overall(findings, defined),
        *on_shared_tokens(findings, against),
        *_same(same),
        *_alike(alike, same, pairs),
        *_dead(findings, dead),
        *_undefined(findings),
        *_hidden(pairs),
        *routing(findings),
        *sharing(findings),
        *(compared(findings, against) if against is not None else []),
        *(Sentence(text=f"{note.rstrip('.')}.", tone="note") for note in findings.text.notes),
    ]
    return Verdict.model_validate(
        {"level": level, "headline": f"{headline}.", "sentences": sentences}
    )


def _reasons(close: int, layers: int, alike: int, same: list[_Pair], dead: int) -> str:
    reasons = []
    if close:
        reasons.append(f"experts resemble each other in {close} of {layers} layers")
    if same:
        reasons.append(f"{count(len(same), 'pair is', 'pairs are')} one and the same")
    elif alike and not close:
        reasons.append(f"{count(alike, 'pair is', 'pairs are')} alike")
    if dead:
        reasons.append(f"{count(dead, 'expert is', 'experts are')} dead")
    return ", ".join(reasons)


def _overall(findings: Findings, defined: list[float]) -> list[Sentence]:
    mean = findings.overall.cka_mean
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
        f" ({findings.settings.level:.0%} interval {found.low:.2f} to {found.high:.2f})"
        if found.low is not None and found.high is not None
        else ""
    )
    chance = "" if null is None else f", and experts with nothing in common stay below {null:.3f}"
    text = (
        f"On {findings.text.rows:,} tokens that every expert of a layer was given, two experts are "
        f"{mean:.2f} alike on average (debiased CKA; copies are 1{chance}). "
        f"Layer {worst.layer} is the highest with {found.value:.2f}{between}, the lowest has "
        f"{min(defined):.2f}."
    )
    tone = "bad" if mean >= COLLAPSED_LAYER else "warning" if mean >= ALIKE_LAYER else "good"
    evidence = {
        "cka_mean": mean,
        "rows": findings.text.rows,
        "null_quantile_95": null,
        "highest_layer": worst.layer,
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
        copied = matched is not None and matched >= SAME_WEIGHTS
        also = ": their weights are the same, up to the order of hidden units" if copied else ""
        sentences.append(
            Sentence(
                text=f"Experts {pair.name} compute one and the same thing "
                f"(CKA {pair.cka:.2f}){also}. One of them is wasted.",
                tone="bad",
                evidence={
                    "layer": pair.layer.layer,
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


def _alike(alike: list[_Pair], same: list[_Pair], pairs: list[_Pair]) -> list[Sentence]:
    if not pairs:
        return []
    top = max(pairs, key=lambda pair: pair.cka)
    evidence: dict[str, float | int | str | list[int] | None] = {
        "pairs": len(pairs),
        "alike": len(alike),
        "most_alike_layer": top.layer.layer,
        "most_alike": [top.i, top.j],
        "most_alike_cka": top.cka,
    }
    if not alike:
        return [
            Sentence(
                text=f"No pair reaches {ALIKE_PAIR}; the most alike are experts {top.name} with "
                f"{top.cka:.2f}.",
                tone="good",
                evidence=evidence,
            )
        ]
    rest = alike[len(same) :]
    if not rest:
        return []
    return [
        Sentence(
            text=f"{count(len(rest), 'pair', 'pairs')} of {len(pairs)} "
            f"{'is' if len(rest) == 1 else 'are'} alike (CKA {ALIKE_PAIR} and more): experts "
            + named([f"{pair.name} ({pair.cka:.2f})" for pair in rest])
            + ".",
            tone="warning" if len(rest) > MANY_PAIRS * len(pairs) else "note",
            evidence=evidence,
        )
    ]


def _dead(findings: Findings, dead: list[tuple[int, int]]) -> list[Sentence]:
    if not dead:
        return []
    share = findings.settings.dead_below
    return [
        Sentence(
            text=f"{count(len(dead), 'expert is', 'experts are')} dead, with less than {share:.0%}"
            " of a fair load: "
            + named([f"expert {expert} of layer {layer}" for layer, expert in dead])
            + ".",
            tone="bad",
            evidence={
                "dead": len(dead),
                "layers": [layer for layer, _ in dead],
                "experts": [expert for _, expert in dead],
            },
        )
    ]


def _undefined(findings: Findings) -> list[Sentence]:
    silent = [
        (layer.layer, expert)
        for layer in findings.layers
        for expert in range(layer.experts)
        if layer.cka[expert][expert] is None
    ]
    if not silent:
        return []
    names = named([f"expert {expert} of layer {layer}" for layer, expert in silent])
    return [
        Sentence(
            text=f"Undefined for {names}: the output is the same for every token (or not finite), "
            "so similarity to it means nothing.",
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
