"""A report in few words, for page and terminal: what was measured, first numbers, terms."""

from __future__ import annotations

from simsmoe_cli.collapse.findings import Findings, Report
from simsmoe_cli.collapse.show import tables
from simsmoe_cli.collapse.show.format import (
    interval,
    labels,
    number,
    of_text,
    origin,
    score_of,
    scored_unit,
    short,
)

TONES = {"healthy": "good", "partly alike": "warning", "collapsed": "bad", "undefined": "warning"}
SIGNS = {"good": "✓", "note": "·", "warning": "!", "bad": "✕"}


def about(report: Report) -> str:
    """Which weights were measured, and on what."""
    subject, text = report.main.subject, report.main.text
    step = "" if subject.step is None else f", step {subject.step:,}"
    checkpoint = f" Checkpoint {subject.checkpoint}{step}." if subject.checkpoint else ""
    against = (
        f" Compared with {labels(subject, report.against.subject)[1]}." if report.against else ""
    )
    return (
        f"{subject.recipe}, router {subject.router}, similarity learning {subject.similarity}, "
        f"{subject.parameters:,} parameters.{checkpoint} {text.tokens:,} {text.unit}s of "
        f"{origin(text)} were read, and all experts saw {text.rows:,} of them.{against}"
    )


def tiles(main: Findings, against: Findings | None) -> list[tuple[str, float | None, int, str]]:
    """The numbers to see first: label, value, decimals, and what stands below."""
    means = [layer.cka_mean for layer in main.layers if layer.cka_mean.value is not None]
    highest = max(
        (layer for layer in main.layers if layer.cka_mean.value is not None),
        key=lambda layer: layer.cka_mean.value or 0,
        default=None,
    )
    top = tables.alike_pairs(main.layers, 1)
    dead = tables.dead_experts(main)
    experts = sum(layer.experts for layer in main.layers)
    loads = [layer.load_cv for layer in main.layers if layer.load_cv is not None]
    load_cv = tables.mean_of(loads)
    name = labels(main.subject, against.subject)[1] if against else ""

    def other(value: float | None, digits: int) -> str:
        return f"{name}: {number(value, digits)}" if against else ""

    score_name, field, digits = score_of(main.text)
    return [
        (
            f"Mean CKA of {_layers(main, len(means))}",
            main.overall.cka_mean,
            3,
            other(against.overall.cka_mean, 3)
            if against
            else f"n = {sum(mean.n for mean in means):,} pairs",
        ),
        (
            "Highest layer" if highest is None else f"Highest: layer {short(highest.label)}",
            highest.cka_mean.value if highest else None,
            3,
            interval(highest.cka_mean, main.settings.level) if highest else "",
        ),
        (
            "Most alike pair",
            top[0].cka if top else None,
            3,
            f"experts {top[0].name} of layer {top[0].layer.label}" if top else "",
        ),
        ("Dead experts", dead, 0, f"of {experts:,}"),
        (
            f"Load CV, mean of {_layers(main, len(loads))}",
            load_cv,
            3,
            other(tables.mean_of([layer.load_cv for layer in against.layers]), 3)
            if against
            else "0 is even",
        ),
        (
            score_name,
            getattr(main.text, field),
            digits,
            other(getattr(against.text, field), digits)
            if against
            else f"n = {main.text.scored:,} {scored_unit(main.text)}s",
        ),
    ]


def _layers(main: Findings, known: int) -> str:
    """Of how many layers a mean is: those where a value is undefined are not in it."""
    layers = len(main.layers)
    return "all layers" if known == layers else f"{known} of {layers} layers"


def _sampled(main: Findings) -> str:
    """How many hidden units were looked up, where that is known."""
    units = [one.weight_matched_units for one in main.layers if one.weight_matched_units]
    part = min((layer.weight_matched_of_unit for layer in main.layers), default=1.0)
    of_unit = "" if part == 1 else f", by {part:.0%} of their weights"
    return f" Looked up were {min(units):,} units of each expert{of_unit}." if units else ""


def glossary(main: Findings) -> list[tuple[str, str]]:
    """What was measured and how, word by word."""
    settings, text = main.settings, main.text
    method = next(
        (layer.cka_mean.method for layer in main.layers if layer.cka_mean.method), "none computed"
    )
    correlation = main.overall.pearson.method
    return [
        (
            "What went in",
            f"{of_text(main)} went through every expert of every layer shown, routed or not, "
            f"computed in {settings.precision}.",
        ),
        (
            "Layer",
            "Called what the model calls it: its number in the names of the model's modules; in a "
            "run of simsmoe, its place among all sub-layers of the pattern, from 0. Experts are "
            "numbered from 0.",
        ),
        (
            "CKA",
            "Centred kernel alignment of two experts' outputs on the same rows (Kornblith 2019), "
            "linear, debiased (Song 2012), so that unrelated experts are at 0.",
        ),
        (
            "Interval",
            f"{settings.level:.0%}. {method[:1].upper()}{method[1:]}.",
        ),
        ("Null", "The same measure with the rows of each expert shuffled apart."),
        (
            "Biased and RBF CKA",
            f"The estimator most papers use, and one with Gaussian kernels of median width "
            f"({settings.rbf_rows:,} rows) that no single row can dominate.",
        ),
        (
            "Matched weights",
            "Mean over hidden units of the largest cosine with any unit of the other expert: "
            "copies are found even where units are renumbered. Chance is that of shuffled weights."
            + _sampled(main),
        ),
        ("Correlations", correlation or "Pearson and Spearman over all pairs of all layers."),
        (
            "Effective rank",
            f"exp of the entropy of the singular values divided by their sum (Roy and Vetterli "
            f"2007), of {settings.rank_rows:,} rows.",
        ),
        ("Dead", f"An expert with less than {settings.dead_below:.0%} of a fair share of tokens."),
        (
            "Entropy",
            f"Of the router's softmax, in nats; ln N at most. Load and entropy are of all "
            f"{text.tokens:,} {text.unit}s.",
        ),
        ("Undefined", "Hatched in figures, null in the JSON, never counted as 0."),
    ]
