"""On planted models the report tells the truth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.verdict.judge import judge
from tests.collapse.planted import EXPERTS, QUICK, WIDTH, Planted, oracle_biased, oracle_debiased

ALL_DRAWS = True
LAYERS = 2


@pytest.fixture(scope="module")
def truth() -> Findings:
    """Layer 0: unrelated experts, one never chosen, one that says nothing. Layer 1: experts 1 and
    3 are copies, expert 4 is 0 with its hidden units renumbered."""
    planted = Planted(LAYERS)
    planted.bias_LN[0, 2] = -100.0
    planted.experts[0].w_out.data[4] = 0
    planted.copy(1, 1, 3)
    planted.copy(1, 0, 4, permuted=True)
    return measure(planted, QUICK)


def test_copied_experts_have_cka_one_and_a_named_warning(truth: Findings) -> None:
    layer = truth.layers[1]
    for matrix in (layer.cka, layer.cka_biased, layer.cka_rbf, layer.cosine, layer.weight_matched):
        assert matrix[1][3] == pytest.approx(1, abs=1e-4)
    assert layer.weight_cosine[1][3] == pytest.approx(1, abs=1e-4)
    assert layer.cka_low[1][3] == pytest.approx(1, abs=1e-4)
    verdict = judge(truth)
    assert verdict.level == "partly alike"
    (named,) = [s for s in verdict.sentences if "1 and 3 of layer 1" in s.text]
    assert named.tone == "bad"
    assert named.evidence["experts"] == [1, 3]
    assert named.evidence["cka"] == layer.cka[1][3]


def test_copied_weights_with_renumbered_units_are_still_found(truth: Findings) -> None:
    layer = truth.layers[1]
    assert layer.cka[0][4] == pytest.approx(1, abs=1e-4)
    assert layer.weight_matched[0][4] == pytest.approx(1, abs=1e-4)
    assert abs(layer.weight_cosine[0][4] or 0) < 0.5
    (named,) = [s for s in judge(truth).sentences if "0 and 4 of layer 1" in s.text]
    assert "up to the order of hidden units" in named.text


def test_unrelated_experts_are_near_zero_and_at_the_null(truth: Findings) -> None:
    for layer, pairs in ((0, [(0, 1), (0, 3), (1, 3)]), (1, [(0, 1), (1, 2), (2, 4)])):
        found = truth.layers[layer]
        for i, j in pairs:
            value, null = found.cka[i][j], found.cka_null.quantile_95
            assert value is not None
            assert null is not None
            assert abs(value) < 0.02
            low, high = found.cka_low[i][j], found.cka_high[i][j]
            assert low is not None
            assert high is not None
            assert low < 0.01
            assert high < 0.04
            matched, chance = found.weight_matched[i][j], found.weight_matched_chance
            assert matched is not None
            assert chance is not None
            assert matched < chance + 0.1
        assert abs(found.cka_null.mean or 0) < 0.003
        assert null < 0.02


def test_an_expert_never_chosen_is_dead(truth: Findings) -> None:
    assert truth.layers[0].dead == [2]
    assert truth.layers[0].load[2] == 0
    assert truth.layers[1].dead == []
    (named,) = [s for s in judge(truth).sentences if "dead" in s.text]
    assert "expert 2 of layer 0" in named.text
    assert named.evidence["dead"] == 1
    assert "1 expert is dead" in judge(truth).headline


def test_a_silent_expert_is_undefined_and_said_to_be(truth: Findings) -> None:
    layer = truth.layers[0]
    for matrix in (layer.cka, layer.cka_low, layer.cka_high, layer.cka_biased, layer.cka_rbf):
        assert matrix[4] == [None] * EXPERTS
        assert [row[4] for row in matrix] == [None] * EXPERTS
    assert layer.effective_rank[4] is None
    assert layer.cka_mean.n == 6
    (named,) = [s for s in judge(truth).sentences if "undefined" in s.text]
    assert "expert 4 of layer 0" in named.text


def test_the_most_alike_pair_is_shown_to_be_no_different(truth: Findings) -> None:
    assert truth.difference is not None
    assert truth.difference.layer == 1
    assert truth.difference.experts in {(1, 3), (0, 4)}
    assert truth.difference.mean < 1e-4


def test_shuffled_rows_sit_at_the_null() -> None:
    planted = Planted()
    for expert in range(1, EXPERTS):
        planted.copy(0, 0, expert)
    alike = measure(planted, QUICK).layers[0]
    assert alike.cka_mean.value == pytest.approx(1, abs=1e-4)
    null = alike.cka_null
    assert abs(null.mean or 0) < 0.003
    assert null.quantile_95 is not None
    assert 0 < null.quantile_95 < 0.02
    assert null.draws >= 100
    assert alike.cka_biased_null.mean is not None
    assert alike.cka_biased_null.mean > (null.mean or 0)


def test_every_cka_agrees_with_gram_matrices_in_double() -> None:
    planted = Planted()
    planted.copy(0, 0, 1)
    planted.experts[0].w_out.data[1] += 0.05 * torch.randn(planted.experts[0].w_out[1].shape)
    few = replace(QUICK, rows=512, tokens=512, rbf_rows=200)
    found = measure(planted, few).layers[0]
    inputs = torch.cat([batch.layers[0].input_TD for batch in planted.read(512, 512)])
    outputs = planted.dense(0, inputs).numpy()
    some = torch.linspace(0, 511, 200).round().long().numpy()
    for i, j in ((0, 1), (0, 2), (1, 3)):
        x, y = outputs[i], outputs[j]
        assert found.cka[i][j] == pytest.approx(oracle_debiased(x, y), abs=2e-4)
        assert found.cka_biased[i][j] == pytest.approx(oracle_biased(x, y), abs=2e-4)
        rbf = oracle_biased(x[some], y[some], sigma=1.0)
        assert found.cka_rbf[i][j] == pytest.approx(rbf, abs=2e-3)
    assert 0.3 < (found.cka[0][1] or 0) < 0.999


def test_a_model_of_copies_is_collapsed_and_one_of_strangers_healthy() -> None:
    copies = Planted(LAYERS)
    for layer in range(LAYERS):
        for expert in range(1, EXPERTS):
            copies.copy(layer, 0, expert, permuted=True)
    assert judge(measure(copies, QUICK)).level == "collapsed"
    assert judge(measure(Planted(LAYERS), QUICK)).level == "healthy"


class AlikeSomewhere(Planted):
    """Experts 0 and 1 give the same on tokens sent to both, or on all others."""

    def __init__(self, shared: bool):
        super().__init__()
        self.shared = shared

    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        outputs_NTD = super().dense(layer, x_TD).clone()
        chosen_TK = x_TD[:, :EXPERTS].topk(2).indices.sort().values
        both_T = (chosen_TK == torch.tensor([0, 1])).all(1)
        same_T = both_T if self.shared else ~both_T
        outputs_NTD[1, same_T] = outputs_NTD[0, same_T]
        return outputs_NTD


@pytest.mark.parametrize("shared", [True, False])
def test_likeness_on_shared_tokens_is_told_from_likeness_elsewhere(shared: bool) -> None:
    findings = measure(AlikeSomewhere(shared), QUICK)
    (layer,) = findings.layers
    here, all_over = layer.cka_shared[0][1], layer.cka[0][1]
    assert here is not None
    assert all_over is not None
    if shared:
        assert here > 0.99
        assert all_over < 0.4
    else:
        assert abs(here) < 0.1
        assert all_over > 0.6
    # A token in ten is sent to both of a pair; the ten pairs but this one are unrelated.
    others = [layer.cka_shared[i][j] for i, j in layer.pairs() if (i, j) != (0, 1)]
    assert all(value is not None and abs(value) < 0.2 for value in others)
    mean = findings.overall.cka_shared
    assert mean.n == 10
    assert mean.value == pytest.approx((here + sum(filter(None, others))) / 10)
    (sentence,) = [s for s in judge(findings).sentences if "were sent to both" in s.text]
    assert sentence.evidence["cka_shared"] == mean.value
    assert "(10 of 10 pairs share enough of them)" in sentence.text


def test_too_few_shared_tokens_are_not_compared() -> None:
    """A thousand tokens among five experts, but expert 4 is hardly ever chosen."""
    source = Planted()
    source.bias_LN[0, 4] = -3.5
    (layer,) = measure(source, QUICK).layers
    assert [row[4] for row in layer.cka_shared] == [None] * 5
    assert layer.cka_shared[0][1] is not None


def test_rotated_and_scaled_copies_are_no_duplicates_but_near_copies_are() -> None:
    """CKA is 1 for all three pairs. Layer 0: experts 1 and 3 are 0 rotated and 2 doubled; layer 1:
    expert 1 is 0 with outputs 1% larger."""
    planted = Planted(2)
    for layer, source, target in ((0, 0, 1), (0, 2, 3), (1, 0, 1)):
        planted.copy(layer, source, target)
    w_out = planted.experts[0].w_out.data
    w_out[1] = torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q @ w_out[0]
    w_out[3] *= 2
    planted.experts[1].w_out.data[1] *= 1.01
    found = measure(planted, QUICK)
    first, second = found.layers
    for layer, i, j, apart in (
        (first, 0, 1, 2**0.5),  # unrelated directions
        (first, 2, 3, 1 / 2.5**0.5),  # |2x - x| over the root mean square of x and 2x
        (second, 0, 1, 0.01 / ((1 + 1.01**2) / 2) ** 0.5),
    ):
        assert layer.cka[i][j] == pytest.approx(1, abs=1e-3)
        assert layer.apart[i][j] == pytest.approx(apart, rel=0.1)
    verdict = judge(found)
    assert "1 pair is a duplicate, 2 pairs have nearly the same representation" in verdict.headline
    said = {s.text.split(":")[0].split(" (CKA")[0]: s.text for s in verdict.sentences}
    assert "outputs differ by 1.0%" in said["Experts 0 and 1 of layer 1 are duplicates"]
    same = "of layer 0 have nearly the same representation up to rotation and scale"
    rotated, scaled = (said[f"Experts {pair} {same}"] for pair in ("0 and 1", "2 and 3"))
    assert "outputs differ by 14" in rotated
    assert "point the same way (mean cosine 1.00)" in scaled
