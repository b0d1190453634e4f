"""How this process was started: alone, or by torchrun as one of several. Does not import torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from simsmoe_cli.errors import UserError, printable


@dataclass(frozen=True)
class Launch:
    """The place of this process among those that torchrun started.

    Attributes:
        rank, size: its number and how many there are, over all machines.
        local_rank, local_size: the same on this machine.
        restarts: how often torchrun has started all processes again after a failure on this
            machine; each machine counts for itself.
        run_id: of this torchrun.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    run_id: str = ""

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0


def launch() -> Launch:
    """The launch of this process, from the variables that torchrun sets.

    Raises:
        UserError: a variable is not a number, or contradicts the others.
    """
    size = _number("WORLD_SIZE", 1)
    if size <= 1:
        return Launch()
    found = Launch(
        rank=_number("RANK", -1),
        size=size,
        local_rank=_number("LOCAL_RANK", -1),
        local_size=_number("LOCAL_WORLD_SIZE", 1),
        restarts=_number("TORCHELASTIC_RESTART_COUNT", 0),
        run_id=os.environ.get("TORCHELASTIC_RUN_ID", ""),
    )
    for name, value in (("RANK", found.rank), ("LOCAL_RANK", found.local_rank)):
        if not 0 <= value < size:
            raise UserError(
                f"one of {size} processes needs a number from 0 to {size - 1}",
                where=name,
                hint="Start them with torchrun, or unset WORLD_SIZE.",
            )
    return found


def require_alone(command: str, hint: str = "") -> None:
    """Raise a UserError in one of several processes, which would all write the same files.

    Args:
        command: what runs in one process only.
        hint: what else to do, in a sentence.
    """
    size = launch().size
    if size > 1:
        raise UserError(
            f"runs in one process, and {size} were started",
            where=command,
            hint=f"Start it without torchrun, or unset WORLD_SIZE. {hint}".rstrip(),
        )


def _number(name: str, default: int) -> int:
    """A whole number of the environment; the default where it is unset or empty."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(
            f"expected a whole number, got '{printable(text)}'",
            where=name,
            hint="torchrun sets it; unset it to train in one process.",
        )
    return int(text)
