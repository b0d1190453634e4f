"""`simsmoe doctor`: what it prints, for people and for machines."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_USAGE

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def test_it_looks_and_leaves_nothing_behind(simsmoe: Command, tmp_path: Path) -> None:
    done = simsmoe("doctor")
    assert done.returncode == 0
    signs = done.stderr.splitlines()  # on a busy machine, that it goes on
    assert all(sign.startswith("examining this machine: ") for sign in signs)
    assert done.stdout.rstrip().endswith("ready to train")
    for name in ("python", "torch", "cuda", "bf16", "grouped_mm", "compiler", "fastmoe", "textual"):
        assert any(line.split()[1:2] == [name] for line in done.stdout.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_machines_read_the_same_and_nothing_missing_goes_without_a_remedy(
    simsmoe: Command, tmp_path: Path
) -> None:
    # An fmoe that would end the process, as the real one does without CUDA.
    (tmp_path / "fmoe.py").write_text("raise SystemExit('killed')")
    (tmp_path / "taken").touch()
    done = simsmoe("doctor", "--json", "--runs-dir", "taken")
    report = json.loads(done.stdout)
    assert done.returncode == EXIT_USAGE
    assert report["ok"] is False
    found = {row["name"]: row for row in report["findings"]}
    assert found["runs folder"]["status"] == "broken"
    assert "--runs-dir" in found["runs folder"]["remedy"]
    assert found["torch"]["found"].startswith(torch.__version__)
    for row in report["findings"]:
        assert row["found"]
        assert (row["status"] == "ok") == (row["cost"] == "") == (row["remedy"] == "")


def test_fastmoe_without_cuda_sends_to_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.run(["pretrain", "--experts", "fastmoe", "--device", "cpu"]) == EXIT_USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("simsmoe: error: moe.backend: fastmoe needs")
    assert "simsmoe doctor" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
