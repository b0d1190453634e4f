"""Padding in MoE layers: never routed, never counted, never in a loss; for every router.

The reference is a layer that is given the real tokens alone. A new router is tested by being
registered.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from simsmoe_cli.moe.layer import MoELayer, MoEOutput
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.load import load_recipe
from tests.no_waiting import NoWaiting
from tests.routers import CASES

WIDTH, VOCABULARY, STEPS = 16, 30, 20
LENGTHS = (5, 12, 1, 9)
BLOCK = 12
SMALL = [
    "model.repeats=1",
    f"model.width={WIDTH}",
    "model.heads=2",
    "moe.experts=4",
    "moe.hidden=24",
    "similarity.preset=calibrated",
    "similarity.min_tokens=4",
    "similarity.tokens=8",
]

every_case = pytest.mark.parametrize("case", CASES)
every_mode = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])

REAL_BM = torch.arange(BLOCK) < torch.tensor(LENGTHS).unsqueeze(1)
REAL_T = REAL_BM.flatten().nonzero().squeeze(1)


def make(case: str, *more: str) -> MoELayer:
    torch.manual_seed(0)
    return MoELayer(load_recipe("quickstart", [*SMALL, *CASES[case], *more]), VOCABULARY)


def texts(padding: float) -> tuple[Tensor, Tensor]:
    """Hidden states [B, M, D] and ids [T]; those of padding follow from `padding`."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(LENGTHS), BLOCK, WIDTH, generator=generator)
    ids = torch.randint(0, VOCABULARY, (len(LENGTHS), BLOCK), generator=generator)
    x = torch.where(REAL_BM.unsqueeze(2), x, padding)
    ids = torch.where(REAL_BM, ids, abs(int(padding)) % VOCABULARY)
    return x, ids.flatten()


def run(
    layer: MoELayer, x: Tensor, ids_T: Tensor, real_T: Tensor | None, step: int = 3
) -> tuple[MoEOutput, dict[str, Tensor]]:
    """A pass from the same random numbers, and the gradients of parameters and input."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(2)
    context = StepContext(step, STEPS, real_T)
    output: MoEOutput = layer(x, context, ids_T)
    target = torch.linspace(-1, 1, WIDTH)
    loss = (output.hidden * target).sum() + sum(output.losses.values())
    if loss.requires_grad:
        loss.backward()
    grads = {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}
    return output, grads | {"x": x.grad if x.grad is not None else torch.zeros_like(x)}


def assert_same_numbers(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=name, equal_nan=True)


@every_case
@every_mode
@pytest.mark.parametrize("padding", [0.0, -7.0, 1e4])
def test_padding_changes_nothing(case: str, training: bool, padding: float) -> None:
    x, ids_T = texts(padding)
    padded, alone = make(case).train(training), make(case).train(training)
    ours, our_grads = run(padded, x, ids_T, REAL_T)
    x_real, ids_real = x.flatten(0, 1)[REAL_T], ids_T[REAL_T]
    theirs, their_grads = run(alone, x_real, ids_real, None)

    flat = ours.hidden.flatten(0, 1)
    torch.testing.assert_close(flat[REAL_T], theirs.hidden)
    assert not ours.hidden[~REAL_BM].any()
    assert_same_numbers(ours.losses, theirs.losses)
    assert_same_numbers(ours.routing.metrics, theirs.routing.metrics)
    assert torch.equal(ours.routing.index_TK, theirs.routing.index_TK)
    torch.testing.assert_close(ours.routing.weight_TK, theirs.routing.weight_TK)
    if training:
        assert ours.similarity is not None
        assert theirs.similarity is not None
        assert_same_numbers(vars(ours.similarity), vars(theirs.similarity))

    grad_x = our_grads.pop("x")
    assert not grad_x[~REAL_BM].any()
    torch.testing.assert_close(grad_x.flatten(0, 1)[REAL_T], their_grads.pop("x"))
    assert_same_numbers(our_grads, their_grads)
    # Counts of pairs, selection biases, steered coefficients: everything a layer remembers.
    assert_same_numbers(dict(padded.named_buffers()), dict(alone.named_buffers()))


@every_case
def test_pair_counts_are_of_real_tokens(case: str) -> None:
    """S grows by shared tokens over real tokens; f* is out of reach, so nothing is reset."""
    layer = make(case, "similarity.check_every=1000").train()
    x, ids_T = texts(3.0)
    output, _ = run(layer, x, ids_T, REAL_T)
    experts = 4
    chosen_TN = torch.zeros(sum(LENGTHS), experts + 1).scatter_(1, output.routing.index_TK, 1.0)
    chosen_TN = chosen_TN[:, :experts]
    if layer.router.top_k == 1:  # the runner-up counts as well
        logits_TN = output.routing.logits_TN.masked_fill(chosen_TN.bool(), -torch.inf)
        chosen_TN = chosen_TN.scatter(1, logits_TN.argmax(1, keepdim=True), 1.0)
    expected_NN = (chosen_TN.T @ chosen_TN / sum(LENGTHS)).fill_diagonal_(0)
    assert layer.similarity is not None
    torch.testing.assert_close(layer.similarity.tracker.shared_NN, expected_NN)


@every_case
def test_leaving_padding_out_does_not_wait_on_the_device(case: str) -> None:
    layer = make(case).train()
    x, ids_T = texts(0.0)
    with NoWaiting():
        run(layer, x, ids_T, REAL_T)
