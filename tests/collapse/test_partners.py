"""Layers of two models with other patterns are compared by their labels."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.figures.similarity import report_figures
from simsmoe_cli.collapse.show.figures.style import place_of, subjects
from simsmoe_cli.collapse.show.tables.similarity import layers_table
from simsmoe_cli.collapse.verdict.judge import judge
from tests.collapse.reports import report


def labelled(findings: Findings, labels: Sequence[str], indices: Sequence[int]) -> Findings:
    """The findings with other labels and indices of their layers."""
    layers = [
        layer.model_copy(update={"label": label, "layer": index, "name": f"layers.{label}"})
        for layer, label, index in zip(findings.layers, labels, indices, strict=True)
    ]
    return findings.model_copy(update={"layers": layers, "difference": None})


def two(
    ours: Sequence[str], theirs: Sequence[str], at: Sequence[int] | None = None
) -> tuple[Findings, Findings]:
    made = report("plain", "other", layers=len(ours))
    other = report("x", "other", layers=len(theirs)).against
    assert other is not None
    here = labelled(made.main, ours, range(len(ours)))
    return here, labelled(other, theirs, range(len(theirs)) if at is None else at)


def partners(here: Findings, there: Findings) -> list[str | None]:
    found = [there.partner_of(layer, here) for layer in here.layers]
    return [None if layer is None else layer.label for layer in found]


def test_a_layer_s_partner_has_its_label() -> None:
    here, there = two(["1", "3", "5", "7"], ["1", "7", "13"])
    assert partners(here, there) == ["1", None, None, "7"]
    # Only layer 7 was measured: it is the fourth of one and the second of the other.
    here, there = two(["7"], ["7"], [1])
    assert partners(here, there) == ["7"]


def test_without_a_common_label_it_has_its_place() -> None:
    here, there = two(["1", "3", "5"], ["0", "2"])
    assert partners(here, there) == ["0", "2", None]


def shown(here: Findings, there: Findings) -> Report:
    return Report(findings=[here], against=there, verdict=judge(here, there))


def test_tables_and_verdict_compare_partners() -> None:
    here, there = two(["1", "3", "5", "7"], ["1", "7", "13"])
    table = layers_table(shown(here, there))
    column = next(n for n, one in enumerate(table.columns) if one.label == "mean CKA, other")
    cells = [table.columns[column].cell(layer).text for layer in here.layers]
    first, second, third, last = cells
    assert second == third == "–"
    for text, layer in ((first, there.layers[0]), (last, there.layers[1])):
        assert layer.cka_mean.value is not None
        assert float(text) == pytest.approx(layer.cka_mean.value, abs=0.006)
    said = " ".join(sentence.text for sentence in judge(here, there).sentences)
    assert "of 2 layers" in said


@pytest.mark.parametrize(
    ("ours", "theirs", "ticks"),
    [
        (["1", "3"], ["1", "3"], ["1", "3"]),
        (["1", "3", "5", "7"], ["1", "2", "7", "13"], ["1", "2", "3", "5", "7", "13"]),
        (["1", "3"], ["0", "2"], ["1", "3"]),
        (["encoder.1", "decoder.1"], ["encoder.1", "decoder.2"], ["encoder.1", "decoder.1"]),
    ],
)
def test_figures_put_partners_at_one_place(
    ours: list[str], theirs: list[str], ticks: list[str]
) -> None:
    here, there = two(ours, theirs)
    runs = subjects(here, there)
    places = {layer.label: place_of(0, layer, runs) for layer in here.layers}
    for layer in there.layers:
        partner = here.partner_of(layer, there)
        if partner is not None:
            assert place_of(1, layer, runs) == places[partner.label]
        else:
            assert place_of(1, layer, runs) not in places.values()
    drawing = next(one for one in report_figures(shown(here, there)) if one.name == "by-layer")
    words = [label.get_text() for label in drawing.figure.axes[0].get_xticklabels()]
    assert words[: len(ticks)] == ticks
