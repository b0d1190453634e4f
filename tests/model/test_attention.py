"""Attention against slow, obvious versions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from simsmoe_cli.kernels import relative_attention as relative
from simsmoe_cli.model import attention
from simsmoe_cli.model.attention import RelativeAttention, RopeAttention

BATCH, BLOCK, SPAN, WIDTH, HEADS = 2, 13, 7, 24, 3


def query_by_query(layer: RelativeAttention, x: Tensor, memory: Tensor, position: Tensor) -> Tensor:
    """Relative attention as its definition reads: one query, one head, one key at a time."""
    context = torch.cat([memory, x], dim=1)
    span, head_width = memory.shape[1], WIDTH // HEADS
    q, k, v = layer.query(x), layer.key(context), layer.value(context)
    rows = []
    for i in range(x.shape[1]):
        heads = []
        for h in range(HEADS):
            part = slice(h * head_width, (h + 1) * head_width)
            scores = torch.stack(
                [
                    (q[:, i, part] * (k[:, i + j, part] + position[:, j])).sum(-1)
                    for j in range(span)
                ],
                dim=-1,
            )
            weight = (scores / math.sqrt(head_width)).softmax(-1)
            heads.append((weight[..., None] * v[:, i : i + span, part]).sum(1))
        rows.append(torch.cat(heads, dim=-1))
    return layer.out(torch.stack(rows, dim=1))


@pytest.mark.parametrize("chunk", [1, 4, 13, 64])
def test_relative_attention_by_definition(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relative, "QUERY_CHUNK", chunk)
    torch.manual_seed(0)
    layer = RelativeAttention(WIDTH, HEADS, dropout=0.0)
    memory = torch.randn(BATCH, SPAN, WIDTH)
    position = torch.randn(WIDTH // HEADS, SPAN, requires_grad=True)
    x = torch.randn(BATCH, BLOCK, WIDTH, requires_grad=True)
    grads = []
    for compute in (layer, lambda *args: query_by_query(layer, *args)):
        out = compute(x, memory, position)
        grads.append((out, *torch.autograd.grad(out.square().sum(), [x, position])))
    for ours, oracle in zip(*grads, strict=True):
        torch.testing.assert_close(ours, oracle, atol=1e-4, rtol=1e-4)


def test_relative_attention_sees_its_span_and_not_itself() -> None:
    torch.manual_seed(0)
    layer = RelativeAttention(WIDTH, HEADS, dropout=0.0)
    position = torch.randn(WIDTH // HEADS, SPAN)
    x = torch.randn(1, BLOCK, WIDTH)
    memory = torch.zeros(1, SPAN, WIDTH, requires_grad=True)
    x.requires_grad_()
    out = layer(x, memory, position)[0, 10].sum()
    grad_x, grad_memory = torch.autograd.grad(out, [x, memory])
    reached = grad_x[0].abs().sum(-1) > 0
    assert reached[3:10].all()
    assert not reached[:3].any()
    assert not reached[11:].any()
    assert not grad_memory.any()


def test_dropout_only_in_training() -> None:
    torch.manual_seed(0)
    layer = RelativeAttention(WIDTH, HEADS, dropout=0.5)
    args = torch.randn(1, 4, WIDTH), torch.randn(1, SPAN, WIDTH), torch.randn(8, SPAN)
    assert not torch.equal(layer(*args), layer(*args))
    layer.eval()
    assert torch.equal(layer(*args), layer(*args))


def rope_by_definition(layer: RopeAttention, x: Tensor) -> Tensor:
    block, head_width = x.shape[1], WIDTH // HEADS
    half = head_width // 2
    frequency = layer.base ** (-torch.arange(half) * 2 / head_width)

    def turned(rows: Tensor) -> Tensor:
        heads = rows.view(*rows.shape[:2], HEADS, 2, half)
        pair = torch.complex(heads[..., 0, :], heads[..., 1, :])
        angle = torch.arange(block)[:, None] * frequency
        pair = pair * torch.polar(torch.ones_like(angle), angle)[None, :, None]
        return torch.cat([pair.real, pair.imag], dim=-1)

    q, k = turned(layer.query(x)), turned(layer.key(x))
    v = layer.value(x).view(*x.shape[:2], HEADS, head_width)
    scores = torch.einsum("bihw,bjhw->bhij", q, k) / math.sqrt(head_width)
    for i in range(block):
        for j in range(block):
            if not i - layer.window < j <= i:
                scores[..., i, j] = -math.inf
    out = torch.einsum("bhij,bjhw->bihw", scores.softmax(-1), v)
    return layer.out(out.flatten(2))


@pytest.mark.parametrize("window", [1, 4, 13, 100])
@pytest.mark.parametrize("chunk", [1, 3, 5, 100])
@pytest.mark.parametrize("alignment", [1, 4])
def test_rope_attention_by_definition(
    window: int, chunk: int, alignment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "QUERY_CHUNK_ON_CPU", chunk)
    monkeypatch.setattr(attention, "KEY_ALIGNMENT_ON_CPU", alignment)
    torch.manual_seed(0)
    layer = RopeAttention(WIDTH, HEADS, window, base=10000.0, dropout=0.0)
    x = torch.randn(BATCH, BLOCK, WIDTH, requires_grad=True)
    parts = (x, *layer.parameters())
    results = []
    for out in (layer(x), rope_by_definition(layer, x)):
        grads = torch.autograd.grad(out.square().sum(), parts)
        results.append((out, *grads))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_compiled_layers_compute_the_angles_once_and_the_same() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        *(RopeAttention(WIDTH, HEADS, 9, base=10000.0, dropout=0.0) for _ in range(2))
    )
    x = torch.randn(BATCH, BLOCK, WIDTH, requires_grad=True)
    parts = (x, *layers.parameters())
    names: list[list[str]] = []

    def keep(graph: torch.fx.GraphModule, given: list[Tensor]) -> Callable[..., Any]:
        names.append([str(node.target) for node in graph.graph.nodes])
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=keep, partition_fn=min_cut_rematerialization_partition)
    compiled = torch.compile(layers, backend=backend, fullgraph=True)
    results = []
    for out in (layers(x), compiled(x)):
        results.append((out, *torch.autograd.grad(out.square().sum(), parts)))
    for expected, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    forward, backward = names
    assert [name for name in forward if "rotary" in name] == ["simsmoe.rotary.default"]
    assert not [name for name in backward if "rotary" in name]
    assert not [name for name in (*forward, *backward) if "cos" in name]


def test_rotation_is_that_of_complex_numbers() -> None:
    x = torch.randn(2, HEADS, BLOCK, 8, dtype=torch.float64, requires_grad=True)
    cos, sin = attention.rotary(torch.arange(BLOCK), 8, 100.0, torch.float64)
    numbers = torch.complex(x[..., :4], x[..., 4:]) * torch.complex(cos, sin)
    expected = torch.cat([numbers.real, numbers.imag], dim=-1)
    # As attention has it: heads taken out of the width.
    split = x.transpose(1, 2).contiguous().transpose(1, 2)
    for layout in (x, split):
        torch.testing.assert_close(attention.rotate(layout, cos, sin), expected)
    assert torch.autograd.gradcheck(lambda x: attention.rotate(x, cos, sin), x)
    compiled = torch.compile(attention.rotate, backend="eager")
    torch.testing.assert_close(compiled(x, cos, sin), expected)
