"""Where tests of devices run: on a CPU always, on CUDA where there is a device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.no_waiting import NoWaiting

HERE = torch.cuda.is_available()
ON_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not HERE, reason="no CUDA device here")]
CUDA = pytest.param("cuda", marks=ON_CUDA)
BOTH = ["cpu", CUDA]
POISONED_BYTES = {"cpu": 2**18, "cuda": 2**26}


@contextlib.contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """Whatever waits on the device raises. A CPU never waits, so there operators are watched."""
    if device == "cpu":
        with NoWaiting():
            yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextlib.contextmanager
def only_repeatable_algorithms() -> Iterator[None]:
    """Operations without a deterministic algorithm raise, and memory that nothing was written to
    is not a number."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def poison_freed_memory(device: str) -> None:
    """Leave NaN in the memory that the next tensors of a device are given."""
    for power in range(9, POISONED_BYTES[device].bit_length()):
        size = 2**power
        left = [torch.full((size // 4,), torch.nan, device=device) for _ in range(4)]
        del left


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| over |expected|, norms of all entries; NaN in one place is NaN in both."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    assert found.shape == expected.shape
    assert torch.equal(found.isnan(), expected.isnan()), "NaN in different places"
    found, expected = found.nan_to_num(), expected.nan_to_num()
    difference = (found - expected).norm().item()
    size = expected.norm().item()
    return difference / size if size else difference


def assert_near(
    found: dict[str, Tensor | None], expected: dict[str, Tensor | None], most: float
) -> float:
    """Every tensor within a relative error; the largest. All that are off are named."""
    assert found.keys() == expected.keys()
    errors: dict[str, float] = {}
    for name, theirs in expected.items():
        ours = found[name]
        assert (ours is None) == (theirs is None), f"{name}: there is one and not the other"
        if ours is not None and theirs is not None:
            errors[name] = relative_error(ours, theirs)
    wrong = {name: error for name, error in errors.items() if not error <= most}
    assert not wrong, f"relative errors above {most:g}: {wrong}"
    return max(errors.values(), default=0.0)
