"""Exact copies: a finding of their own, named first, whatever the other pairs are."""

from __future__ import annotations

from pathlib import Path

import torch

from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.tables.routing import experts_table
from simsmoe_cli.collapse.show.tables.similarity import pairs_table
from tests.collapse.chained import Chained, told
from tests.collapse.planted import QUICK


def test_experts_that_are_all_equal_are_a_collapse_and_one_group(tmp_path: Path) -> None:
    planted = Chained(2)
    for expert in range(1, 5):
        planted.copy(0, 0, expert)
        planted.copy(1, 0, expert, permuted=expert == 3)
    found, verdict = told(planted, tmp_path)
    assert [(c.experts, c.renumbered) for c in found.layers[0].copies] == [([0, 1, 2, 3, 4], False)]
    assert [(c.experts, c.renumbered) for c in found.layers[1].copies] == [([0, 1, 2, 3, 4], True)]
    assert verdict.level == "collapsed"
    assert "8 experts are exact copies of others" in verdict.headline
    assert verdict.sentences[0].text == (
        "All 5 experts of layer 1 are exact copies: their weights are equal. "
        "All but one of them are redundant."
    )
    # All pairs are at 1, and what is left of differences is rounding: nothing to correlate.
    assert not [s for s in verdict.sentences if "share tokens" in s.text]


def test_experts_of_zeros_are_copies_whose_likeness_is_undefined(tmp_path: Path) -> None:
    planted = Chained(2)
    for experts in planted.experts:
        experts.w_in.data.zero_()
        experts.w_out.data.zero_()
    found, verdict = told(planted, tmp_path)
    assert found.overall.cka_mean is None
    assert found.layers[0].weight_matched == [[None] * 5] * 5
    assert verdict.level == "collapsed"
    assert "All 5 experts of layer 1 are exact copies" in verdict.sentences[0].text


def test_copies_come_first_however_many_pairs_are_about_as_alike(tmp_path: Path) -> None:
    """Experts 1 to 9 are nearly the same; of all 36 pairs, 8 and 9 alone are exact copies."""
    planted = Chained(1, experts=10)
    for expert in range(2, 10):
        planted.copy(0, 1, expert)
        planted.experts[0].w_out.data[expert] *= 1 + 1e-6 * expert
    planted.copy(0, 8, 9)
    found, verdict = told(planted, tmp_path)
    assert [group.experts for group in found.layers[0].copies] == [[8, 9]]
    assert verdict.sentences[0].text.startswith("Experts 8 and 9 of layer 1 are exact copies")
    assert verdict.sentences[0].evidence["experts"] == [8, 9]
    assert "1 expert is an exact copy of another" in verdict.headline
    assert any(
        sentence.text == "32 more pairs have a CKA of 0.95 or more."
        for sentence in verdict.sentences
    )
    table = pairs_table(Report(findings=[found], against=None, verdict=verdict))
    assert [cell.text for cell in table.rows[0][:3]] == ["1", "8 and 9", "equal"]
    assert {row[2].text for row in table.rows[1:]} == {"different"}
    states = experts_table(Report(findings=[found], against=None, verdict=verdict)).rows
    assert [row[3].text for row in states[7:]] == ["not judged", "copy of 9", "copy of 8"]


def test_several_groups_of_copies_are_told_the_largest_first(tmp_path: Path) -> None:
    planted = Chained(2, experts=12)
    for source, target in ((0, 5), (0, 7), (1, 2), (3, 4)):
        planted.copy(1, source, target)
    planted.copy(0, 1, 2)
    _, verdict = told(planted, tmp_path)
    assert verdict.headline.startswith("Partly collapsed: 5 experts are exact copies of others")
    assert "upcycle with `--drop-ratio" in verdict.advice
    texts = [sentence.text for sentence in verdict.sentences[:4]]
    assert texts[0].startswith("Experts 0, 5 and 7 of layer 3 are exact copies")
    assert texts[1].startswith("Experts 1 and 2 of layer 1 are exact copies")
    assert texts[3] == "1 more group of experts are exact copies, in layer 3."


def test_equal_weights_with_other_biases_are_no_copies() -> None:
    class Shifted(Chained):
        def dense(self, layer: int, x_TD: torch.Tensor) -> torch.Tensor:
            outputs_NTD = super().dense(layer, x_TD).clone()
            outputs_NTD[1, :, :20] += outputs_NTD[0].std()
            return outputs_NTD

    planted = Shifted(1)
    planted.copy(0, 0, 1)
    assert measure(planted, QUICK).layers[0].copies == []
