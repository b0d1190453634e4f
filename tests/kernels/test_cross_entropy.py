"""The loss in chunks against the plain one, gradients too, and the memory it takes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.kernels import cross_entropy
from simsmoe_cli.kernels.cross_entropy import IGNORED, total_cross_entropy

TOKENS, WIDTH, VOCABULARY = 37, 8, 23


def problem(dtype: torch.dtype, bias: bool) -> tuple[list[Tensor], Tensor]:
    """Hidden states, weight and bias that learn, and targets of which some are not scored."""
    torch.manual_seed(0)
    shapes = [(TOKENS, WIDTH), (VOCABULARY, WIDTH), *([(VOCABULARY,)] if bias else [])]
    target = torch.randint(VOCABULARY, (TOKENS,))
    target[[0, 5, 36]] = IGNORED
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes], target


def loss_and_gradients(parts: list[Tensor], target: Tensor, scale: float = 1.0) -> list[Tensor]:
    hidden, weight, *bias = parts
    nats = total_cross_entropy(hidden, weight, bias[0] if bias else None, target)
    return [nats.detach(), *torch.autograd.grad(scale * nats, parts)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 5, 36, 37])
def test_chunks_change_nothing(chunk: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, target = problem(torch.float64, bias)
    hidden, weight, *rest = parts
    logits = F.linear(hidden, weight, *rest)
    nats = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
    plain = [nats.detach(), *torch.autograd.grad(0.25 * nats, parts)]
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", chunk * VOCABULARY)
    for ours, oracle in zip(loss_and_gradients(parts, target, 0.25), plain, strict=True):
        torch.testing.assert_close(ours, oracle)


def test_gradients_are_those_of_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", 4 * VOCABULARY)
    parts, target = problem(torch.float64, bias=True)
    assert torch.autograd.gradcheck(
        lambda *given: total_cross_entropy(*given, target), tuple(parts)
    )


def test_bf16_autocast_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in bf16, the loss in fp32, gradients in the parameters' own precision."""
    parts, target = problem(torch.float32, bias=True)
    exact = loss_and_gradients(parts, target)
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", 4 * VOCABULARY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = loss_and_gradients(parts, target)
    assert [part.dtype for part in rough] == [torch.float32] * 4
    for ours, oracle in zip(rough, exact, strict=True):
        torch.testing.assert_close(ours, oracle, rtol=0.03, atol=0.03)
    assert not torch.equal(rough[0], exact[0])


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_does_not_learn_gets_no_gradient(frozen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", 4 * VOCABULARY)
    parts, target = problem(torch.float64, bias=False)
    expected = loss_and_gradients(parts, target)[2 - frozen]
    parts[frozen].requires_grad_(False)
    total_cross_entropy(*parts, None, target).backward()
    assert parts[frozen].grad is None
    torch.testing.assert_close(parts[1 - frozen].grad, expected)


MEASURE = """
import resource, torch
from simsmoe_cli.kernels import cross_entropy
torch.set_num_threads(1)
cross_entropy.CHUNK_LOGITS = 1 << 22
tokens, width, words = 2048, 16, 50_000
hidden = torch.randn(tokens, width, requires_grad=True)
weight = torch.randn(words, width, requires_grad=True)
target = torch.randint(words, (tokens,))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.no_grad():
    cross_entropy.total_cross_entropy(hidden, weight, None, target)
cross_entropy.total_cross_entropy(hidden, weight, None, target).backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_is_bounded_by_a_chunk() -> None:
    """391 MiB of logits, of which the plain loss holds three copies, 16 MiB at a time."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=120, check=True
    )
    grown_mib = float(done.stdout)
    assert grown_mib < 200
