"""A step of an attached model never waits on the device, with padding or without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simsmoe_cli.any_moe.handle import attach
from tests.any_moe.models import CHOSEN, WIDTH, StackedLayer
from tests.no_waiting import NoWaiting

FEW = {"preset": "calibrated", "tokens": 32, "min_tokens": 8}
LAYER = {"preset": "calibrated", "tokens": 32, "scope": "layer"}


class Padded(nn.Module):
    """Called like a model of transformers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = StackedLayer()

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.layer(x)
        return out


@pytest.mark.parametrize("similarity", ["none", FEW, LAYER])
@pytest.mark.parametrize("padding", [None, "given", "said"])
def test_a_step_does_not_wait(padding: str | None, similarity: Any) -> None:
    model = Padded()
    handle = attach(model, similarity, log_every=None)
    x = torch.randn(4, 50, WIDTH, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(4, 50, dtype=torch.int64)
    mask[1, 20:] = 0
    if padding == "said":
        handle.batch(attention_mask=mask)
    given = mask if padding == "given" else None

    def step() -> None:
        for _ in range(2):  # accumulated
            model(x, attention_mask=given).square().mean().backward()
        handle.step()

    step()  # the first one checks the layer, and is probed
    with NoWaiting():
        step()
    sent = 2 * 2 * CHOSEN * (170 if padding else 200)  # in two steps of two batches
    assert handle.layers[0].slots_N.sum() == sent
    assert ("similarity" in handle.metrics()) == (similarity != "none")
