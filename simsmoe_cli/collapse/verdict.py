"""The verdict in three sentences: are the experts similar, what would it cost to do without one,
and what to do next. `judge` decides; `verdict_details.py` says everything else that was found.

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
  that count as similar (`verdict_doubts.py`).

Untrained experts are similar as well (0.8 to 0.9 was measured: all of them see the same input), so
a verdict on the first steps of a run says little.
"""

from __future__ import annotations

import math
import statistics

from simsmoe_cli.collapse.ablation import Ablation, LeftOut
from simsmoe_cli.collapse.findings import Findings, LayerFindings
from simsmoe_cli.collapse.pairs import COLLAPSED_LAYER, SIMILAR_LAYER, SortedPairs
from simsmoe_cli.collapse.report import Verdict
from simsmoe_cli.collapse.show.format import count, label_at, labels, number, percent
from simsmoe_cli.collapse.subject import Subject
from simsmoe_cli.collapse.verdict_details import details
from simsmoe_cli.collapse.verdict_doubts import (
    few_rows,
    hard_text,
    non_finite,
    unknown,
    wasted_copies,
)
from simsmoe_cli.recipe import schedule
from simsmoe_cli.registry import ROUTERS

NEAR_ZERO = 0.005
MANY_UNNEEDED = 0.125  # of all experts: from here on, fewer experts may do


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
            "advice": _advice(findings, against, level),
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
    if _unneeded(findings) == 0:
        words = f"Every expert is missed: without the least missed, {who}"
    elif _missed(least):
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


def _missed(one: LeftOut) -> bool:
    """Whether the loss rises without an expert, by its interval; by its value where it has none."""
    lowest = one.change.nats if one.change.low is None else one.change.low
    return lowest is not None and lowest > 0


def _unneeded(findings: Findings) -> int | None:
    """How many experts could be left out, one at a time, without a measurable rise of the loss;
    None where that was not measured."""
    if findings.ablation is None:
        return None
    measured = [one for one in findings.ablation.left_out if one.change.nats is not None]
    return sum(not _missed(one) for one in measured)


# What to do next


def _advice(findings: Findings, against: Findings | None, level: str) -> str:
    """One thing to do next, with its setting or command."""
    subject, text = findings.subject, findings.text
    is_run = subject.kind == "run"
    if non_finite(findings):
        earlier = (
            "an earlier checkpoint (`--checkpoint STEP`)" if is_run else "the original weights"
        )
        return f"Find out where it began: measure {earlier}."
    if few_rows(findings):
        return "Measure it on more text: `--tokens 4096`."
    if hard_text(findings) and level != "collapsed":
        return (
            "Train it further before judging its experts."
            if is_run
            else "Measure it on text like that of its training: `--text FILE`."
        )
    if wasted_copies(findings):
        return (
            "Let the copies part: train on, or upcycle with `--drop-ratio 0.5`, which makes "
            "experts differ from the start."
        )
    similar = level == "collapsed" or any(
        (layer.cka_mean.value or 0) >= SIMILAR_LAYER for layer in findings.layers
    )
    if findings.dead and not similar:
        return f"Even out the load: {_evener(subject)}."
    spare, experts = _unneeded(findings), sum(layer.experts for layer in findings.layers)
    if (similar or level == "partly alike") and spare == 0:
        return (
            "Nothing has to change for this text: every expert is missed when it is left out. "
            "`--similarity calibrated` would make them differ more."
        )
    if (
        (similar or level == "partly alike")
        and against is not None
        and _differ_more(against, findings)
    ):
        name = labels(subject, against.subject)[1]
        return (
            f"Take the settings of {name} (`--similarity {against.subject.similarity}`), whose "
            "experts differ more, if its score is as good."
        )
    if similar or level == "partly alike":
        return _against_similarity(subject)
    if level == "undefined" and all(layer.experts < 2 for layer in findings.layers):
        return "A layer needs two experts to compare."
    if level == "undefined":
        return f"Measure it on more text: `--tokens {4 * text.rows}`."
    if spare is not None and spare >= MANY_UNNEEDED * experts:
        what = "Try fewer experts (`--set moe.experts=N`)" if _ours(subject) else "Train it on"
        return (
            f"{what}: {spare} of {experts} can be left out, one at a time, without a measurable "
            "loss."
        )
    if against is not None:
        return "Nothing has to change."
    return "Nothing has to change; `--against RUN` compares it with another run."


def _differ_more(against: Findings, findings: Findings) -> bool:
    """Whether another run's similarity learning made its experts less similar."""
    mean, other = findings.overall.cka_mean, against.overall.cka_mean
    learned = against.subject.similarity not in ("none", findings.subject.similarity)
    return learned and mean is not None and other is not None and other < mean


def _ours(subject: Subject) -> bool:
    """Whether the model is built from a recipe, so that its router and experts can be chosen."""
    folder = subject.settings.get("huggingface")
    return subject.kind == "run" and not (isinstance(folder, dict) and folder.get("folder"))


def _evener(subject: Subject) -> str:
    """What evens out the load of a model's experts."""
    if subject.kind != "run":
        return "train it on, `simsmoe pretrain --from FOLDER --set moe.balance_weight=0.03`"
    if subject.router == "loss-free":
        gamma = _setting(subject, "loss_free", "gamma", 0.001)
        return f"let biases move faster, `--set loss_free.gamma={2 * gamma:g}`"
    row = ROUTERS.get(subject.router)
    if _ours(subject) and row is not None and not row.balance_loss:
        return "`--router loss-free`"
    own = 0.3 if subject.router == "stablemoe" else 0.01  # what "auto" is
    now = _setting(subject, "moe", "balance_weight", own)
    weight = f"a larger `--set moe.balance_weight={max(0.03, 3 * now):g}`"
    return f"`--router loss-free`, or {weight}" if _ours(subject) else weight


def _setting(subject: Subject, section: str, name: str, otherwise: float) -> float:
    """A number of a run's recipe; the other one where it is not a number."""
    found = subject.settings.get(section)
    value = found.get(name) if isinstance(found, dict) else None
    return float(value) if isinstance(value, int | float) else otherwise


def _begins_later(subject: Subject) -> bool:
    """Whether the weight of similarity learning is still 0 at the step that was measured."""
    learning, train = subject.settings.get("similarity"), subject.settings.get("train")
    weight = learning.get("weight") if isinstance(learning, dict) else None
    steps = train.get("steps") if isinstance(train, dict) else None
    if not isinstance(weight, list) or schedule.fault(weight, 0, math.inf):
        return False
    if subject.step is None or not isinstance(steps, int) or steps < 1:
        return False
    begins = [share for share, value in weight if value > 0]
    return schedule.value_at(weight, subject.step / steps) == 0 and (
        bool(begins) and subject.step / steps < begins[-1]
    )


def _against_similarity(subject: Subject) -> str:
    """How to make experts differ, for a run or a model of Hugging Face."""
    preset, recipe, is_run = subject.similarity, subject.settings, subject.kind == "run"
    if not is_run:
        return (
            "Train it on with similarity learning: `simsmoe pretrain --from FOLDER`, or "
            "`simsmoe.attach` in a training loop of your own."
        )
    if preset != "calibrated":
        return (
            "Train with `--similarity calibrated`, which keeps experts different, and compare: "
            "`simsmoe collapse-report NEW --against OLD`."
        )
    if _begins_later(subject):
        return (
            f"Similarity learning had not begun at step {subject.step:,}: measure a later "
            "checkpoint (`--checkpoint last`)."
        )
    learning = recipe.get("similarity")
    weight = learning.get("weight") if isinstance(learning, dict) else None
    return (
        f"Similarity learning is on: train longer, or raise its weight "
        f"(`--set {_doubled(weight)}`)."
    )


def _doubled(weight: object) -> str:
    """The setting of twice a weight, which may be a schedule."""
    name = "similarity.weight"
    if isinstance(weight, float) and weight > 0:
        return f"{name}={2 * weight:g}"
    if isinstance(weight, list) and not schedule.fault(weight, 0, math.inf):
        points = ", ".join(f"[{share:g}, {2 * value:g}]" for share, value in weight)
        return f"'{name}=[{points}]'"
    return name
