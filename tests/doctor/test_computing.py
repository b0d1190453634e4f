"""The checks of torch, GPU, compiler and expert backends: they survive whatever is missing."""

from __future__ import annotations

import os
import sys
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.doctor import Finding, computing, examine
from tests.moe import fmoe_standin

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


def findings(tmp_path: Path) -> dict[str, Finding]:
    return {found.name: found for found in examine(tmp_path / "data", tmp_path / "runs")}


def test_without_torch_it_says_so_and_looks_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = findings(tmp_path)
    assert found["torch"].status == "broken"
    assert found["sentencepiece"].status == "ok"
    assert "grouped_mm" not in found


def test_an_older_torch_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch, "__version__", "2.10.1+cu128")
    found = findings(tmp_path)["torch"]
    assert found.status == "broken"
    assert "older than 2.11" in found.found


def test_torch_needed_is_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    major, minor = computing.TORCH_NEEDED
    assert f"torch>={major}.{minor}" in project["dependencies"]


def test_a_driver_that_does_not_fit_is_told_from_a_cpu_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unavailable() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert computing.cuda().found == "this build of torch has none"
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    found = computing.cuda()
    assert found.status == "missing"
    assert "driver on your system is too old" in found.found
    assert "CUDA 12.8" in found.remedy


def refuse(*args: object, **options: object) -> Tensor:
    raise RuntimeError("not on this device\nmore about it")


@pytest.mark.parametrize(
    ("grouped_mm", "expected"),
    [
        (refuse, "grouped fails: not on this device"),
        (lambda rows, weight, offs: rows @ weight[0], "something else than the loop"),
    ],
    ids=["refuses", "wrong"],
)
def test_grouped_counts_when_it_computes_what_the_loop_does(
    monkeypatch: pytest.MonkeyPatch, grouped_mm: Callable[..., Tensor], expected: str
) -> None:
    assert computing.grouped(CPU).status == "ok"
    monkeypatch.setattr(F, "grouped_mm", grouped_mm)
    found = computing.grouped(CPU)
    assert found.status == "missing"
    assert found.found.endswith(expected)
    assert "--experts loop" in found.cost


def test_looking_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    computing.grouped(CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_fastmoe_counts_when_it_computes_what_the_loop_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fmoe_standin.install(monkeypatch)
    assert computing.fastmoe(CPU).status == "ok"
    # fastmoe before its issue 170 was mended: zeros in bf16, and no error.
    monkeypatch.setattr(
        fmoe_standin.Extension,
        "linear_forward",
        lambda rows, count, weight, bias: rows.new_zeros(rows.shape[0], weight.shape[1]),
    )
    found = computing.fastmoe(CPU)
    assert found.status == "missing"
    assert "something else than the loop" in found.found
    assert "ee3c561" in found.remedy


def test_a_compiler_that_is_not_there_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = computing.compiler(CPU, deep=False)
    assert found.status == "missing"
    assert "no-such-compiler" in found.found
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    assert computing.compiler(CPU, deep=False).status == "ok"
    assert computing.compiler(CPU, deep=True).found == "torch.compile fails: not on this device"


def test_idle_cores_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert computing.processor().remedy == "Unset OMP_NUM_THREADS."
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert computing.processor().status == "ok"
