"""Words that page and terminal share: the model and text, the first numbers, the glossary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.pairs import SAME_OUTPUT, most_similar
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.format import (
    label_at,
    labels,
    number,
    of_text,
    origin,
    percent,
    score_of,
    scored_unit,
)

TONES = {"healthy": "good", "partly alike": "warning", "collapsed": "bad", "undefined": "warning"}
SIGNS = {"good": "✓", "note": "·", "warning": "!", "bad": "✕"}


def about(report: Report) -> str:
    """Which weights were measured, and on which text."""
    subject, text = report.main.subject, report.main.text
    step = "" if subject.step is None else f", step {subject.step:,}"
    return (
        f"{subject.recipe}, router {subject.router}, similarity learning {subject.similarity}, "
        f"{subject.parameters:,} parameters{step}. Measured on {text.rows:,} {text.unit}s of "
        f"{origin(text)}."
    )


@dataclass(frozen=True)
class Value:
    """A number of one run.

    Attributes:
        value: None where it is undefined.
        text: how it is shown.
        note: a few words beside it.
    """

    value: float | None
    text: str
    note: str = ""

    @classmethod
    def of(cls, value: float | None, digits: int, note: str = "") -> Value:
        """A number with so many decimals."""
        return cls(value, number(value, digits), note)


@dataclass(frozen=True)
class Tile:
    """One of the numbers to see first: its name, and the value of each run by the run's name."""

    label: str
    values: tuple[tuple[str, Value], ...]


def tiles(main: Findings, against: Findings | None) -> list[Tile]:
    """The most important numbers of one run or of two."""
    names = labels(main.subject, against.subject if against else None)
    runs = list(zip(names, (main, against), strict=True))
    score_name, field, digits = score_of(main.text)

    def score(found: Findings) -> Value:
        note = f"n = {found.text.scored:,} {scored_unit(found.text)}s"
        return Value.of(getattr(found.text, field), digits, note)

    def tile(label: str, of: Callable[[Findings], Value | None]) -> Tile | None:
        values = [(name, of(found)) for name, found in runs if found is not None]
        if all(value is None for _, value in values):  # measured in none of the runs
            return None
        missing = Value(None, "–", "not measured")
        return Tile(label, tuple((name, value or missing) for name, value in values))

    made = [
        tile("Mean CKA of two experts", _mean),
        tile("Most similar pair, CKA", _top),
        tile("CKA on shared tokens", _shared),
        tile("Loss without the least missed", _least_missed),
        tile("Dead experts", _dead),
        tile("Load of the busiest expert", _busiest),
        tile(score_name, score),
    ]
    return [one for one in made if one is not None]


def _mean(found: Findings) -> Value:
    known = [mean for layer in found.layers if (mean := layer.cka_mean.value) is not None]
    notes = []
    if len(known) > 1:
        notes.append(f"layers {number(min(known), 2)} to {number(max(known), 2)}")
    if 0 < len(known) < len(found.layers):
        notes.append(f"{len(known)} of {len(found.layers)} layers")
    return Value.of(found.overall.cka_mean, 3, ", ".join(notes))


def _top(found: Findings) -> Value:
    top = next(iter(most_similar(found.layers, 1)), None)
    if top is None:
        return Value.of(None, 3)
    return Value.of(top.cka, 3, f"{top.full_name}{', exact copies' if top.copies else ''}")


def _shared(found: Findings) -> Value | None:
    shared = found.overall.cka_shared
    return Value.of(shared.value, 3, f"n = {shared.n:,} pairs") if shared.n else None


def _least_missed(found: Findings) -> Value | None:
    measured = found.ablation
    least = measured.cheapest if measured else None
    if measured is None or least is None or (share := measured.share(least.change.nats)) is None:
        return None
    where = f"expert {least.expert} of layer {label_at(found, least.layer)}"
    return Value(share, f"{'+' if share > 0 else ''}{percent(share)}", where)


def _dead(found: Findings) -> Value:
    if found.dead is None and all(layer.finite for layer in found.layers):
        return Value(None, "–", "too few tokens to judge")
    return Value.of(found.dead, 0, f"of {sum(layer.experts for layer in found.layers):,}")


def _busiest(found: Findings) -> Value:
    """The largest load, in fair loads (MaxVio is 1 less)."""
    known = [
        (layer.load_max_over_mean, layer)
        for layer in found.layers
        if layer.load_max_over_mean is not None
    ]
    if not known:
        return Value.of(None, 2)
    load, layer = max(known, key=lambda one: one[0])
    return Value(load, f"{number(load, 2)}×", f"a fair load; layer {layer.label}")


def _sampled(main: Findings) -> str:
    """How many hidden units were looked up, where that is known."""
    units = [one.weight_matched_units for one in main.layers if one.weight_matched_units]
    part = min((layer.weight_matched_of_unit for layer in main.layers), default=1.0)
    of_unit = "" if part == 1 else f", by {part:.0%} of their weights"
    return f" {min(units):,} units of each expert were looked up{of_unit}." if units else ""


def _judged_on(main: Findings) -> str:
    """The routed slots that dead experts were judged on, where that is known."""
    slots = [layer.dead_slots for layer in main.layers if layer.dead_slots]
    return f", of {min(slots):,} or more slots of {main.layers[0].dead_on}" if slots else ""


def glossary(main: Findings) -> list[tuple[str, str]]:
    """What was measured and how, term by term."""
    settings, text = main.settings, main.text
    method = next(
        (layer.cka_mean.method for layer in main.layers if layer.cka_mean.method), "none computed"
    )
    correlation = main.overall.pearson.method
    return [
        (
            "Text",
            f"{text.tokens:,} {text.unit}s were read. {of_text(main)} went through every expert of "
            f"every layer shown, routed or not, computed in {settings.precision}.",
        ),
        (
            "Layer",
            "A layer is called what the model calls it: its number in the names of the model's "
            "modules. In a run of simsmoe it is the index among all sub-layers of the pattern, "
            "from 0. Experts are numbered from 0.",
        ),
        (
            "CKA",
            "Centred kernel alignment of two experts' outputs on the same rows (Kornblith 2019), "
            "linear, debiased (Song 2012), so that unrelated experts are at 0. It does not change "
            "when outputs are rotated or scaled: a CKA near 1 means nearly the same representation "
            "up to those, and not the same outputs.",
        ),
        (
            "Duplicates",
            f"Experts with equal weights, or whose outputs differ by less than {SAME_OUTPUT:.0%} "
            "of their size (root mean square of the difference over that of both; unrelated "
            "experts have 1.41).",
        ),
        (
            "Interval",
            f"{settings.level:.0%}. {method[:1].upper()}{method[1:]}. A pair has none where its "
            f"CKA is undefined in more than {(1 - settings.level) / 2:.1%} of them: a few blocks "
            "hold nearly all the variance of an expert's outputs.",
        ),
        ("Null", "The same measure with the rows of each expert shuffled apart."),
        (
            "Biased and RBF CKA",
            f"The biased estimator is what most papers use. RBF CKA has Gaussian kernels of median "
            f"width ({settings.rbf_rows:,} rows), so that no single row can dominate it.",
        ),
        (
            "Matched weights",
            "Mean over hidden units of the largest cosine with any unit of the other expert. It "
            "finds copies even where units are renumbered. Chance is its value for shuffled "
            "weights." + _sampled(main),
        ),
        ("Correlations", correlation or "Pearson and Spearman over all pairs of all layers."),
        (
            "Effective rank",
            f"exp of the entropy of the singular values divided by their sum (Roy and Vetterli "
            f"2007), of {settings.rank_rows:,} rows.",
        ),
        (
            "Dead",
            f"An expert with less than {settings.dead_below:.0%} of a fair share of tokens"
            f"{_judged_on(main)}.",
        ),
        (
            "Entropy",
            f"Of the router's softmax, in nats; ln N at most. Load and entropy are measured on all "
            f"{text.tokens:,} {text.unit}s.",
        ),
        (
            "Undefined",
            "Hatched in figures, null in the JSON, never counted as 0. CKA on shared tokens is "
            "undefined for two experts that share too few tokens; --tokens reads more.",
        ),
    ]
