"""Words that page and terminal share: the model and text, the first numbers, the glossary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.pairs import most_similar
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.format import (
    NAME,
    interval,
    labels,
    number,
    of_text,
    origin,
    score_of,
    scored_unit,
)
from simsmoe_cli.errors import printable

TONES = {"healthy": "good", "partly alike": "warning", "collapsed": "bad", "undefined": "warning"}
SIGNS = {"good": "✓", "note": "·", "warning": "!", "bad": "✕"}


def about(report: Report) -> str:
    """Which weights were measured, and on which text."""
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


@dataclass(frozen=True)
class Tile:
    """One of the numbers to see first.

    Attributes:
        label: what it is.
        value: None where it is undefined.
        digits: decimals to show.
        below: what stands below it.
    """

    label: str
    value: float | None
    digits: int
    below: str

    @property
    def text(self) -> str:
        return number(self.value, self.digits)


def tiles(main: Findings, against: Findings | None) -> list[Tile]:
    """The most important numbers, each with the value of the other run or a short note."""
    name = labels(main.subject, against.subject)[1] if against else ""
    score_name, field, score_digits = score_of(main.text)

    def tile(label: str, of: Callable[[Findings], float | None], digits: int, below: str) -> Tile:
        beside = f"{name}: {number(of(against), digits)}" if against else below
        return Tile(label, of(main), digits, beside)

    highest, top = main.highest, next(iter(most_similar(main.layers, 1)), None)
    means = [layer.cka_mean for layer in main.layers if layer.cka_mean.value is not None]
    loads = sum(layer.load_cv is not None for layer in main.layers)
    experts = sum(layer.experts for layer in main.layers)
    return [
        tile(
            f"Mean CKA of {_layers(main, len(means))}",
            lambda found: found.overall.cka_mean,
            3,
            f"n = {sum(mean.n for mean in means):,} pairs",
        ),
        Tile("Highest layer", None, 3, "")
        if highest is None
        else Tile(
            f"Highest: layer {printable(highest.label, NAME)}",
            highest.cka_mean.value,
            3,
            interval(highest.cka_mean, main.settings.level),
        ),
        Tile("Most similar pair", None, 3, "")
        if top is None
        else Tile("Most similar pair", top.cka, 3, f"experts {top.full_name}"),
        Tile("Dead experts", main.dead, 0, f"of {experts:,}"),
        tile(
            f"Load CV, mean of {_layers(main, loads)}", lambda found: found.load_cv, 3, "0 is even"
        ),
        tile(
            score_name,
            lambda found: getattr(found.text, field),
            score_digits,
            f"n = {main.text.scored:,} {scored_unit(main.text)}s",
        ),
    ]


def _layers(main: Findings, known: int) -> str:
    """The number of layers in a mean, which leaves out layers with an undefined value."""
    layers = len(main.layers)
    return "all layers" if known == layers else f"{known} of {layers} layers"


def _sampled(main: Findings) -> str:
    """How many hidden units were looked up, where that is known."""
    units = [one.weight_matched_units for one in main.layers if one.weight_matched_units]
    part = min((layer.weight_matched_of_unit for layer in main.layers), default=1.0)
    of_unit = "" if part == 1 else f", by {part:.0%} of their weights"
    return f" {min(units):,} units of each expert were looked up{of_unit}." if units else ""


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
            f"{of_text(main)} went through every expert of every layer shown, routed or not, "
            f"computed in {settings.precision}.",
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
            "Interval",
            f"{settings.level:.0%}. {method[:1].upper()}{method[1:]}.",
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
        ("Dead", f"An expert with less than {settings.dead_below:.0%} of a fair share of tokens."),
        (
            "Entropy",
            f"Of the router's softmax, in nats; ln N at most. Load and entropy are measured on all "
            f"{text.tokens:,} {text.unit}s.",
        ),
        ("Undefined", "Hatched in figures, null in the JSON, never counted as 0."),
    ]
