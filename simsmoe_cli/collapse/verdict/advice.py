"""The third sentence of a verdict: what to do next."""

from __future__ import annotations

import math

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.pairs import SIMILAR_LAYER
from simsmoe_cli.collapse.show.format import labels
from simsmoe_cli.collapse.subject import Subject
from simsmoe_cli.collapse.verdict.doubts import few_rows, hard_text, non_finite, wasted_copies
from simsmoe_cli.recipe import schedule
from simsmoe_cli.registry import ROUTERS

MANY_UNNEEDED = 0.125  # of all experts: from here on, fewer experts may do


def advice(findings: Findings, against: Findings | None, level: str) -> str:
    """One thing to do next, with its setting or command.

    Args:
        findings: the run.
        against: another that it is compared with.
        level: of the verdict.
    """
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
    spare = findings.ablation.unneeded if findings.ablation else None
    experts = sum(layer.experts for layer in findings.layers)
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
