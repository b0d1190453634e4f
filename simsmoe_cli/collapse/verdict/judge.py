"""The verdict in three sentences: are the experts similar, what would it cost to do without one,
and what to do next (`advice.py`). `details.py` says everything else that was found.

Thresholds (`pairs.py`) are on debiased linear CKA: unrelated experts are at 0 and copies at 1.

- A layer is *similar* from a mean over its pairs of 0.25, *collapsed* from 0.5: experts of a plain
  SMoE were measured at 0.6, with calibrated similarity learning at 0.34. A layer is also
  collapsed if half of its pairs are exact copies.
- A pair is similar from 0.5, and has *nearly the same representation* from 0.95, if the lower end
  of its interval is above the null.
- The model is *collapsed* if half of its layers are; *partly alike* (shown as "Partly collapsed")
  if a layer is similar, one pair in twenty is, a pair is nearly the same or a copy, or an expert is
  dead; else *healthy*.
- It is *undefined* if a value is not finite or no pair is defined. A model that would be healthy is
  also undefined (shown as "Undecided") if the evidence is too weak: the model cannot predict the
  text, there are too few tokens, experts could not be compared, or the intervals include values
  that count as similar (`doubts.py`).

Untrained experts are similar as well (0.8 to 0.9 was measured: all of them see the same input), so
a verdict on the first steps of a run says little.
"""

from __future__ import annotations

import statistics

from simsmoe_cli.collapse.ablation import Ablation
from simsmoe_cli.collapse.findings import Findings, LayerFindings
from simsmoe_cli.collapse.pairs import COLLAPSED_LAYER, SIMILAR_LAYER, SortedPairs
from simsmoe_cli.collapse.report import Verdict
from simsmoe_cli.collapse.show.format import count, label_at, labels, number, percent
from simsmoe_cli.collapse.verdict.advice import advice
from simsmoe_cli.collapse.verdict.details import details
from simsmoe_cli.collapse.verdict.doubts import (
    few_rows,
    hard_text,
    non_finite,
    unknown,
    wasted_copies,
)

NEAR_ZERO = 0.005


def judge(findings: Findings, against: Findings | None = None) -> Verdict:
    """The verdict on a run.

    Args:
        findings: the run.
        against: another to compare it with.
    """
    pairs = SortedPairs.of(findings)
    level, headline, reservations = _level(findings, pairs)
    if level != "undefined":
        headline += _scale(findings, against)
    if reservations:
        headline += "; but " + ", and ".join(reservations)
    return Verdict.model_validate(
        {
            "level": level,
            "headline": f"{headline}.",
            "cost": _cost(findings, against),
            "advice": advice(findings, against, level),
            "sentences": details(findings, pairs, against, sure=level != "undefined"),
        }
    )


# Similar or not


def _level(findings: Findings, pairs: SortedPairs) -> tuple[str, str, list[str]]:
    """The level, the headline that says why, and reasons to doubt it."""
    layers, copies = findings.layers, wasted_copies(findings)
    dead = sum(len(layer.dead or ()) for layer in layers)
    broken, few, hard = non_finite(findings), few_rows(findings), hard_text(findings)
    reservations = [doubt[0] for doubt in (few, hard) if doubt is not None]
    collapsed = sum(_collapsed(layer) for layer in layers)
    similar = sum(
        _collapsed(layer) or (layer.cka_mean.value or 0) >= SIMILAR_LAYER for layer in layers
    )
    if broken:
        first = broken[0].text.removesuffix(".")
        return "undefined", f"Not finite: {first[:1].lower()}{first[1:]}", []
    if 2 * collapsed >= len(layers) and (copies or not few):
        what = f"the experts are similar in {collapsed} of {len(layers)} layers"
        also = f", {_copies(copies)}" if copies else ""
        return "collapsed", f"Collapsed: {what}{also}", reservations
    if not pairs.all and not copies:
        return "undefined", "Undefined: no two experts could be compared", []
    if few and not copies:
        return "undefined", "Undecided: " + "; ".join(reservations), []
    if similar or pairs.same or copies or dead or pairs.many(pairs.similar):
        reasons = _reasons(similar, len(layers), pairs, copies, dead)
        return "partly alike", f"Partly collapsed: {reasons}", reservations
    doubts = [*reservations, *unknown(findings, SIMILAR_LAYER)]
    if pairs.many(pairs.unsure):
        doubts.append(f"{count(len(pairs.unsure), 'pair', 'pairs')} may be similar or not")
    if doubts:
        return "undefined", "Undecided: " + "; ".join(doubts), []
    return "healthy", "Healthy: the experts are different and all of them work", []


def _collapsed(layer: LayerFindings) -> bool:
    mean = layer.cka_mean.value
    copied = sum(len(group.experts) * (len(group.experts) - 1) // 2 for group in layer.copies)
    return (mean is not None and mean >= COLLAPSED_LAYER) or 0 < layer.pair_count <= 2 * copied


def _copies(copies: int) -> str:
    return count(copies, "expert is an exact copy of another", "experts are exact copies of others")


def _reasons(similar: int, layers: int, pairs: SortedPairs, copies: int, dead: int) -> str:
    reasons = []
    if copies:
        reasons.append(_copies(copies))
    if similar:
        reasons.append(f"the experts are similar in {similar} of {layers} layers")
    duplicates = sum(pair.duplicate for pair in pairs.same)
    if duplicates:
        reasons.append(count(duplicates, "pair is a duplicate", "pairs are duplicates"))
    if others := len(pairs.same) - duplicates:
        have = count(others, "pair has", "pairs have")
        reasons.append(f"{have} nearly the same representation")
    elif pairs.similar and not pairs.same and not similar:
        reasons.append(f"{count(len(pairs.similar), 'pair is', 'pairs are')} similar")
    if dead:
        reasons.append(f"{count(dead, 'expert is', 'experts are')} dead")
    return ", ".join(reasons)


def _scale(findings: Findings, against: Findings | None) -> str:
    """The mean CKA beside that of another run, of copies and of unrelated experts."""
    mean, chance = findings.overall.cka_mean, findings.null_95
    if mean is None:
        return ""
    other = ""
    if against is not None:
        name = labels(findings.subject, against.subject)[1]
        other = f", that of {name} {number(against.overall.cka_mean, 2)}"
    unrelated = "about 0" if chance is None or chance < NEAR_ZERO else f"up to {chance:.2f}"
    return f" (mean CKA {number(mean, 2)}{other}; copies have 1, unrelated experts {unrelated})"


# What it would cost to do without


def _cost(findings: Findings, against: Findings | None) -> str:
    """What leaving out the most redundant expert would cost; "" where nothing was asked for."""
    measured = findings.ablation
    least = measured.cheapest if measured else None
    if measured is None or least is None:
        why = findings.ablation_refused.rstrip(".")
        return f"What an expert is worth was not measured: {why}." if why else ""
    change, who = least.change, f"expert {least.expert} of layer {label_at(findings, least.layer)}"
    between = ""
    if change.low is not None and change.high is not None:
        low, high = _part(change.low, measured), _part(change.high, measured)
        between = f" ({measured.level:.0%} interval {low} to {high})"
    if measured.unneeded == 0:
        words = f"Every expert is missed: without the least missed, {who}"
    elif least.missed:
        words = f"Without {who}, the least missed of those that get tokens"
    else:
        words = f"{who[:1].upper()}{who[1:]} would not be missed: without it"
    words += f", the loss changes by {_part(change.nats, measured)}{between}"
    costs = [one.change.nats for one in measured.left_out if one.tokens and one.change.nats]
    if len(costs) > 2:
        words += f", without a typical one by {_part(statistics.median(costs), measured)}"
    theirs = against.ablation if against else None
    if against is not None and theirs is not None and (other := theirs.cheapest) is not None:
        name = labels(findings.subject, against.subject)[1]
        words += f"; in {name} the least missed changes it by {_part(other.change.nats, theirs)}"
    return f"{words}."


def _part(nats: float | None, measured: Ablation) -> str:
    """A change of the loss as a share of the loss, in words."""
    return percent(measured.share(nats))
