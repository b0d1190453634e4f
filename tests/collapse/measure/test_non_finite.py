"""Weights and scores that are not finite: named, and what depends on them is undefined."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from simsmoe_cli.collapse.show.summary import tiles
from tests.collapse.chained import Chained, gate, told


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_named_and_undefines_all_after_it(
    value: float, tmp_path: Path
) -> None:
    planted = Chained(3)
    planted.experts[0].w_out.data[2, 3, 4] = value
    found, verdict = told(planted, tmp_path, tokens=4096, figures=True)
    first, *rest = found.layers
    assert first.non_finite == [2]
    assert first.dead == []
    assert first.load_cv is not None
    assert first.cka[2] == [None] * 5
    assert all(first.cka[i][j] is not None for i, j in first.pairs() if 2 not in (i, j))
    for layer in rest:
        assert layer.non_finite_inputs > 0
        assert layer.non_finite == []
        assert layer.dead is None
        assert layer.load == [None] * 5
        assert layer.load_cv is layer.entropy_nats is layer.entropy_of_mean_nats is None
        assert layer.cka_mean.value is None
        for matrix in (layer.cka, layer.cka_biased, layer.cka_rbf, layer.shared, layer.cka_shared):
            assert matrix == [[None] * 5] * 5
        assert layer.effective_rank == [None] * 5
    assert verdict.level == "undefined"
    assert verdict.headline.startswith("Not finite: expert 2 of layer 1 has weights or outputs")
    assert "Expert 2 of layer 1" in verdict.sentences[0].text
    assert "reach layers 3 and 5 with values that are not finite" in verdict.sentences[1].text
    assert not [s for s in verdict.sentences if "dead, with less than" in s.text]
    assert not [s for s in verdict.sentences if s.tone == "good"]
    assert "layers 1, 3, 5 have values that are not finite" in gate(found)
    (mean,) = (t.values[0][1] for t in tiles(found, None) if t.label.startswith("Mean CKA"))
    assert mean.note == "1 of 3 layers"


def test_a_router_that_is_not_finite_has_no_load(tmp_path: Path) -> None:
    planted = Chained(2)
    planted.bias_LN[1, 0] = math.nan
    found, verdict = told(planted, tmp_path)
    layer = found.layers[1]
    assert (layer.non_finite_inputs, layer.non_finite_scores) == (0, 1024)
    assert layer.dead is None
    assert layer.cka_mean.value is not None  # the experts' outputs are known all the same
    assert "router's scores in layer 3 are not finite" in verdict.sentences[0].text
    assert "layer 3 has values that are not finite" in gate(found)


def test_a_score_of_minus_infinity_is_an_expert_ruled_out(tmp_path: Path) -> None:
    planted = Chained(1)
    planted.bias_LN[0, 0] = -math.inf
    found, verdict = told(planted, tmp_path, tokens=4096)
    assert found.layers[0].finite
    assert found.layers[0].dead == [0]
    assert verdict.headline.startswith("Partly collapsed: 1 expert is dead (mean CKA")
