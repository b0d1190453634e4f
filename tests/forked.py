"""Starts a command in a process that is forked off: it is ready at once, where a new one imports
torch for seconds.

It has a pid, signals, streams and an exit code of its own. What happens before torch is imported
needs a new process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import NamedTuple

import torch
import torch._dynamo  # the first optimizer of each process would import it

from simsmoe_cli.cli import main

# CUDA forbids a fork.
METHOD = "spawn" if torch.cuda.is_available() else "fork"
OUTPUT = ("out", "err")


class Ended(NamedTuple):
    """How a command ended: its exit code (a signal's is negative), and what it printed."""

    code: int
    out: str
    err: str


class Forked:
    """A command line of simsmoe that runs."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        before: Callable[[], object] | None = None,
        **environment: str,
    ):
        """Start it.

        Args:
            arguments: of the command line.
            folder: for what it prints.
            before: called in the process first.
            environment: variables that it has besides those of this process.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._printed = [folder / name for name in OUTPUT]
        for path in self._printed:
            path.touch()
        self.process = multiprocessing.get_context(METHOD).Process(
            target=_command, args=(list(arguments), self._printed, before, environment)
        )
        self.process.start()

    def printed(self) -> str:
        """What it has printed so far; it must be running."""
        out, err = (path.read_text() for path in self._printed)
        assert self.process.is_alive(), err
        return out

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ended(self) -> Ended:
        """Wait for its end."""
        self.process.join(240)
        if self.process.exitcode is None:
            self.process.kill()
        out, err = (path.read_text() for path in self._printed)
        assert self.process.exitcode is not None, f"the command does not end\n{out}\n{err}"
        return Ended(self.process.exitcode, out, err)


def _command(
    arguments: list[str],
    printed: list[Path],
    before: Callable[[], object] | None,
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    # The server that forks trainings of a sweep is no child of this process, which starts its own.
    forkserver._forkserver._forkserver_pid = None  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in enumerate(printed, 1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    main.prepare_streams()
    if before is not None:
        before()
    code = main.run(arguments)
    sys.stdout.flush()
    os._exit(code)  # as the command does, since threads may wait for other ranks
