"""REAP saliency: its definition followed token by token."""

from __future__ import annotations

import math

import torch

from simsmoe_cli.collapse.measure.saliency import saliency
from tests.collapse.measure.made_outputs import generator


def test_it_is_the_mean_of_weight_times_norm_over_an_experts_tokens() -> None:
    outputs = torch.randn(4, 50, 6, generator=generator())
    weight, index = torch.rand(50, 4, generator=generator(1)).topk(2)
    index[index == 3] = 4  # slots of expert 3 are empty
    sums, counts = [0.0] * 4, [0] * 4
    for token in range(50):
        for slot in range(2):
            expert = int(index[token, slot])
            if expert < 4:
                norm = math.sqrt(sum(float(x) ** 2 for x in outputs[expert, token]))
                sums[expert] += float(weight[token, slot]) * norm
                counts[expert] += 1
    found = saliency(outputs, index, weight)
    assert found[3].isnan()
    expected = torch.tensor([sums[e] / counts[e] for e in range(3)], dtype=torch.float64)
    torch.testing.assert_close(found[:3], expected, rtol=1e-5, atol=0)
