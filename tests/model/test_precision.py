"""What precision "auto" is."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from simsmoe_cli.model import precision
from simsmoe_cli.model.precision import choose_precision, resolve_precision

CPU = torch.device("cpu")


@pytest.fixture
def bf16_cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A CPU with instructions for bf16, and how much faster they are."""

    def make(gain: float) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
        monkeypatch.setattr(precision, "bf16_gain", lambda: gain)

    return make


@pytest.mark.parametrize(("gain", "expected"), [(0.6, "fp32"), (1.1, "fp32"), (4.0, "bf16")])
def test_a_cpu_with_bf16_computes_in_it_where_that_is_faster(
    bf16_cpu: Callable[[float], None], gain: float, expected: str
) -> None:
    bf16_cpu(gain)
    assert resolve_precision("auto", CPU) == expected
    assert f"{gain:.1f} times as fast" in choose_precision(CPU).why


def test_a_cpu_without_bf16_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    monkeypatch.setattr(precision, "bf16_gain", lambda: pytest.fail("probed"))
    assert resolve_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_what_was_asked_for_holds(bf16_cpu: Callable[[float], None], name: str) -> None:
    bf16_cpu(9.0)
    assert resolve_precision(name, CPU) == name


def test_the_probe_compares_real_products() -> None:
    threads = torch.get_num_threads()
    assert 0.01 < precision.bf16_gain() < 100
    assert torch.get_num_threads() == threads


def test_the_probe_counts_processor_time_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock, other work on the machine could take any time between two readings."""
    spent, threads, plain = [0.0], [], torch.mm

    def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        spent[0] += 4.0 if left.dtype == torch.float32 else 1.0
        threads.append(torch.get_num_threads())
        return plain(left, right)

    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr(time, "thread_time", lambda: spent[0])
    assert precision.bf16_gain.__wrapped__() == 4.0
    assert set(threads) == {1}
