"""Signals in the first moments of a command, while Python still imports what it needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simsmoe_cli.errors import EXIT_SIGINT, EXIT_SIGTERM

ROOT = Path(__file__).resolve().parents[2]
STARTS = {
    "the script": ["-c", "from simsmoe_cli.cli.entry import main; main()"],
    "the module": ["-m", "simsmoe_cli"],
}
# Stands for typer, and never finishes being imported.
SLOW = "import pathlib, time\npathlib.Path('importing').touch()\ntime.sleep(60)\n"


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("number", "rank"), [(signal.SIGTERM, "1"), (signal.SIGINT, "0")])
def test_a_signal_while_typer_is_imported(
    start: str, number: int, rank: str, tmp_path: Path
) -> None:
    (tmp_path / "typer.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, *STARTS[start], "list"],
        cwd=tmp_path,
        env={**os.environ, "RANK": rank, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "importing").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    name, code = ("SIGTERM", EXIT_SIGTERM) if number == signal.SIGTERM else ("Ctrl-C", EXIT_SIGINT)
    line = f"simsmoe: stopped by {name}; nothing is left half-written\n"
    assert err == (line if rank == "0" else "")
    assert (out, process.returncode) == ("", code)


def test_a_command_runs_as_ever() -> None:
    done = subprocess.run(
        [sys.executable, *STARTS["the script"], "--version"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("simsmoe ")
    assert done.returncode == 0
