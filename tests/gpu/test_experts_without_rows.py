"""Experts that get no tokens: gradients of exactly 0, and nothing of memory that nobody wrote to.

grouped_mm leaves rows after the last expert's as they lie in memory, in its gradients too, and an
expert without rows is a product over nothing. So memory that is freed is filled with NaN first, in
two ways: by tensors that are let go, and by torch itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from simsmoe_cli import registry
from simsmoe_cli.moe.experts.base import Experts
from simsmoe_cli.train.loop import Trainer
from tests.gpu.devices import (
    BOTH,
    CUDA,
    assert_near,
    no_waiting,
    only_repeatable_algorithms,
    poison_freed_memory,
)
from tests.gpu.test_same_as_cpu import MOST, as_trained, made
from tests.gpu.test_training import BUSY, assert_learned, step

WIDTH, HIDDEN = 32, 48
LOADS: dict[str, list[int]] = {
    "some": [0, 5, 0, 130, 0, 1, 0, 0],
    "one": [0, 0, 0, 0, 0, 0, 0, 64],
    "first": [257, 0, 0, 0, 0, 0, 0, 0],
    "none": [0, 0, 0, 0, 0, 0, 0, 0],
}
POISONS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "freed": contextlib.nullcontext,
    "unwritten": only_repeatable_algorithms,
}


def make(backend: str, bias: bool) -> Experts:
    torch.manual_seed(0)
    options: dict[str, Any] = {"activation": "relu" if bias else "swiglu", "bias": bias}
    experts: Experts = registry.load("experts", backend)(
        len(LOADS["some"]), WIDTH, HIDDEN, **options
    )
    return experts


def results(
    experts: Experts,
    call: Callable[..., Tensor],
    rows_RD: Tensor,
    count_N: Tensor,
    poison: Callable[[], None] = lambda: None,
) -> dict[str, Tensor | None]:
    """Rows, and gradients of their mean square."""
    rows_RD = rows_RD.detach().clone().requires_grad_()
    poison()
    out = call(rows_RD, count_N, partial=True)
    loss = out.float().square().sum()
    poison()
    loss.backward()
    grads = {name: p.grad for name, p in experts.named_parameters()}
    return {"out": out, "rows": rows_RD.grad} | grads


def check(device: str, precision: str, load: str, bias: bool, poison: str, compiled: bool) -> None:
    counts = LOADS[load]
    given = sum(counts)
    count_N = torch.tensor(counts)
    # 9 rows belong to no expert.
    rows_RD = made(1, given + 9, WIDTH)
    loop, grouped = make("loop", bias), make("grouped", bias)
    expected = results(loop, loop, rows_RD, count_N)
    grouped.to(device)
    call = torch.compile(grouped, fullgraph=True) if compiled else grouped
    with POISONS[poison](), as_trained(device, precision):
        found = results(
            grouped,
            call,
            rows_RD.to(device),
            count_N.to(device),
            lambda: poison_freed_memory(device),
        )
    for name, tensor in found.items():
        assert tensor is not None, name
        assert tensor.isfinite().all(), f"{name} holds what nobody wrote: {tensor}"
    empty = count_N == 0
    for name, _ in grouped.named_parameters():
        gradient = found[name]
        assert gradient is not None
        assert gradient.cpu()[empty].count_nonzero() == 0, f"{name}: {gradient.cpu()[empty]}"
    for name in ("out", "rows"):
        tensor = found[name]
        assert tensor is not None
        assert tensor[given:].count_nonzero() == 0, f"{name} after the last expert's rows"
    most = 0.1 if precision == "bf16" and bias else MOST[precision]
    assert_near(found, expected, most)


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "swiglu"])
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("device", BOTH)
def test_rows_and_gradients(
    device: str, precision: str, load: str, bias: bool, poison: str
) -> None:
    check(device, precision, load, bias, poison, compiled=False)


@pytest.mark.parametrize("load", ["some", "none"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("device", [CUDA])
def test_rows_and_gradients_compiled(device: str, precision: str, load: str) -> None:
    torch._dynamo.reset()
    check(device, precision, load, True, "freed", compiled=True)


@pytest.mark.parametrize(("width", "hidden"), [(40, 24), (72, 136), (36, 20)])
@pytest.mark.parametrize("device", BOTH)
def test_odd_widths_train(
    trainer: Callable[..., Trainer[Any]], device: str, width: int, hidden: int
) -> None:
    """Multiples of 8 by grouped products, others one expert after the other, which waits."""
    similarity = {"preset": "calibrated", **BUSY}
    train = {"precision": "bf16" if device == "cuda" else "fp32", "compile": "off", "lr": 3e-3}
    run = trainer(
        device,
        model={"width": width},
        moe={"hidden": hidden, "experts": 12},
        similarity=similarity,
        train=train,
    )
    losses = step(run, 2)
    with no_waiting(device) if width % 8 == 0 else contextlib.nullcontext():
        losses += step(run, 3)
    assert_learned(run, losses)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("device", BOTH)
def test_a_model_most_of_whose_experts_rest(
    trainer: Callable[..., Trainer[Any]], device: str, precision: str
) -> None:
    """64 experts and 128 tokens; memory is poisoned before every step."""
    if device == "cpu" and precision == "bf16":
        pytest.skip("bf16 is slow on a CPU")
    train = {"precision": precision, "compile": "off", "lr": 3e-3}
    run = trainer(
        device,
        moe={"experts": 64},
        similarity={"preset": "calibrated", "weight": 0.003},
        train=train,
    )
    losses = []
    for _ in range(5):
        poison_freed_memory(device)
        losses += step(run, 1)
    assert_learned(run, losses)
