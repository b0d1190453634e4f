"""`simsmoe compare` on the command line."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE
from tests.compare.made_runs import made_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with runs "one", "two" and "[red]three"."""
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "runs" / "one")
    made_run(tmp_path / "runs" / "two", 1.9, 0.3, moe={"top_k": 1})
    made_run(tmp_path / "runs" / "[red]three", 2.1)


def test_a_table_and_curves(capsys: Capture) -> None:
    assert main.run(["compare", "one", "runs/two", "[red]three"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = {" ".join(line.split()) for line in printed.out.splitlines()}
    assert "one two [red]three" in lines
    assert "moe.top_k 2 1 2" in lines
    assert "test BPC 2.0000 1.9000* 2.1000" in lines
    for curve in ("training BPC", "validation BPC", "mean debiased CKA of all pairs", "load CV"):
        assert any(line.startswith(curve) for line in lines)


def test_many_runs_have_a_row_each(capsys: Capture, tmp_path: Path) -> None:
    for number in range(3):
        made_run(tmp_path / "runs" / f"more-{number}", 3.0)
    names = ["one", "two", *(f"more-{number}" for number in range(3))]
    assert main.run(["compare", *names]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {"one", "two", "more-0"} <= {line[0] for line in lines if line}


def test_json(capsys: Capture) -> None:
    assert main.run(["compare", "one", "two", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["differing_settings"] == ["moe.top_k"]
    assert [run["measures"]["test_bpc"] for run in report["runs"]] == [2.0, 1.9]


def test_written_too(capsys: Capture) -> None:
    assert main.run(["compare", "one", "two", "--out", "both.html"]) == 0
    assert capsys.readouterr().out.endswith("both.html\n")
    assert "<svg" in Path("both.html").read_text()


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_compared(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("sealed").mkdir()
    real = tempfile.mkdtemp

    def refused(suffix: Any = None, prefix: Any = None, dir: Any = None) -> str:
        if dir is not None and Path(dir).name == "sealed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(suffix, prefix, dir)

    monkeypatch.setattr(tempfile, "mkdtemp", refused)
    assert main.run(["compare", "one", "tow", "--out", "sealed/both.html"]) == EXIT_USAGE
    assert "sealed: cannot write here: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["one"], EXIT_USAGE, "compare needs two or more runs"),
        (["one", "one"], EXIT_USAGE, "this run is given twice"),
        (["one", "tow"], EXIT_DATA, "no run 'tow'. Did you mean 'two'?"),
        (["one", "two", "--out", "x.gif"], EXIT_USAGE, "--out: unknown suffix '.gif'"),
        ([], EXIT_USAGE, "Missing argument"),
    ],
)
def test_refusals(capsys: Capture, arguments: list[str], code: int, said: str) -> None:
    assert main.run(["compare", *arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert {path.name for path in Path().iterdir()} == {"runs"}


def test_comparing_imports_no_torch() -> None:
    program = (
        "from simsmoe_cli.cli.main import run\n"
        "assert run(['compare', 'one', 'two']) == 0\n"
        "import sys\nassert not {'torch', 'matplotlib', 'textual'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
