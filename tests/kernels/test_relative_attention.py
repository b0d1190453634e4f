"""Relative attention's fast paths against a straightforward version of the whole score matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.attention import straightforward
from simsmoe_cli.kernels import relative_attention as relative
from simsmoe_cli.kernels.dropout import draw_kept
from simsmoe_cli.kernels.relative_attention import relative_attention

GROUPS, HEAD = 3, 5
PATHS = {"tiled": relative._tiled, "chunked": relative._chunked}


def inputs(block: int, span: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(GROUPS, block, HEAD)] + [(GROUPS, span + block - 1, HEAD)] * 2 + [(HEAD, span)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def with_gradients(compute, parts: list[Tensor]) -> list[Tensor]:
    out = compute(*parts)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weight).sum(), parts)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("block", "span"), [(1, 1), (1, 6), (8, 1), (11, 7), (7, 11), (12, 30)])
@pytest.mark.parametrize("chunk", [1, 4, 128])
def test_equal_to_the_whole_score_matrix(
    path: str, block: int, span: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relative, "QUERY_CHUNK", chunk)
    parts = inputs(block, span)
    ours = with_gradients(lambda *args: PATHS[path](*args, 0.0), parts)
    oracle = with_gradients(straightforward, parts)
    for mine, expected in zip(ours, oracle, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-12, rtol=1e-9)


def test_dropout_drops_weights_and_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relative, "QUERY_CHUNK", 4)
    block, span, dropout = 10, 6, 0.4
    parts = inputs(block, span)
    torch.manual_seed(3)
    ours = with_gradients(lambda *args: PATHS["tiled"](*args, dropout), parts)
    torch.manual_seed(3)
    kept, scale = draw_kept((GROUPS, block, span), dropout)

    def explicit(query: Tensor, key: Tensor, value: Tensor, position: Tensor) -> Tensor:
        keys = key.unfold(1, span, 1)
        scores = torch.einsum("gmw,gmwl->gml", query, keys) + query @ position
        weight = scores.softmax(-1) * kept * scale
        return torch.einsum("gml,gmwl->gmw", weight, value.unfold(1, span, 1))

    for mine, expected in zip(ours, with_gradients(explicit, parts), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-12, rtol=1e-9)


def test_bf16_is_computed_in_fp32() -> None:
    parts = [part.detach() for part in inputs(9, 7, torch.float32)]
    rounded = [part.bfloat16() for part in parts[:3]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = relative_attention(*rounded, parts[3], 0.0)
    assert out.dtype == torch.bfloat16
    expected = straightforward(*(part.float() for part in rounded), parts[3])
    torch.testing.assert_close(out.float(), expected, atol=0, rtol=2**-8)


def test_inputs_are_left_as_they_were() -> None:
    parts = [part.detach() for part in inputs(9, 7)]
    copies = [part.clone() for part in parts]
    relative_attention(*parts, 0.3)
    for part, copy in zip(parts, copies, strict=True):
        assert torch.equal(part, copy)
