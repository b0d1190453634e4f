"""How much memory there is, as the system and its control groups tell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from simsmoe_cli.model import available_memory as memory

CPU = torch.device("cpu")


def test_memory_is_the_least_of_system_and_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (groups / "batch" / "job").mkdir(parents=True)
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(memory, "CGROUPS", groups)
    assert memory.available(CPU) is None
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert memory.available(CPU) == 8000 * 1024
    (proc / "self" / "cgroup").write_text("0::/batch/job\n")
    (groups / "batch" / "job" / "memory.max").write_text("max\n")
    (groups / "batch" / "job" / "memory.current").write_text("10\n")
    assert memory.available(CPU) == 8000 * 1024
    (groups / "batch" / "memory.max").write_text("5000000\n")
    (groups / "batch" / "memory.current").write_text("4000000\n")
    assert memory.available(CPU) == 1_000_000
    (groups / "batch" / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert memory.available(CPU) == 1_500_000
    (groups / "memory" / "old").mkdir(parents=True)
    (groups / "memory" / "old" / "memory.limit_in_bytes").write_text("700\n")
    (groups / "memory" / "old" / "memory.usage_in_bytes").write_text("300\n")
    (proc / "self" / "cgroup").write_text("5:cpu:/x\n4:memory:/old\n")
    assert memory.available(CPU) == 400
