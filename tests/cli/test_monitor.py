"""`simsmoe monitor`: a picture, JSON, the dashboard, or a clear refusal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE
from simsmoe_cli.monitor.serve import MonitorServer
from tests.monitor.made_run import write_run

Capture = pytest.CaptureFixture[str]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    write_run(tmp_path / "runs" / "one", until=500, total=500)
    return tmp_path / "runs"


def refused(capture: Capture, *arguments: str) -> tuple[int, str]:
    """Exit code and message of a command that prints nothing else."""
    code = main.run(["monitor", *arguments])
    out, err = capture.readouterr()
    assert out == ""
    assert err.startswith("simsmoe: error: ")
    assert err.count("\n") == 1
    return code, err


def test_a_picture_in_a_pipe_is_plain_text(simsmoe: Command, runs_dir: Path) -> None:
    done = simsmoe("monitor", "one", "--once", "--runs-dir", str(runs_dir))
    assert (done.returncode, done.stderr) == (0, "")
    assert "one  finished" in done.stdout
    assert "100% · step 500/500" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_json_is_one_snapshot(simsmoe: Command, runs_dir: Path) -> None:
    write_run(runs_dir / "two", until=250, finished=False)
    done = simsmoe("monitor", "one", "two", "one", "--json", "--runs-dir", str(runs_dir))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert [(run["name"], run["status"]) for run in found["runs"]] == [
        ("one", "finished"),
        ("two", "stale"),
    ]


def test_the_newest_run_is_the_one_without_a_name(runs_dir: Path, capsys: Capture) -> None:
    assert main.run(["monitor", "--json", "--runs-dir", str(runs_dir)]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["name"] == "one"


def test_thresholds_are_those_asked_for(runs_dir: Path, capsys: Capture) -> None:
    arguments = ["monitor", "one", "--json", "--runs-dir", str(runs_dir)]
    assert main.run([*arguments, "--cka-above", "0.05", "--load-cv-above", "9"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert {alert["kind"] for alert in run["alerts"]} == {"cka"}


def test_a_picture_of_a_run_that_is_not_there_names_the_nearest(
    runs_dir: Path, capsys: Capture
) -> None:
    code, message = refused(capsys, "oen", "--once", "--runs-dir", str(runs_dir))
    assert code == EXIT_DATA
    assert "no run 'oen'. Did you mean 'one'?" in message


def test_a_picture_of_nothing_says_how_to_get_a_run(tmp_path: Path, capsys: Capture) -> None:
    code, message = refused(capsys, "--once", "--runs-dir", str(tmp_path / "runs"))
    assert code == EXIT_DATA
    assert "there are no runs here" in message
    assert "simsmoe pretrain" in message


def test_the_dashboard_without_a_terminal_is_one_picture(simsmoe: Command, runs_dir: Path) -> None:
    done = simsmoe("monitor", "one", "--runs-dir", str(runs_dir))
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "input, output, error output are redirected: one picture instead" in done.stderr
    assert done.stdout == simsmoe("monitor", "one", "--once", "--runs-dir", str(runs_dir)).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--serve", "--once"], "exclude each other"),
        (["--serve", "--json"], "exclude each other"),
        (["--port", "8001", "--once"], "--port is for --serve"),
        (["--host", "0.0.0.0"], "--host is for --serve"),
        (["--interval", "0"], "--interval"),
        (["--cka-above", "2"], "--cka-above"),
        (["--port", "70000", "--serve"], "--port"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    arguments: list[str], words: str, runs_dir: Path, capsys: Capture
) -> None:
    code, message = refused(capsys, "one", *arguments, "--runs-dir", str(runs_dir))
    assert code == EXIT_USAGE
    assert words in message


class Screen:
    """Stands for standard input and output of a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the dashboard was opened with, instead of opening it."""
    from simsmoe_cli.monitor import app

    calls: list[tuple[Any, ...]] = []

    class Dashboard:
        def __init__(self, *arguments: Any):
            calls.append(arguments)

        def run(self) -> None:
            pass

    monkeypatch.setattr(app, "Monitor", Dashboard)
    monkeypatch.setattr(sys, "stdin", Screen())
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    return calls


def test_the_dashboard_opens_runs_that_are_yet_to_come(
    opened: list[tuple[Any, ...]], runs_dir: Path
) -> None:
    arguments = ["one", "soon", "--runs-dir", str(runs_dir), "--silent-after", "7"]
    assert main.run(["monitor", *arguments, "--interval", "0.5"]) == 0
    ((paths, where, thresholds, interval),) = opened
    assert paths == [runs_dir / "one", runs_dir / "soon"]
    assert (where, interval) == (runs_dir, 0.5)
    assert thresholds.silent_after_s == 7


def test_errors_that_go_elsewhere_leave_no_blank_screen(
    capsys: Capture,
    opened: list[tuple[Any, ...]],
    runs_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Textual draws on the error stream, so `2>file` would hide the dashboard."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert main.run(["monitor", "one", "--runs-dir", str(runs_dir)]) == 0
    assert opened == []
    printed = capsys.readouterr().out
    assert "error output is redirected: one picture instead" in printed.splitlines()[0]
    assert "learning rate" in printed


def test_the_dashboard_without_a_name_opens_the_list(
    opened: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    assert main.run(["monitor", "--runs-dir", str(tmp_path / "none")]) == 0
    assert opened[0][0] == []


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the server was made with, instead of serving."""
    calls: list[dict[str, Any]] = []

    def serve(server: MonitorServer) -> None:
        calls.append(vars(server))
        if server.port == 81:
            raise OSError(98, "Address already in use")

    monkeypatch.setattr(MonitorServer, "serve", serve)
    return calls


def test_serving_is_for_this_machine_unless_told_otherwise(
    served: list[dict[str, Any]], runs_dir: Path
) -> None:
    arguments = ["monitor", "a run", "--serve", "--runs-dir", str(runs_dir)]
    assert main.run(arguments) == 0
    assert (served[0]["host"], served[0]["port"]) == ("127.0.0.1", 8000)
    assert served[0]["public_url"] == "http://127.0.0.1:8000"
    assert served[0]["command"].endswith("-- 'a run'")
    assert f"--runs-dir {runs_dir}" in served[0]["command"]
    assert main.run([*arguments, "--host", "0.0.0.0", "--port", "9000"]) == 0
    assert (served[1]["host"], served[1]["port"]) == ("0.0.0.0", 9000)
    assert "0.0.0.0" not in served[1]["public_url"]


def test_a_port_in_use_is_said(
    served: list[dict[str, Any]], runs_dir: Path, capsys: Capture
) -> None:
    code, message = refused(capsys, "one", "--serve", "--port", "81", "--runs-dir", str(runs_dir))
    assert code == EXIT_USAGE
    assert "cannot listen at 127.0.0.1:81: Address already in use" in message


def test_serving_without_its_extra_says_what_to_install(
    runs_dir: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "simsmoe_cli.monitor.serve")
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    code, message = refused(capsys, "one", "--serve", "--runs-dir", str(runs_dir))
    assert code == EXIT_USAGE
    assert "python -m pip install 'simsmoe[serve]'" in message
