"""The run folder: one process trains in it at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simsmoe_cli.errors import UserError
from simsmoe_cli.run.folder import RunDir

ROOT = Path(__file__).resolve().parents[2]


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from simsmoe_cli.run.folder import RunDir\n"
        "with RunDir(Path(sys.argv[1])).locked(): print('held', flush=True); input()\n"
    )
    run = RunDir(tmp_path / "mine")
    with subprocess.Popen(
        [sys.executable, "-c", program, str(run.path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError) as caught, run.locked():
            pass
        assert "another process is training" in str(caught.value)
        assert str(run.path) in str(caught.value)
        other.kill()
        other.wait()
    with run.locked():
        assert run.path.is_dir()


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "mine")
    with pytest.raises(ZeroDivisionError), run.locked():
        raise ZeroDivisionError
    with run.locked():
        pass
