"""Freed memory is kept where it was asked for."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from simsmoe_cli.train.allocator import keep_freed_memory
device = torch.device({device!r})
keep_freed_memory(device)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)  # 64 MiB: 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(20):
    faults()
print(sum(faults() for _ in range(10)))
"""


def faults(device: str, **environment: str) -> int:
    """Pages the system clears for ten tensors of 16,384 pages, each freed before the next.

    After twenty others: it takes some until a place of the right size has come together.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(device=device)],
        env=clean | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_the_next_tensor_takes_the_memory_of_the_last() -> None:
    assert faults("cpu") < 20_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
@pytest.mark.parametrize(
    ("device", "environment"), [("cuda", {}), ("cpu", {"MALLOC_TRIM_THRESHOLD_": "1000000"})]
)
def test_elsewhere_and_where_the_user_chose_nothing_is_changed(
    device: str, environment: dict[str, str]
) -> None:
    assert faults(device, **environment) > 100_000
