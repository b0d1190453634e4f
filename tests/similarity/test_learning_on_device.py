"""A step of similarity learning never waits, stays on its device, and compiles into one graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from simsmoe_cli.kernels.cpu import as_on_accelerators
from simsmoe_cli.registry import MEASURES
from simsmoe_cli.similarity.cka import pairwise_debiased_cka
from tests.no_waiting import NoWaiting
from tests.similarity.learners import WIDTH, batch, build, stacked

SCHEDULES = {
    "threshold": [[0.0, 0.0], [1.0, 0.5]],
    "check_every": [[0.0, 0.0], [0.5, 1.0]],
    "sigma": [[0.2, 0.9], [0.8, 3.0]],
}
every_setting = pytest.mark.parametrize(
    "given",
    [
        {"preset": "published"},
        {"preset": "paper", "check_every": 0.0},
        {"preset": "calibrated", "tokens": 20},
        {"measure": "cka-rbf", "sigma": "median"},
        {"preset": "paper", **SCHEDULES},
        *({"measure": measure} for measure in MEASURES if not measure.startswith("cka")),
        {"scope": "layer", "tokens": 20},
        {"scope": "layer", "measure": "infonce", "head": "linear"},
        {"scope": "experts", "tokens": 20},
    ],
)
every_k = pytest.mark.parametrize("top_k", [1, 2])


@every_setting
@every_k
def test_a_step_never_waits_on_the_device(given: dict[str, Any], top_k: int) -> None:
    learning = build(4, top_k, **given)
    weight_NDD = torch.randn(4, WIDTH, WIDTH, requires_grad=True)
    for step in range(3):
        inputs = batch(step, 80, 4, top_k)
        with NoWaiting():
            learning(*inputs, stacked(weight_NDD)).loss.backward()
    assert weight_NDD.grad is not None


def test_waiting_operations_are_caught() -> None:
    x = torch.randn(4)
    for waits in (lambda: x[x > 0], lambda: x.sum().item(), lambda: bool(x[0] > 0)):
        with pytest.raises(AssertionError, match="waits on the device"), NoWaiting():
            waits()


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A device whose fake tensors raise when the CPU's are mixed in, gradients included.

    It is `meta`, since autograd on `cuda` needs a CUDA build even for fake tensors; autocast,
    which `meta` has not, is left out.
    """
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    with FakeTensorMode():
        yield "meta"


@every_setting
@every_k
def test_a_step_makes_no_tensor_on_another_device(
    accelerator: str, given: dict[str, Any], top_k: int
) -> None:
    learning = build(4, top_k, **given)
    state = {**dict(learning.named_parameters()), **dict(learning.named_buffers())}
    tensors = {
        name: torch.empty(t.shape, dtype=t.dtype, device=accelerator, requires_grad="head" in name)
        for name, t in state.items()
    }
    x_TD = torch.empty(80, WIDTH, device=accelerator, dtype=torch.bfloat16)
    logits_TN = torch.empty(80, 4, device=accelerator)
    weight_NDD = torch.empty(4, WIDTH, WIDTH, device=accelerator, dtype=torch.bfloat16)
    weight_NDD.requires_grad_()
    inputs = (x_TD, logits_TN.topk(top_k).indices, logits_TN, stacked(weight_NDD))
    result = functional_call(learning, tensors, inputs)
    result.loss.backward()
    assert weight_NDD.grad is not None
    found = [result.loss, result.pairs_due, result.mean, weight_NDD.grad]
    assert {tensor.device.type for tensor in found} == {accelerator}


@pytest.mark.parametrize("shape", [(4, 100, 16), (4, 20, 60)])
def test_a_probe_makes_no_tensor_on_another_device(
    accelerator: str, shape: tuple[int, int, int]
) -> None:
    cka_NN = pairwise_debiased_cka(torch.empty(shape, device=accelerator))
    assert cka_NN.device.type == accelerator


@every_setting
@every_k
def test_compiles_into_one_graph(given: dict[str, Any], top_k: int) -> None:
    plain, compiled = (build(4, top_k, **{**given, "tokens": 160}) for _ in range(2))
    torch._dynamo.reset()
    step = torch.compile(compiled, fullgraph=True, backend="eager")
    weight_NDD = torch.randn(4, WIDTH, WIDTH, requires_grad=True)
    for seed in range(2):
        inputs = (*batch(seed, 80, 4, top_k), stacked(weight_NDD))
        with as_on_accelerators():
            expected = plain(*inputs)
        got = step(*inputs)
        torch.testing.assert_close(got.loss, expected.loss)
        torch.testing.assert_close(got.mean, expected.mean, equal_nan=True)
        torch.testing.assert_close(compiled.state_dict(), plain.state_dict())
        ours, theirs = (torch.autograd.grad(r.loss, weight_NDD)[0] for r in (got, expected))
        torch.testing.assert_close(ours, theirs)
