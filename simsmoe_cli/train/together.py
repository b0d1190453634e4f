"""A command in one process or in several: joins the ranks, and ends them together.

Whatever ends one rank ends all of them, with one line on the terminal and one exit code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from simsmoe_cli.errors import (
    EXIT_RANK_LOST,
    EXIT_SIGINT,
    EXIT_SIGTERM,
    EndedElsewhere,
    Terminated,
    UserError,
)
from simsmoe_cli.parallel.launch import launch
from simsmoe_cli.parallel.roll_call import failed, is_failed_exchange, lost, of_torchrun, roll_call
from simsmoe_cli.parallel.world import ALONE, World, join
from simsmoe_cli.recipe.parallel import ParallelSettings
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.signals import Stopped


@contextlib.contextmanager
def together(settings: ParallelSettings, device: torch.device) -> Iterator[World]:
    """The ranks that carry out a command; in one process there is only this one.

    Args:
        settings: the grid of ranks, and how long they wait for each other.
        device: of this rank.

    Raises:
        UserError: other ranks ended without a word, or hang.
        EndedElsewhere: another rank ended, and has said why.
    """
    launched = launch()
    if launched.alone:
        yield ALONE
        return
    with rank_named():
        roll = roll_call(launched)
        roll.agree(settings.timeout_s)
        roll.register(str(device))
    with roll.listening():
        try:
            with rank_named():
                layout = settings.layout(launched.size)
                world = join(launched, device, layout, settings.timeout_s, roll.meeting)
                world.wait()
                yield world
                world.wait()
                if launched.first:
                    roll.forget_run()
        except BaseException as error:
            if not (isinstance(error, EndedElsewhere) or _of_others(error)):
                with contextlib.suppress(RuntimeError):
                    roll.leave_note(_exit_code(error))
            raise


@contextlib.contextmanager
def rank_named() -> Iterator[None]:
    """Turn the failure of an exchange between ranks into an error that says who failed.

    Raises:
        UserError: other ranks ended without a word, or hang.
        EndedElsewhere: another rank ended, and has said why.
    """
    try:
        yield
    except Exception as error:
        if not is_failed_exchange(error):
            raise
        raise _explained(error) from error


def _explained(error: Exception) -> UserError | EndedElsewhere:
    """Why an exchange failed, as far as this rank can find out."""
    if not roll_call.cache_info().currsize:
        return failed(error)
    try:
        return roll_call(launch()).explain(error)
    except RuntimeError:  # the store is gone, and with it the first rank or torchrun
        return lost(["0"])


def _of_others(error: BaseException) -> bool:
    """Whether an error is about other ranks, which each rank finds out by itself."""
    return isinstance(error, UserError) and error.code == EXIT_RANK_LOST


def _exit_code(error: BaseException) -> int:
    """The exit code of a command that this error ends."""
    if isinstance(error, UserError | Stopped):
        return error.code
    if isinstance(error, Terminated):
        return EXIT_SIGTERM
    if isinstance(error, KeyboardInterrupt):
        return EXIT_SIGINT
    code = getattr(error, "exit_code", getattr(error, "code", 1))
    return code if isinstance(code, int) else 1


def members(world: World) -> list[dict[str, Any]]:
    """Rank, host and device of every rank; empty in one process."""
    return [] if world.alone else roll_call(launch()).members()


def remember(world: World, run: RunDir) -> None:
    """Keep the run folder, so that a restart by torchrun goes on with it."""
    if not world.alone and world.first:
        roll_call(launch()).remember_run(str(run.path.resolve()))


def to_go_on_with() -> Path | None:
    """The run folder that torchrun's restart goes on with; None at the first start, or if that
    ended before it had one.

    Raises:
        UserError: torchrun or its store is gone.
    """
    launched = launch()
    if launched.alone or not of_torchrun():
        return None
    with rank_named():
        path = roll_call(launched).remembered_run()
    return None if path is None else Path(path)
