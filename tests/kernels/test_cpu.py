"""Which tensors take the kernels for CPUs."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.kernels.cpu import as_on_accelerators, on_cpu_path


def test_a_cpu_takes_them_and_other_devices_do_not() -> None:
    assert on_cpu_path(torch.zeros(1))
    assert not on_cpu_path(torch.zeros(1, device="meta"))


def test_the_switch_is_undone_after_an_error() -> None:
    def fail() -> None:
        with as_on_accelerators():
            assert not on_cpu_path(torch.zeros(1))
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert on_cpu_path(torch.zeros(1))


def test_compiled_code_does_not_take_them() -> None:
    def taken(x: torch.Tensor) -> torch.Tensor:
        return x + on_cpu_path(x)

    torch.compiler.reset()
    assert taken(torch.zeros(1)).item() == 1
    assert torch.compile(taken, backend="eager", fullgraph=True)(torch.zeros(1)).item() == 0
