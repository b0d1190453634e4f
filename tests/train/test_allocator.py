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
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)  # 64 MiB: 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for device in {devices!r}:
    keep_freed_memory(torch.device(device))
    for _ in range(20):
        faults()
    print(sum(faults() for _ in range(10)))
"""


def faults(*devices: str, **environment: str) -> list[int]:
    """Pages the system clears for ten tensors of 16,384 pages, each freed before the next, after
    memory is to be kept for the first device, then for the next one.

    After twenty other tensors: it takes some until a place of the right size has come together.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(devices=devices)],
        env=clean | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_the_next_tensor_takes_the_memory_of_the_last_on_a_cpu_alone() -> None:
    elsewhere, here = faults("cuda", "cpu")
    assert elsewhere > 100_000
    assert here < 20_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_what_the_user_chose_is_not_changed() -> None:
    (found,) = faults("cpu", MALLOC_TRIM_THRESHOLD_="1000000")
    assert found > 100_000
