"""Kills by the dozen: a drill that kills commands at random moments and runs them again.

    python -m tests.kills --kills 100 --seed 1

Each round starts a command in a process of its own and kills it with SIGKILL, at a file operation
or at a moment drawn by lot. Then the same command runs undisturbed (training with --resume auto),
and what it leaves must equal what an undisturbed run leaves: events but for their times, weights,
best weights, checkpoints, and no other file. Training is killed up to three times in a row.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import inspect
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.train.tiny import recipe, without_times

# What touches a disk and passes an audit hook.
TOUCHES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.scandir"}
TRAIN = {
    "steps": 8,
    "precision": "fp32",
    "checkpoint_every": 2,
    "keep_last": 2,
    "validate_every": 1,
    "validate_blocks": 1,
    "probe_every": 4,
}


def child(folder: Path, arguments: list[str], kill_at: int | None = None) -> tuple[int, int]:
    """Start a command in a process that is forked off.

    Args:
        folder: where the process works, and of whose files it counts the operations.
        arguments: of the command.
        kill_at: dies at the operation of this number.

    Returns:
        The process, and a descriptor that gives how many operations there were.
    """
    counted, told = os.pipe()
    process = os.fork()
    if process:
        os.close(told)
        return process, counted
    try:
        os.chdir(folder)
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        touched = 0
        root = str(folder)

        def hook(event: str, args: tuple[Any, ...]) -> None:
            nonlocal touched
            if event in TOUCHES and str(args[0]).startswith((root, "runs", "out", ".")):
                touched += 1
                if touched == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        from simsmoe_cli.cli import main

        code = main.run(arguments)
        sys.stdout.flush()
        os.write(told, str(touched).encode())
        os._exit(code)
    finally:
        os._exit(99)


def undisturbed(folder: Path, arguments: list[str]) -> int:
    """Run a command to its end, which must be a good one: how many operations it took."""
    process, counted = child(folder, arguments)
    _, status = os.waitpid(process, 0)
    operations = os.read(counted, 20)
    os.close(counted)
    said = (folder / "output").read_text()
    assert os.waitstatus_to_exitcode(status) == 0, f"{arguments}\n{said[-3000:]}"
    return int(operations)


def killed(folder: Path, arguments: list[str], operations: int, rng: random.Random) -> bool:
    """Run a command and kill it, if it is not done before."""
    if rng.random() < 0.7:
        process, counted = child(folder, arguments, rng.randint(1, operations))
    else:
        process, counted = child(folder, arguments)
        time.sleep(rng.uniform(0, 1.5))
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    os.close(counted)
    code = os.waitstatus_to_exitcode(status)
    said = (folder / "output").read_text() if (folder / "output").exists() else ""
    assert code in (0, -signal.SIGKILL), f"{arguments}: exit {code}\n{said[-3000:]}"
    return code != 0


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder that two runs of the same have in common, by its path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            found[f"{path.relative_to(folder)}/"] = b""
        elif path.name == "events.jsonl":
            events = [without_times(json.loads(line)) for line in path.read_bytes().splitlines()]
            kept = [event | {"name": ""} for event in events if event["kind"] != "warning"]
            found["events.jsonl"] = json.dumps(kept).encode()
        elif path.name in ("environment.json", "log.txt"):
            found[path.name] = b""  # of every session
        elif path.name == "state.json":
            state = json.loads(path.read_bytes())
            differing = ("checksum", "events_bytes")  # events hold times, which vary in length
            found[str(path.relative_to(folder))] = json.dumps(
                {name: value for name, value in state.items() if name not in differing}
            ).encode()
        elif path.name != ".lock":
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def require_same(found: Path, expected: Path) -> None:
    """Assert that two folders hold the same."""
    ours, theirs = files(found), files(expected)
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    differing = [name for name in ours if ours[name] != theirs[name]]
    assert not differing, differing


class Drill:
    """A folder with data, a task, and a run that nothing disturbed."""

    def __init__(self, folder: Path):
        import typing

        from simsmoe_cli.data.corpora.prepare import prepare
        from simsmoe_cli.data.tasks.prepare import prepare_task
        from simsmoe_cli.recipe.load import dump_recipe

        self.folder = folder
        self.runs = folder / "runs"
        text = folder / "sources.txt"
        text.write_text(inspect.getsource(argparse) + inspect.getsource(typing))
        prepare(str(text), folder / "data/sources")
        rows = "".join(f"import number{n},{'ab'[n % 2]}\n" for n in range(60))
        (folder / "rows.csv").write_text("text,label\n" + rows)
        prepare_task(str(folder / "rows.csv"), folder / "data/letters")
        (folder / "tiny.yaml").write_text(dump_recipe(recipe(train=TRAIN)))
        self.operations = {"pretrain": undisturbed(folder, self.command("pretrain", "whole"))}
        assert (self.runs / "whole/checkpoints/step-0000006").is_dir()

    def prepare(self, subject: str) -> None:
        """Do once, undisturbed, what is then killed."""
        folder = self.folder
        if subject == "discard" and not (folder / "all").exists():
            undisturbed(folder, [*self.command("pretrain", "all"), "--set", "train.keep_last=9"])
            shutil.copytree(self.runs / "all", folder / "all")
        elif subject != "discard" and subject not in self.operations:
            self.operations[subject] = undisturbed(folder, self.command(subject, "whole"))
            if subject == "export":
                shutil.move(folder / "out", folder / "exported")
            elif subject == "report":
                shutil.move(self.runs / "whole/report", folder / "report")

    def command(self, subject: str, name: str) -> list[str]:
        """What is run of a subject."""
        if subject == "pretrain":
            return ["pretrain", "--recipe", "tiny.yaml", "--name", name]
        if subject == "finetune":
            few = [
                *("--set", "finetune.epochs=4", "--set", "train.keep_last=2"),
                *("--set", "train.block=32", "--set", "train.validate_every=1"),
                *("--set", "train.batch=24", "--set", "train.checkpoint_every=1"),
            ]
            task = ["--task", "letters", "--name", f"{name}-tuned"]
            return ["finetune", "--from", "whole", *task, *few]
        if subject == "export":
            return ["export", "whole", "out"]
        return [
            "collapse-report",
            "whole",
            "--tokens",
            "256",
            "--no-ablation",
            "--format",
            "html,json,svg",
        ]

    def training(self, subject: str, rng: random.Random) -> int:
        """Kill a training one to three times; how often it was killed."""
        name = "run" if subject == "pretrain" else "run-tuned"
        shutil.rmtree(self.runs / name, ignore_errors=True)
        command = self.command(subject, "run")
        kills = 0
        for _ in range(rng.randint(1, 3)):
            kills += killed(self.folder, command, self.operations[subject], rng)
            command = [*self.command(subject, "run"), "--resume", "auto"]
        undisturbed(self.folder, command)
        require_same(self.runs / name, self.runs / name.replace("run", "whole"))
        return kills

    def discard(self, rng: random.Random) -> int:
        """Kill a run that goes on from an older checkpoint, and deletes those after it."""
        run = self.runs / "all"
        shutil.rmtree(run)
        shutil.copytree(self.folder / "all", run)
        older = str(run / f"checkpoints/step-000000{rng.choice([2, 4, 6])}")
        kills = killed(self.folder, ["pretrain", "--resume", older], 200, rng)
        undisturbed(
            self.folder,
            ["pretrain", "--recipe", str(run / "recipe.yaml"), "--name", "all", "--resume", "auto"],
        )
        require_same(run, self.folder / "all")
        return kills

    def export(self, rng: random.Random) -> int:
        """Kill an export."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        kills = killed(self.folder, self.command("export", ""), self.operations["export"], rng)
        if not out.exists():
            undisturbed(self.folder, self.command("export", ""))
        require_same(out, self.folder / "exported")
        self._require_no_leftovers(self.folder)
        return kills

    def report(self, rng: random.Random) -> int:
        """Kill a report, with an earlier one in its place or without."""
        out = self.runs / "whole/report"
        shutil.rmtree(out, ignore_errors=True)
        if rng.random() < 0.5:
            shutil.copytree(self.folder / "report", out)
        kills = killed(self.folder, self.command("report", ""), self.operations["report"], rng)
        if out.exists():
            assert set(files(out)) == set(files(self.folder / "report"))
        undisturbed(self.folder, self.command("report", ""))
        assert set(files(out)) == set(files(self.folder / "report"))
        self._require_no_leftovers(out.parent)
        shutil.rmtree(out)
        return kills

    def _require_no_leftovers(self, folder: Path) -> None:
        left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
        assert left in ([], [".lock"]), left


def drill(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill that many times: how often of each subject."""
    made = Drill(folder)
    subjects: dict[str, Callable[[random.Random], int]] = {
        "pretrain": lambda rng: made.training("pretrain", rng),
        "finetune": lambda rng: made.training("finetune", rng),
        "discard": made.discard,
        "export": made.export,
        "report": made.report,
    }
    done: dict[str, int] = collections.Counter()
    round_number = 0
    while sum(done.values()) < kills:
        rng = random.Random(f"{seed}/{round_number}")
        subject = list(subjects)[round_number % len(subjects)]
        try:
            made.prepare(subject)
            done[subject] += subjects[subject](rng)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, round {round_number}, {subject}: {error}") from None
        round_number += 1
        print(f"round {round_number}: {sum(done.values())} kills", file=sys.stderr, flush=True)
    return dict(done)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import torch
    import torch._dynamo  # the first optimizer of each process would import it

    torch.set_num_threads(1)  # a process with threads must not be forked
    began = time.time()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        done = drill(folder, options.kills, options.seed)
    counts = ", ".join(f"{count} {name}" for name, count in done.items())
    print(f"{sum(done.values())} kills ({counts}) in {time.time() - began:.0f} s: nothing lost")


if __name__ == "__main__":
    main()
