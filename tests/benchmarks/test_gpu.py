"""`python -m benchmarks.run gpu`, in small: every kind of case runs, and is kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, run
from benchmarks.gpu_cases.steps import is_product

# transformers warns while it is compiled.
pytestmark = pytest.mark.filterwarnings("default")


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.run", "gpu", *arguments])
    run.main()


# Of cases that differ in their sizes alone, one.
KINDS = [
    "dense bf16 product",
    "copy",
    "grouped products, wide",
    "mistral-modern, (eager|compiled .layers)",
    "wide, compiled .whole",
    "transformers Mixtral, wide",
    "mistral-modern, published",
    "probe",
    "generate",
]


def test_every_kind_of_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kept = tmp_path / "gpu.json"
    command(
        monkeypatch,
        "--tiny",
        "--device",
        "cpu",
        "--json",
        str(kept),
        "--only",
        f"^({'|'.join(KINDS)})",
    )
    rows = json.loads(kept.read_text())["results"]["gpu"]
    assert {row["name"]: row["error"] for row in rows if "error" in row} == {}
    assert not [row["name"] for row in rows if "not_run" in row]
    steps = [row for row in rows if "step_ms" in row]
    assert len(steps) == 6
    for row in steps:
        assert row["tokens_per_s"] > 0
        assert row["mfu"] > 0
        assert row["predicted_gib"] > 0
    profiled = [row["kernels"] for row in steps if "kernels" in row]
    assert len(profiled) == 5
    for kernels in profiled:
        assert any(kernel["product"] and kernel["name"].endswith("mm") for kernel in kernels)
    printed = capsys.readouterr().out
    assert all(row["name"] in printed for row in rows)


def test_a_case_that_fails_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """And what there is no time for is said."""

    def fail() -> dict[str, Any]:
        raise RuntimeError("no such kernel")

    made = [
        gpu.GpuCase("broken", 0.0, fail),
        gpu.GpuCase("whole", 0.0, lambda: {"seconds": 1.5}),
        gpu.GpuCase("late", 1e6, fail),
    ]
    monkeypatch.setattr(gpu, "cases", lambda bench: made)
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    seen: list[int] = []
    rows = gpu.gpu("cpu", 7.0, True, lambda rows: seen.append(len(rows)), all_of_it=False)
    assert seen == [1, 2, 3]
    assert rows[0]["error"] == "RuntimeError: no such kernel"
    assert "no such kernel" in rows[0]["traceback"]
    assert rows[1]["seconds"] == 1.5
    assert "needs about 1000000" in rows[2]["not_run"]
    assert "late" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kernel", "product"),
    [
        ("nvjet_hsh_192x192_64x3_2x1_v_bz_coopB_NNT", True),
        ("void cutlass::device_kernel<at::cuda::detail::enable_3x_kernel_for_sm9x>", True),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7", True),
        ("void flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash_bwd_kernel_traits>", True),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", True),
        ("triton_tem_fused_mm_3", True),
        ("triton_poi_fused__grouped_mm_mul_silu_4", False),
        ("void at::native::vectorized_elementwise_kernel<4>", False),
        ("aten::_grouped_mm", True),
        ("aten::mul", False),
    ],
)
def test_what_counts_as_a_product(kernel: str, product: bool) -> None:
    assert is_product(kernel) == product
