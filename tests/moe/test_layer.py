"""The MoE layer: losses by name, similarity learning apart from the balance loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from simsmoe_cli.moe.balance import balance_loss, load_fraction, z_loss
from simsmoe_cli.moe.layer import MoELayer
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe


def layer(**sections: dict[str, Any]) -> MoELayer:
    torch.manual_seed(0)
    recipe = {"model": {"width": 16}, "moe": {"experts": 4, "hidden": 32}} | sections
    return MoELayer(Recipe.model_validate(recipe))


def test_balance_loss_is_one_at_uniform_load_and_n_when_all_go_to_one() -> None:
    uniform_TN = torch.full((8, 4), 0.25)
    even = torch.arange(8).remainder(4)[:, None]
    assert balance_loss(uniform_TN, even).item() == pytest.approx(1)
    one = torch.zeros(8, 4)
    one[:, 2] = 1
    assert balance_loss(one, torch.full((8, 1), 2)).item() == pytest.approx(4)
    assert load_fraction(torch.tensor([[0, 1], [0, 3]]), 4).tolist() == [0.5, 0.25, 0, 0.25]


def test_balance_loss_pushes_load_towards_even() -> None:
    torch.manual_seed(0)
    logits_TN = torch.randn(512, 4) + torch.tensor([2.0, 0, 0, 0])
    bias = torch.zeros(4, requires_grad=True)
    probability = (logits_TN + bias).softmax(-1)
    balance_loss(probability, probability.topk(1).indices).backward()
    assert bias.grad is not None
    assert bias.grad[0] > 0
    assert (bias.grad[1:] < 0).all()


def test_z_loss_formula() -> None:
    logits = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
    expected = (math.log(2) ** 2 + (3 + math.log(2)) ** 2) / 2
    assert z_loss(logits).item() == pytest.approx(expected)


def test_losses_are_named_and_similarity_is_its_own() -> None:
    x = torch.randn(2, 64, 16)
    plain = layer()(x, StepContext())
    assert set(plain.losses) == {"balance"}
    both = layer(
        moe={"experts": 4, "hidden": 32, "z_weight": 1e-3}, similarity={"preset": "calibrated"}
    )
    output = both(x, StepContext())
    assert set(output.losses) == {"balance", "z", "similarity"}
    torch.testing.assert_close(output.losses["balance"], plain.losses["balance"])
    torch.testing.assert_close(output.hidden, plain.hidden)


def test_similarity_is_learned_in_training_only() -> None:
    moe = layer(similarity={"preset": "calibrated"})
    moe.eval()
    state = {name: value.clone() for name, value in moe.state_dict().items()}
    output = moe(torch.randn(2, 64, 16), StepContext())
    assert "similarity" not in output.losses
    assert all(torch.equal(value, state[name]) for name, value in moe.state_dict().items())


def test_similarity_gradient_reaches_experts_and_nothing_else() -> None:
    moe = layer(similarity={"preset": "calibrated", "pairs": 6, "threshold": 0.0})
    x = torch.randn(4, 64, 16, requires_grad=True)
    moe(x, StepContext()).losses["similarity"].backward()
    assert x.grad is None or not x.grad.any()
    assert moe.router.gate.weight.grad is None
    assert moe.experts.w_in.grad is not None
    assert all(grad.abs().sum() > 0 for grad in moe.experts.w_in.grad)


@pytest.mark.parametrize("scope", ["pairs", "layer"])
def test_compared_rows_may_go_with_the_batch_or_apart(
    scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(4, 64, 16)
    similarity = {"preset": "calibrated", "scope": scope, "threshold": 0.0}
    found = []
    for together in (True, False):
        moe = layer(similarity=similarity)
        monkeypatch.setattr(type(moe.experts), "takes_further_rows", together)
        output = moe(x, StepContext(compare=3))
        (output.hidden.square().mean() + output.losses["similarity"]).backward()
        grads = [parameter.grad for parameter in moe.parameters()]
        found.append([output.hidden, output.losses["similarity"], *grads])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_a_step_without_comparison_leaves_similarity_out() -> None:
    moe = layer(similarity={"preset": "calibrated", "head": "linear"})
    state = {name: value.clone() for name, value in moe.state_dict().items()}
    drawn = torch.get_rng_state()
    output = moe(torch.randn(2, 64, 16, generator=torch.Generator()), StepContext(compare=0))
    assert output.losses["similarity"].item() == 0
    assert output.similarity is not None
    assert output.similarity.pairs_due.item() == 0
    assert all(torch.equal(value, state[name]) for name, value in moe.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    (output.hidden.sum() + output.losses["similarity"]).backward()
    assert moe.similarity is not None
    assert all((parameter.grad == 0).all() for parameter in moe.similarity.head.parameters())


def test_backends_give_the_same_layer() -> None:
    x = torch.randn(2, 64, 16)
    outputs = []
    for backend in ("grouped", "loop"):
        moe = layer(moe={"experts": 4, "hidden": 32, "backend": backend})
        outputs.append(moe(x, StepContext()).hidden)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-4)


def test_auto_takes_the_loop_where_grouped_cannot_align() -> None:
    recipe = {"model": {"width": 18}, "moe": {"experts": 2, "hidden": 9}}
    moe = MoELayer(Recipe.model_validate(recipe))
    assert moe(torch.randn(1, 5, 18), StepContext()).hidden.shape == (1, 5, 18)
