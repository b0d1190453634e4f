"""Trivial and degenerate models: what is undefined is said, and nothing is called healthy.

The suite turns warnings into errors, so no figure or table of these may divide by nothing either.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.collapse.chained import Chained, gate, told


def test_a_constant_router_leaves_the_others_dead(tmp_path: Path) -> None:
    planted = Chained(2)
    planted.bias_LN[:, :2] = 1000.0
    found, verdict = told(planted, tmp_path, tokens=4096)
    assert [layer.dead for layer in found.layers] == [[2, 3, 4]] * 2
    assert verdict.headline.startswith("Partly collapsed: 6 experts are dead (mean CKA")


def test_an_expert_that_says_nothing_is_not_called_healthy(tmp_path: Path) -> None:
    planted = Chained(2)
    planted.experts[0].w_out.data[1] = 0
    _, verdict = told(planted, tmp_path)
    assert verdict.level == "undefined"
    assert verdict.headline == "Undecided: 1 of 10 experts could not be compared."


def test_a_layer_of_which_most_pairs_are_undefined_passes_no_gate(tmp_path: Path) -> None:
    planted = Chained(1)
    planted.experts[0].w_out.data[:3] = 0
    planted.experts[0].w_in.data[:3] *= torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    found, verdict = told(planted, tmp_path)
    assert found.layers[0].cka_mean.n == 1
    assert verdict.level == "undefined"
    assert "most pairs of layer 1 could not be compared" in verdict.headline
    assert "the mean debiased CKA of layer 1 is undefined" in gate(found)


@pytest.mark.parametrize(
    ("made", "headline"),
    [
        (lambda: Chained(1, experts=2, top_k=1), "Healthy: the experts are different"),
        (lambda: Chained(2, experts=4, top_k=4), "Healthy: the experts are different"),
        (lambda: Chained(1), "Healthy: the experts are different"),
        (lambda: Chained(2, experts=1, top_k=1), "Undefined: no two experts could be compared"),
    ],
)
def test_few_experts_all_experts_and_one_layer(
    made: Callable[[], Chained], headline: str, tmp_path: Path
) -> None:
    _, verdict = told(made(), tmp_path, figures=headline.startswith("Undefined"))
    assert verdict.headline.startswith(headline)
