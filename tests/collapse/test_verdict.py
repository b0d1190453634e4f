"""The verdict: its level from its thresholds."""

from __future__ import annotations

import pytest

from simsmoe_cli.collapse.findings import Estimate, Findings
from simsmoe_cli.collapse.verdict import judge
from tests.collapse.planted import EXPERTS
from tests.collapse.varied import sentence, varied


@pytest.mark.parametrize(
    ("means", "level"),
    [
        ((0.1, 0.1, 0.1, 0.1), "healthy"),
        ((0.1, 0.1, 0.1, 0.26), "partly alike"),
        ((0.6, 0.1, 0.1, 0.1), "partly alike"),
        ((0.6, 0.6, 0.1, 0.1), "collapsed"),
        ((0.9, 0.9, 0.9, 0.9), "collapsed"),
    ],
)
def test_the_level_follows_the_means_of_the_layers(
    base: Findings, means: tuple[float, ...], level: str
) -> None:
    assert judge(varied(base, *means)).level == level


def test_one_pair_alike_among_many_is_no_collapse_and_is_named(base: Findings) -> None:
    found = varied(base, 0.1, 0.1, 0.1, 0.1, spread=0.0)
    layer = found.layers[2]
    cka, low = ([list(row) for row in matrix] for matrix in (layer.cka, layer.cka_low))
    for matrix, value in ((cka, 0.6), (low, 0.55)):
        matrix[1][2] = matrix[2][1] = value
    layers = [*found.layers]
    layers[2] = layer.model_copy(update={"cka": cka, "cka_low": low})
    found = found.model_copy(update={"layers": layers})
    verdict = judge(found)
    assert verdict.level == "healthy"
    named = sentence(found, "1 and 2 of layer 2 (0.60)")
    assert named.evidence["alike"] == 1
    assert named.evidence["most_alike_cka"] == 0.6


def test_a_pair_whose_interval_reaches_the_null_is_called_neither_alike_nor_healthy(
    base: Findings,
) -> None:
    unsure = [[-0.1] * EXPERTS for _ in range(EXPERTS)]
    found = varied(base, 0.1, 0.1, 0.1, 0.1, spread=0.88, cka_low=unsure)
    verdict = judge(found)
    assert verdict.level == "undefined"
    assert verdict.headline == "Undecided: 4 pairs may be similar or not."
    assert all("nearly the same" not in s.text for s in verdict.sentences)
    assert all("No pair has" not in s.text for s in verdict.sentences)
    assert sentence(found, "whether they are similar is not known").evidence["pairs"] == 4


def test_copies_make_it_partly_alike_however_few(base: Findings) -> None:
    found = varied(base, 0.01, 0.01, 0.01, 0.01, spread=0.98)
    verdict = judge(found)
    assert verdict.level == "partly alike"
    assert "4 pairs have nearly the same representation" in verdict.headline
    assert (
        sum(
            "nearly the same representation up to rotation and scale" in s.text
            for s in verdict.sentences
        )
        == 3
    )
    assert sentence(found, "holds for 1 more pair").evidence["pairs"] == 4


def test_nothing_defined_is_said_and_not_called_healthy(base: Findings) -> None:
    nothing = [[None] * EXPERTS for _ in range(EXPERTS)]
    silent = Estimate(value=None, n=0, of="pairs")
    layers = [
        layer.model_copy(update={"cka": nothing, "cka_mean": silent}) for layer in base.layers
    ]
    overall = base.overall.model_copy(update={"cka_mean": None})
    verdict = judge(base.model_copy(update={"layers": layers, "overall": overall}))
    assert verdict.level == "undefined"
    assert any("undefined for" in s.text and "17 more" in s.text for s in verdict.sentences)


def test_notes_on_the_text_are_repeated(base: Findings) -> None:
    text = base.text.model_copy(update={"notes": ["this is a prefix of enwik8"]})
    found = sentence(base.model_copy(update={"text": text}), "prefix of enwik8")
    assert found.text == "this is a prefix of enwik8."
