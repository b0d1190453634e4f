"""Sentences of a verdict: their words and their evidence follow the numbers."""

from __future__ import annotations

import pytest

from simsmoe_cli.collapse.findings import Estimate, Findings
from simsmoe_cli.collapse.verdict import judge
from tests.collapse.planted import EXPERTS
from tests.collapse.varied import LAYERS, sentence, varied


def test_long_lists_are_cut_and_counted(base: Findings) -> None:
    found = varied(base, 0.1, 0.1, 0.1, 0.1, dead=[0, 1, 3])
    named = sentence(found, "12 experts are dead")
    assert named.text.endswith("and 9 more.")
    assert len(named.evidence["experts"]) == 12  # type: ignore[arg-type]
    assert judge(found).level == "partly alike"


def test_uneven_load_and_odd_routing_are_said(base: Findings) -> None:
    most = base.layers[0].entropy_max_nats
    found = varied(
        base,
        *[0.1] * LAYERS,
        load_cv=1.7,
        entropy_nats=0.97 * most,
        entropy_of_mean_nats=0.3 * most,
    )
    assert sentence(found, "load is uneven in 4 layers").evidence["load_cv"] == 1.7
    assert sentence(found, "hardly decides").evidence["entropy_nats"] == 0.97 * most
    assert sentence(found, "uses few experts").evidence["entropy_nats"] == 0.3 * most
    quiet = judge(varied(base, *[0.1] * LAYERS, load_cv=0.5, entropy_nats=0.5 * most))
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
    found = sentence(varied(base, *[0.05] * LAYERS, cka_rbf=rbf), "Single tokens")
    assert found.evidence["pairs"] == 4 * 10


def test_each_number_in_the_first_sentence_is_in_its_evidence(base: Findings) -> None:
    found = varied(base, 0.11, 0.22, 0.13, 0.14)
    first = judge(found).sentences[0]
    assert "the mean CKA of two experts is 0.15 (debiased" in first.text
    assert "Layer 1 has the highest mean, 0.22 (95% interval 0.21 to 0.23)" in first.text
    assert "the lowest is 0.11" in first.text
    assert first.evidence["highest_layer"] == 1
    assert first.evidence["highest_mean"] == 0.22
    assert first.evidence["lowest_mean"] == 0.11
    assert first.evidence["cka_mean"] == pytest.approx(0.15)
    assert first.evidence["rows"] == 1024
