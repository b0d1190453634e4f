"""What a training takes of its machine."""

from __future__ import annotations

import time

import pytest
import torch

from simsmoe_cli.run.machine import MachineMeter, resident_bytes


def test_processor_and_memory_of_this_process() -> None:
    meter = MachineMeter(torch.device("cpu"))
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    busy = meter.report()
    assert set(busy) == {"cpu_percent", "ram_mb"}
    assert busy["ram_mb"] == pytest.approx(resident_bytes() / 1e6, rel=0.1)
    assert 5e7 < resident_bytes() < 1e11
    time.sleep(0.2)
    assert meter.report()["cpu_percent"] < busy["cpu_percent"]


def test_a_gpu_without_nvml_has_its_memory_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_nvml(_device: torch.device) -> int:
        asked.append(1)
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20_000_000_000, 80_000_000_000))
    monkeypatch.setattr(torch.cuda, "utilization", no_nvml)
    meter = MachineMeter(torch.device("cuda"))
    for _ in range(2):
        found = meter.report()
        assert (found["gpu_mb"], found["gpu_total_mb"]) == (60_000, 80_000)
        assert "gpu_percent" not in found
    assert len(asked) == 1
    monkeypatch.setattr(torch.cuda, "utilization", lambda _device: 87)
    assert MachineMeter(torch.device("cuda")).report()["gpu_percent"] == 87
