"""Kills random ranks of a training at random moments; torchrun must bring it to the same end.

    python -m tests.parallel.kills --kills 20 --ranks 2

Compares the last checkpoint with that of a training that nobody interrupted, bit for bit. Exits
with 1 if they differ, or if the training did not reach its end.
"""

from __future__ import annotations

import argparse
import inspect
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import typing
from pathlib import Path

import yaml

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from tests.train.tiny import TINY, steps

ROOT = Path(__file__).resolve().parents[2]
EVERY = 10  # steps between checkpoints


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        total = EVERY * (given.kills + 2)
        made = TINY | {"name": "tiny", "train": TINY["train"] | {"steps": total}}
        made["train"] |= {"checkpoint_every": EVERY, "validate_every": EVERY}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(made))
        (folder / "text.txt").write_text(inspect.getsource(argparse) + inspect.getsource(typing))
        prepare(str(folder / "text.txt"), folder / "sources")
        whole = train(folder, "whole", given.ranks, 0, draw)
        killed = train(folder, "killed", given.ranks, given.kills, draw)
        name = checkpoint.step_name(total)
        sums = [checkpoint.read_state(run.checkpoints / name)["sha256"] for run in (whole, killed)]
    print("the same, bit for bit" if sums[0] == sums[1] else f"DIFFERENT: {sums}")
    return int(sums[0] != sums[1])


def train(folder: Path, name: str, ranks: int, kills: int, draw: random.Random) -> RunDir:
    """Train to the end under torchrun, with so many kills on the way."""
    run = RunDir(folder / "runs" / name)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}",
        f"--max-restarts={kills}", "-m", "simsmoe_cli", "pretrain", "--recipe",
        str(folder / "tiny.yaml"), "--data-dir", str(folder), "--runs-dir", str(folder / "runs"),
        "--name", name,
    ]  # fmt: skip
    with open(folder / f"{name}.log", "w") as log:
        torchrun = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    for number in range(kills):
        before = max(steps(run), default=0)
        while max(steps(run), default=0) <= before and torchrun.poll() is None:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.5))
        victims = children(torchrun.pid)
        if victims:
            victim = draw.choice(victims)
            os.kill(victim, signal.SIGKILL)
            print(f"kill {number + 1} after step {max(steps(run))}", flush=True)
    if torchrun.wait() != 0:
        print((folder / f"{name}.log").read_text()[-3000:])
        raise SystemExit(1)
    return run


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


if __name__ == "__main__":
    raise SystemExit(main())
