"""LoRA of peft on the experts: the similarity loss reaches the adapters, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from simsmoe_cli.any_moe.handle import attach
from tests.any_moe.by_hand import (
    EVERYTHING,
    batch,
    by_hand,
    gradients,
    loss_of,
    made,
    require_equal,
)
from tests.any_moe.own_model import OwnModel, loss_by_hand, own_batch

peft = pytest.importorskip("peft")


def with_lora(model: nn.Module, **targets: Any) -> nn.Module:
    """Adapters that change what the experts compute, as if they had been trained for a while."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, **targets)
    model = peft.inject_adapter_in_model(config, model)
    with torch.no_grad():
        for name, part in model.named_parameters():
            if "lora_B" in name:
                part.normal_(0, 0.1)
    return model.train()


def test_stacked_experts() -> None:
    model = with_lora(
        made("mixtral"),
        target_modules=[],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    wanted = by_hand(model, [batch()])
    plain = copy.deepcopy(model)
    loss_of(plain, batch()).backward()
    without = gradients(plain)
    assert all("lora" in name for name in wanted)
    assert any((wanted[name] - without[name]).abs().max() > 1e-4 for name in without)
    handle = attach(model, EVERYTHING, probe_every=1)
    loss_of(model, batch()).backward()
    require_equal(gradients(model), wanted)
    handle.step()
    assert handle.metrics()["cka_mean"] > -1


def test_listed_experts() -> None:
    model, x = with_lora(OwnModel(), target_modules=["up", "down"]), own_batch()
    plain = copy.deepcopy(model)
    loss_by_hand(plain, x).backward()
    attach(model, EVERYTHING)
    model(x).square().mean().backward()
    assert all("lora" in name for name in gradients(model))
    require_equal(gradients(model), gradients(plain))


def test_dropout_of_the_adapters_is_that_of_the_loop_alone() -> None:
    outputs, states = [], []
    for attach_it in (False, True):
        model = with_lora(OwnModel(), target_modules=["up", "down"], lora_dropout=0.5)
        if attach_it:
            attach(model, EVERYTHING, probe_every=1)
        torch.manual_seed(3)
        out = model(own_batch())
        out.square().mean().backward()
        outputs.append(out)
        states.append(torch.get_rng_state())
    assert torch.equal(*outputs)
    assert torch.equal(*states)
