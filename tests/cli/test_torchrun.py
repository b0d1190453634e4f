"""A training in several processes that is stopped or killed: one line, one exit code, restarts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from simsmoe_cli.errors import EXIT_RANK_LOST, EXIT_SIGTERM
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from tests.forked import Forked
from tests.train.tiny import TINY, events, steps

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def arguments(tmp_path: Path, corpus_dir: Path) -> list[str]:
    """Of a training that would last for minutes."""
    import yaml

    train = TINY["train"] | {"steps": 4000, "checkpoint_every": 5, "validate_every": 50}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"name": "tiny", "train": train}))
    return [
        "pretrain", "--recipe", str(tmp_path / "tiny.yaml"), "--data-dir", str(corpus_dir),
        "--runs-dir", str(tmp_path), "--name", "run",
    ]  # fmt: skip


def places(ranks: int = 2) -> list[dict[str, str]]:
    """The variables of each rank of a training that is started without torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    place |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    return [place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def start(arguments: Sequence[str], folder: Path) -> list[Forked]:
    """The processes of a training; the folder is for what they print."""
    return [Forked(arguments, folder / place["RANK"], **place) for place in places()]


def wait_for_checkpoint(run: RunDir, step: int = 1) -> None:
    until = time.monotonic() + 240
    while not any(done >= step for done in steps(run)):
        assert time.monotonic() < until
        time.sleep(0.05)


def ended(processes: Sequence[Forked]) -> tuple[list[int], list[str], list[str]]:
    """Exit codes, stdout and stderr of each."""
    found = [process.ended() for process in processes]
    return [one.code for one in found], [one.out for one in found], [one.err for one in found]


def test_a_signal_to_one_rank_stops_all_after_saving(arguments: list[str], tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    processes = start(arguments, tmp_path / "printed")
    wait_for_checkpoint(run)
    processes[1].send_signal(signal.SIGTERM)
    codes, out, errors = ended(processes)
    assert codes == [EXIT_SIGTERM, EXIT_SIGTERM], errors
    assert out[0].count("and saved; continue with") == 1
    assert out[1] == errors[0] == errors[1] == ""
    last = events(run)[-1]
    assert (last["status"], last["reason"]) == ("stopped", "SIGTERM")
    assert steps(run)[-1] == last["step"]
    (session,) = json.loads(run.environment.read_text())["sessions"]
    assert [(rank["rank"], rank["device"]) for rank in session["ranks"]] == [(0, "cpu"), (1, "cpu")]


def test_a_killed_rank_ends_the_others_with_one_line(arguments: list[str], tmp_path: Path) -> None:
    killed = 0  # the one that speaks for all
    # New processes: what torch's own threads print is settled when it is imported.
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "simsmoe_cli", *arguments],
            cwd=ROOT,
            env=os.environ | place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in places()
    ]
    wait_for_checkpoint(RunDir(tmp_path / "run"))
    processes[killed].kill()
    errors = [process.communicate(timeout=240)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes[1 - killed] == EXIT_RANK_LOST, errors
    lines = errors[1 - killed].splitlines()
    assert len(lines) == 1, lines
    assert f"lost contact with rank {killed}" in lines[0]


def test_torchrun_goes_on_by_itself(arguments: list[str], tmp_path: Path) -> None:
    """On two machines, of which one sees a rank killed and the other is asked to start again. The
    run is then the same as one that was never interrupted."""
    short = [*arguments, "--set", "train.steps=40", "--set", "train.validate_every=20"]
    run, name = RunDir(tmp_path / "run"), checkpoint.step_name(40)
    codes, _, errors = ended(
        start([*short, "--runs-dir", str(tmp_path / "whole")], tmp_path / "printed")
    )
    assert codes == [0, 0], errors
    endpoint = "127.0.0.1:" + places()[0]["MASTER_PORT"]
    launch = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=two"]
    launch += ["--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--local-addr=127.0.0.1"]
    machines = [
        subprocess.Popen(
            [sys.executable, *launch, "--max-restarts=1", "-m", "simsmoe_cli", *short],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        wait_for_checkpoint(run)
        os.kill(json.loads(run.environment.read_text())["sessions"][0]["pid"], signal.SIGKILL)
        said = [machine.communicate(timeout=240)[1] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], said
    errors = [line for line in "".join(said).splitlines() if line.startswith("simsmoe: error")]
    assert all("lost contact with rank 0" in error for error in errors), errors
    assert len(json.loads(run.environment.read_text())["sessions"]) == 2
    whole = RunDir(tmp_path / "whole" / "run")
    sums = [checkpoint.read_state(r.checkpoints / name)["sha256"] for r in (run, whole)]
    assert sums[0] == sums[1]
