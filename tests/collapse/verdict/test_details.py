"""Sentences of a verdict: their words and their evidence follow the numbers."""

from __future__ import annotations

import pytest

from simsmoe_cli.collapse.findings import Estimate, Findings
from simsmoe_cli.collapse.verdict.judge import judge
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
    assert "Two experts of a layer have a mean CKA of 0.15" in first.text
    assert "highest in layer 1, 0.22 (95% interval 0.21 to 0.23)" in first.text
    assert "the lowest is 0.11" in first.text
    assert first.evidence["highest_layer"] == 1
    assert first.evidence["highest_mean"] == 0.22
    assert first.evidence["lowest_mean"] == 0.11
    assert first.evidence["cka_mean"] == pytest.approx(0.15)
    assert first.evidence["rows"] == 1024


@pytest.mark.parametrize(
    ("apart", "cosine", "words"),
    [
        (0.02, 1.0, "are duplicates: their outputs differ by 2.0% of their size"),
        (1.3, 0.1, "rotation and scale (CKA 0.99); their outputs differ by 130% of their size"),
        (0.63, 1.0, "rotation and scale (CKA 0.99); their outputs point the same way"),
    ],
)
def test_a_copy_a_rotated_copy_and_a_scaled_copy_are_told_apart(
    base: Findings, apart: float, cosine: float, words: str
) -> None:
    """CKA is near 1 for all of them. A copy of twice the size differs by 1 / sqrt(5 / 2)."""
    matrices = {
        name: [[value if i != j else same for j in range(EXPERTS)] for i in range(EXPERTS)]
        for name, value, same in (("apart", apart, 0.0), ("cosine", cosine, 1.0))
    }
    found = varied(base, *[0.01] * LAYERS, spread=0.98, **matrices)
    verdict = judge(found)
    assert words in " ".join(s.text for s in verdict.sentences)
    assert ("4 pairs are duplicates" in verdict.headline) == (apart < 0.1)
    assert ("nearly the same representation" in verdict.headline) == (apart > 0.1)


def test_a_correlation_that_chance_alone_gives_is_not_mentioned(base: Findings) -> None:
    few = Estimate(value=0.8, low=0.1, high=1, n=6, of="pairs", null_low=-0.9, null_high=0.9)
    overall = base.overall.model_copy(update={"spearman": few})
    found = base.model_copy(update={"overall": overall})
    assert not [s for s in judge(found).sentences if "share" in s.text and "Spearman" in s.text]


def test_another_run_is_compared_by_intervals(base: Findings) -> None:
    ours, theirs = varied(base, 0.1, 0.1, 0.1, 0.1), varied(base, 0.3, 0.3, 0.3, 0.1)
    named = theirs.subject.model_copy(update={"name": "plain"})
    theirs = theirs.model_copy(update={"subject": named})
    less = sentence(ours, "less similar than those of plain", theirs)
    assert less.tone == "good"
    assert less.evidence["layers_apart"] == 3
    assert "0.10 against 0.25" in less.text
    assert "that of plain 0.25" in judge(ours, theirs).headline
    assert sentence(theirs, "more similar than", ours).tone == "note"
    assert sentence(ours, "about as similar as", ours).evidence["layers_apart"] == 0


def test_other_text_is_a_warning(base: Findings) -> None:
    text = base.text.model_copy(update={"split": "test"})
    theirs = base.model_copy(update={"text": text})
    assert sentence(base, "measured on other text", theirs).tone == "warning"
