"""Numbers and names as people see them: the same words in HTML, figures and terminal."""

from __future__ import annotations

from collections.abc import Sequence

from simsmoe_cli.collapse.findings import Estimate, Findings
from simsmoe_cli.collapse.subject import Subject, Text
from simsmoe_cli.errors import printable
from simsmoe_cli.run.score import Scoring

UNDEFINED = "undefined"
NAMED = 3  # experts, layers or pairs that a sentence names
NAME = 28  # letters of a run's or a layer's name
NO_POWER = 0.5  # if chance alone reaches further, a correlation says nothing
LARGE = 1e9  # numbers from here on are shown with an exponent


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, a large one with an exponent; "undefined" for None."""
    if value is None:
        return UNDEFINED
    if abs(value) >= LARGE:
        return f"{value:.{digits}e}"
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def percent(value: float | None) -> str:
    """A share or a relative change with two digits that count: "12%", "1.2%", "0.012%"."""
    if value is None:
        return UNDEFINED
    digits = 0 if abs(value) >= 0.0995 else 1 if abs(value) >= 0.00995 else 2
    return f"{number(100 * value, digits)}%"


def labels(subject: Subject, against: Subject | None) -> tuple[str, str]:
    """Short names of the two runs, told apart where they are equal."""
    first = printable(subject.name, NAME)
    if against is None:
        return first, ""
    second = printable(against.name, NAME)
    return first, second if second != first else f"{second} (against)"


def label_at(findings: Findings, index: int) -> str:
    """What the model calls the layer with this index among those with experts."""
    layer = findings.layer_at(index)
    return layer.label if layer else str(index)


def interval(estimate: Estimate, level: float, digits: int = 3) -> str:
    """The interval in words, or words that say that there is no interval."""
    if estimate.low is None or estimate.high is None:
        return f"no {level:.0%} interval"
    return f"{level:.0%} interval {number(estimate.low, digits)} to {number(estimate.high, digits)}"


def says_nothing(estimate: Estimate) -> bool:
    """Whether a correlation is undefined, or of so few things that even a strong one would not
    stand out from chance."""
    low, high = estimate.null_low, estimate.null_high
    return estimate.value is None or (
        low is not None and high is not None and (low < -NO_POWER or high > NO_POWER)
    )


def null(estimate: Estimate, digits: int = 3) -> str:
    """The null in words: the number if nothing were related."""
    if estimate.null_low is not None and estimate.null_high is not None:
        low, high = number(estimate.null_low, digits), number(estimate.null_high, digits)
        return f"null, 95% within {low} to {high}"
    if estimate.null_high is not None:
        return f"null, 95% below {number(estimate.null_high, digits)}"
    return "no null" if estimate.null_mean is None else f"null {number(estimate.null_mean, digits)}"


def worth(estimate: Estimate, level: float, digits: int = 3) -> str:
    """A correlation's value, interval, null and n in one phrase; "" if it says nothing."""
    if says_nothing(estimate):
        return ""
    return (
        f"{number(estimate.value, digits)} (n = {estimate.n:,} {estimate.of}; "
        f"{interval(estimate, level, digits)}; {null(estimate, digits)})"
    )


def per_run(parts: Sequence[tuple[str, str]]) -> str:
    """Statements about each run, each with the run's name if there are two."""
    if len(parts) == 1:
        return f"{parts[0][1][:1].upper()}{parts[0][1][1:]}."
    return " ".join(f"{name}: {text}." for name, text in parts)


def score_of(text: Text) -> tuple[str, str, int]:
    """How well the model did: the score's name, its field, and decimals to show."""
    return {
        "accuracy": ("Accuracy", "accuracy", 4),
        "bits": ("Bits per character", "bpc", 4),
        "nats": ("Perplexity", "perplexity", 2),
    }[_scoring(text).measure]


def scored_unit(text: Text) -> str:
    """The unit of one prediction: a kind of token, or a text."""
    return _scoring(text).unit


def _scoring(text: Text) -> Scoring:
    return Scoring.of_scores(text.unit, [text])


def origin(text: Text) -> str:
    """The origin of the text: corpus and split, or a file."""
    return text.corpus if text.split == "text" else f"{text.corpus} {text.split}"


def of_text(findings: Findings) -> str:
    """The tokens that similarity was measured on."""
    text = findings.text
    return f"{text.rows:,} {text.unit}s of {origin(text)}"


def of_all_text(findings: Findings) -> str:
    """The tokens that routing, load and loss were measured on."""
    text = findings.text
    return f"{text.tokens:,} {text.unit}s of {origin(text)}"


def count(number: int, one: str, many: str) -> str:
    """ "1 pair", "2 pairs"."""
    return f"{number:,} {one if number == 1 else many}"


def every(names: Sequence[object]) -> str:
    """The names in words, "2, 5 and 7"; of more than eight names only the first eight."""
    shown = [str(name) for name in names[:8]]
    if len(names) > len(shown):
        return f"{', '.join(shown)} and {len(names) - len(shown):,} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]
