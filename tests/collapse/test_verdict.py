"""The verdict: its level from its thresholds, its sentences from the numbers."""

from __future__ import annotations

from typing import Any

import pytest

from simsmoe_cli.collapse.findings import Estimate, Findings
from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.report import Sentence
from simsmoe_cli.collapse.verdict import judge
from tests.collapse.planted import EXPERTS, QUICK, Planted

LAYERS = 4


@pytest.fixture(scope="module")
def base() -> Findings:
    return measure(Planted(LAYERS), QUICK)


def alike(base: Findings, *means: float, spread: float = 0.0, **changes: Any) -> Findings:
    """The findings with every pair of each layer at a mean, intervals of 0.02 around it."""
    layers = []
    for layer, mean in zip(base.layers, means, strict=True):
        cka = [
            [1.0 if i == j else mean + spread * (i + j == 1) for j in range(EXPERTS)]
            for i in range(EXPERTS)
        ]
        low, high = ([[value + shift for value in row] for row in cka] for shift in (-0.01, 0.01))
        estimate = layer.cka_mean.model_copy(
            update={"value": mean, "low": mean - 0.01, "high": mean + 0.01}
        )
        fields = {"cka": cka, "cka_low": low, "cka_high": high, "cka_mean": estimate}
        layers.append(layer.model_copy(update=fields | changes))
    overall = base.overall.model_copy(update={"cka_mean": sum(means) / len(means)})
    return base.model_copy(update={"layers": layers, "overall": overall})


def sentence(findings: Findings, words: str, against: Findings | None = None) -> Sentence:
    (found,) = [s for s in judge(findings, against).sentences if words in s.text]
    return found


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
    assert judge(alike(base, *means)).level == level


def test_one_pair_alike_among_many_is_no_collapse_and_is_named(base: Findings) -> None:
    found = alike(base, 0.1, 0.1, 0.1, 0.1, spread=0.0)
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
    found = alike(base, 0.1, 0.1, 0.1, 0.1, spread=0.88, cka_low=unsure)
    verdict = judge(found)
    assert verdict.level == "undefined"
    assert verdict.headline == "Undecided: 4 pairs may be similar or not."
    assert all("nearly the same" not in s.text for s in verdict.sentences)
    assert all("No pair has" not in s.text for s in verdict.sentences)
    assert sentence(found, "whether they are similar is not known").evidence["pairs"] == 4


def test_copies_make_it_partly_alike_however_few(base: Findings) -> None:
    found = alike(base, 0.01, 0.01, 0.01, 0.01, spread=0.98)
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


def test_long_lists_are_cut_and_counted(base: Findings) -> None:
    found = alike(base, 0.1, 0.1, 0.1, 0.1, dead=[0, 1, 3])
    named = sentence(found, "12 experts are dead")
    assert named.text.endswith("and 9 more.")
    assert len(named.evidence["experts"]) == 12  # type: ignore[arg-type]
    assert judge(found).level == "partly alike"


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


def test_uneven_load_and_odd_routing_are_said(base: Findings) -> None:
    most = base.layers[0].entropy_max_nats
    found = alike(
        base,
        *[0.1] * LAYERS,
        load_cv=1.7,
        entropy_nats=0.97 * most,
        entropy_of_mean_nats=0.3 * most,
    )
    assert sentence(found, "load is uneven in 4 layers").evidence["load_cv"] == 1.7
    assert sentence(found, "hardly decides").evidence["entropy_nats"] == 0.97 * most
    assert sentence(found, "uses few experts").evidence["entropy_nats"] == 0.3 * most
    quiet = judge(alike(base, *[0.1] * LAYERS, load_cv=0.5, entropy_nats=0.5 * most))
    assert all("uneven" not in s.text and "hardly" not in s.text for s in quiet.sentences)


@pytest.mark.parametrize(
    ("value", "low", "words"),
    [
        (0.9, 0.8, "share more tokens are more similar"),
        (-0.9, -0.95, "share more tokens are less similar"),
        (0.1, -0.2, "says nothing about how similar"),
        (0.4, -0.02, "says little about how similar"),
    ],
)
def test_sharing_is_told_against_its_null_and_zero(
    base: Findings, value: float, low: float, words: str
) -> None:
    bounds = {"low": low, "high": low + 0.6 if low > -0.5 else -0.8}
    spearman = Estimate(value=value, **bounds, n=40, of="pairs", null_low=-0.3, null_high=0.3)
    overall = base.overall.model_copy(update={"spearman": spearman})
    found = sentence(base.model_copy(update={"overall": overall}), words)
    assert found.evidence["spearman"] == value
    assert "40 pairs" in found.text


def test_a_likeness_hidden_by_single_rows_is_noted(base: Findings) -> None:
    rbf = [[0.8] * EXPERTS for _ in range(EXPERTS)]
    found = sentence(alike(base, *[0.05] * LAYERS, cka_rbf=rbf), "Single tokens")
    assert found.evidence["pairs"] == 4 * 10


def test_another_run_is_compared_by_intervals(base: Findings) -> None:
    ours, theirs = alike(base, 0.1, 0.1, 0.1, 0.1), alike(base, 0.3, 0.3, 0.3, 0.1)
    named = theirs.subject.model_copy(update={"name": "plain"})
    theirs = theirs.model_copy(update={"subject": named})
    less = sentence(ours, "less similar than those of plain", theirs)
    assert less.tone == "good"
    assert less.evidence["layers_apart"] == 3
    assert "0.10 against 0.25" in less.text
    assert sentence(theirs, "more similar than", ours).tone == "note"
    assert sentence(ours, "about as similar as", ours).evidence["layers_apart"] == 0
    assert "BPC" in sentence(ours, "predicts this text", theirs).text


def test_other_text_is_a_warning(base: Findings) -> None:
    text = base.text.model_copy(update={"split": "test"})
    theirs = base.model_copy(update={"text": text})
    assert sentence(base, "measured on other text", theirs).tone == "warning"


def test_notes_on_the_text_are_repeated(base: Findings) -> None:
    text = base.text.model_copy(update={"notes": ["this is a prefix of enwik8"]})
    found = sentence(base.model_copy(update={"text": text}), "prefix of enwik8")
    assert found.text == "this is a prefix of enwik8."


def test_each_number_in_the_first_sentence_is_in_its_evidence(base: Findings) -> None:
    found = alike(base, 0.11, 0.22, 0.13, 0.14)
    first = judge(found).sentences[0]
    assert "the mean CKA of two experts is 0.15 (debiased" in first.text
    assert "Layer 1 has the highest mean, 0.22 (95% interval 0.21 to 0.23)" in first.text
    assert "the lowest is 0.11" in first.text
    assert first.evidence["highest_layer"] == 1
    assert first.evidence["highest_mean"] == 0.22
    assert first.evidence["lowest_mean"] == 0.11
    assert first.evidence["cka_mean"] == pytest.approx(0.15)
    assert first.evidence["rows"] == 1024
