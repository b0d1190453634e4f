"""Checks this machine: what is installed, what is missing, the consequences, and how to install it.

Checks try things instead of asking for versions. torch is imported inside the checks, so that a
torch that cannot be imported is a finding and not a crash.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from simsmoe_cli import __version__
from simsmoe_cli.doctor import computing, installed
from simsmoe_cli.doctor.finding import Finding

__all__ = ["Finding", "examine"]


def examine(data_dir: Path, runs_dir: Path, *, deep: bool = False) -> Iterator[Finding]:
    """Check this machine, one thing after the other.

    Args:
        data_dir, runs_dir: where corpora and runs will be written.
        deep: also compile a small function, which takes up to a minute.
    """
    yield Finding("simsmoe", "ok", f"{__version__}, {Path(__file__).parents[1]}")
    yield Finding("python", "ok", f"{platform.python_version()}, {sys.executable}")
    build = computing.torch_build()
    yield build
    if build.status == "ok":
        import torch

        gpu = computing.cuda()
        yield gpu
        device = torch.device("cuda" if gpu.status == "ok" else "cpu")
        yield computing.bf16(device)
        yield computing.grouped(device)
        yield computing.compiler(device, deep)
        yield computing.fastmoe(device)
        yield computing.processor()
    for name in installed.PACKAGES:
        yield installed.package(name)
    yield installed.folder("data folder", data_dir, "--data-dir or SIMSMOE_DATA")
    yield installed.folder("runs folder", runs_dir, "--runs-dir or SIMSMOE_RUNS")
