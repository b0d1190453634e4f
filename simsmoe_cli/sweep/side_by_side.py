"""Runs trainings in processes of their own, several side by side.

One process per training: one that runs out of memory or is killed takes no other with it. They are
forked from a server that has imported torch, which is fast and leaves no thread or device of
another training in them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# Imported by the server before it forks; torch imports the second with its first optimizer.
PRELOADED = ["simsmoe_cli.sweep.training", "torch._dynamo"]
SAVING_S = 120.0  # how long a process that was asked to stop may take to save


@dataclass(frozen=True)
class Work:
    """A function call for another process, whose arguments and result can be pickled.

    Attributes:
        call, given: the function and its first arguments; the slot is its last one.
        log: the file for what it prints.
    """

    call: Callable[..., Any]
    given: tuple[Any, ...]
    log: Path


@dataclass(frozen=True)
class Outcome:
    """How a work ended.

    Attributes:
        number: of the work.
        value: what it returned; None if it did not.
        failure: why it failed; empty if it did not.
        seconds: that its process took.
    """

    number: int
    value: Any = None
    failure: str = ""
    seconds: float = 0.0


def outcomes(works: Sequence[Work], slots: Sequence[Any]) -> Generator[Outcome]:
    """Carry out all works, as many at a time as there are slots; yields each when it has ended.

    Where the generator is closed early, the processes are asked to save and stop, and waited for.

    Args:
        works: in the order in which they begin.
        slots: the last argument of a work, such as the GPU that it may use; one work at a time has
            a slot.
    """
    from simsmoe_cli.sweep.training import in_process

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    free, waiting = list(slots), list(enumerate(works))
    running: dict[Connection, tuple[int, BaseProcess, Any, float]] = {}
    try:
        while waiting or running:
            while waiting and free:
                number, work = waiting.pop(0)
                slot = free.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(
                    target=in_process, args=(work.call, (*work.given, slot), work.log, theirs)
                )
                process.start()
                theirs.close()
                running[ours] = number, process, slot, time.monotonic()
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                number, process, slot, start = running.pop(ready)
                outcome = _received(number, ready, process)
                free.append(slot)
                yield replace(outcome, seconds=time.monotonic() - start)
    finally:
        _stop([process for _, process, *_ in running.values()])


def _received(number: int, connection: Connection, process: BaseProcess) -> Outcome:
    """What a process sent before it ended."""
    with contextlib.closing(connection):
        try:
            kind, value = connection.recv()
        except EOFError:
            process.join()
            code = process.exitcode or 0
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            return Outcome(number, failure=f"its process {how}")
    process.join()
    if kind == "done":
        return Outcome(number, value)
    return Outcome(number, failure=value)


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Ask processes to save and stop, and wait for them."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(SAVING_S)
        if process.is_alive():
            process.kill()
            process.join()
