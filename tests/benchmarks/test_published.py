"""The stand-in for fastmoe's extension that `python -m benchmarks.run published` uses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import run
from benchmarks.published_code import FmoeCuda
from tests.moe.fmoe_standin import Extension

EXPERTS, INNER, OUTER = 5, 6, 4
GATE_R = torch.tensor([3, -1, 0, 3, 4, 0, -1, 3, 1])
SORTED = torch.tensor([0, 0, 1, 3, 3, 3, 4])


def counted(extension: type) -> Tensor:
    count_N = torch.zeros(EXPERTS, dtype=torch.int32)
    extension.expert_count(GATE_R, count_N)  # type: ignore[attr-defined]
    return count_N


def test_it_counts_the_slots_of_each_expert() -> None:
    assert counted(FmoeCuda).tolist() == counted(Extension).tolist() == [2, 1, 0, 3, 1]


def test_it_sorts_slots_by_expert() -> None:
    end_N = counted(FmoeCuda).cumsum(0).int()
    slot_S = torch.empty(len(SORTED), dtype=torch.int64)
    FmoeCuda.assign_pos(end_N, GATE_R, slot_S)
    assert torch.equal(GATE_R[slot_S], SORTED)
    assert len(set(slot_S.tolist())) == len(SORTED)


@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_the_strict_stand_in(bias: bool) -> None:
    torch.manual_seed(0)
    count_N = counted(FmoeCuda).long()
    rows, grad = torch.randn(len(SORTED), INNER), torch.randn(len(SORTED), OUTER)
    weight = torch.randn(EXPERTS, OUTER, INNER)
    biases = torch.randn(EXPERTS, OUTER) if bias else None
    out = [one.linear_forward(rows, count_N, weight, biases) for one in (FmoeCuda, Extension)]
    torch.testing.assert_close(*out)
    grads = [
        one.linear_backward(grad, rows, count_N, weight, biases) for one in (FmoeCuda, Extension)
    ]
    torch.testing.assert_close(*grads)


def test_folders_without_the_code_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["benchmarks.run", "published", "--checkout", str(tmp_path)]
    for given, expected in (
        (words, "published needs --checkout and --fastmoe"),
        ([*words, "--fastmoe", str(tmp_path)], "holds no custom_transformer.py"),
    ):
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as stopped:
            run.main()
        assert stopped.value.code == 2
        assert expected in capsys.readouterr().err
