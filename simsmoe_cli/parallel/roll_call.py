"""What the ranks tell each other outside the training: who ended, why, and who does not answer.

A rank that dies or hangs leaves the others in an exchange that fails: at once if its process is
gone, after `parallel.timeout_s` if it hangs. They then call the roll in a small store that torchrun
keeps: every rank that is alive answers, and those that do not are named. A rank that ends with an
error of its own leaves a note first, so that the others end silently with its exit code.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from simsmoe_cli.errors import EXIT_RANK_LOST, EndedElsewhere, UserError, listed
from simsmoe_cli.parallel.launch import Launch

PATIENCE_S = 3.0  # for notes and answers of other ranks, whose processes are alive
CONNECT_S = 300.0
_NOTE, _RUN = "ended", "run"
_AGENT = "TORCHELASTIC_USE_AGENT_STORE"  # set by torchrun, whose store is there before the ranks


@functools.cache
def roll_call(launched: Launch) -> RollCall:
    """The ranks' common store; this process connects to it once."""
    return RollCall(launched)


def speaks(launched: Launch, message: str) -> bool:
    """Whether this rank is to say something that all of them may have to say."""
    if not (roll_call.cache_info().currsize or os.environ.get(_AGENT) == "True"):
        return launched.first  # started without torchrun, and the ranks have not met yet
    try:
        return roll_call(launched).said_first(message)
    except RuntimeError:
        return True


class RollCall:
    """The ranks' common store; see `roll_call`.

    Attributes:
        meeting: where the process group finds the other ranks.

    Args:
        launched: the place of this process.

    Raises:
        RuntimeError: there is no store, because the first rank or torchrun is gone.
    """

    def __init__(self, launched: Launch):
        self.launched = launched
        store = TCPStore(
            os.environ.get("MASTER_ADDR", "127.0.0.1"),
            int(os.environ.get("MASTER_PORT", "29500")),
            is_master=launched.first and os.environ.get(_AGENT) != "True",
            wait_for_workers=False,
            multi_tenant=True,
            timeout=datetime.timedelta(seconds=CONNECT_S),
        )
        job = f"simsmoe/{launched.run_id}"
        self._job = PrefixStore(job, store)  # lives as long as torchrun
        self._attempt = PrefixStore(f"{job}/{launched.restarts}", store)
        # torch 2.13 finds addresses of an earlier attempt in torchrun's store, as it adds no
        # prefix of its own.
        self.meeting = PrefixStore("meeting", self._attempt)

    def register(self, device: str) -> None:
        """Say where this rank is."""
        member = {"rank": self.launched.rank, "host": socket.gethostname(), "device": device}
        self._attempt.set(_member(self.launched.rank), json.dumps(member))

    def members(self) -> list[dict[str, Any]]:
        """Rank, host and device of every rank; all must have registered."""
        ranks = range(self.launched.size)
        return [json.loads(self._attempt.get(_member(rank))) for rank in ranks]

    def said_first(self, message: str) -> bool:
        """Whether no other rank has said this before."""
        key = hashlib.sha256(message.encode(errors="replace")).hexdigest()
        return bool(self._attempt.add(f"said/{key}", 1) == 1)

    def leave_note(self, code: int) -> None:
        """Tell the others that this rank ends by itself, with this exit code."""
        self._attempt.set(_NOTE, str(code))

    def remember_run(self, path: str) -> None:
        """Keep the run folder, for when torchrun starts all ranks again."""
        self._job.set(_RUN, path)

    def remembered_run(self) -> str | None:
        """The run folder of an earlier attempt of this torchrun."""
        return self._job.get(_RUN).decode() if self._job.check([_RUN]) else None

    def explain(self) -> Exception:
        """Why an exchange between ranks failed."""
        own = self.launched.rank
        self._attempt.set(f"here/{own}", "")
        missing: list[int] = []
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if self._attempt.check([_NOTE]):
                return EndedElsewhere(int(self._attempt.get(_NOTE)))
            missing = [
                rank
                for rank in range(self.launched.size)
                if not self._attempt.check([f"here/{rank}"])
            ]
            if not missing:
                break
            time.sleep(0.1)
        return lost([self._name(rank) for rank in missing])

    def _name(self, rank: int) -> str:
        if not self._attempt.check([_member(rank)]):
            return str(rank)
        member = json.loads(self._attempt.get(_member(rank)))
        return f"{rank} ({member['device']} of {member['host']})"


def _member(rank: int) -> str:
    return f"member/{rank}"


def lost(ranks: Sequence[str]) -> UserError:
    """The error for ranks that ended or hang; an empty list: nobody knows which."""
    who = f"rank{'s' * (len(ranks) > 1)} {listed(ranks, 8)}" if ranks else "the others"
    what = "ended or hangs" if len(ranks) == 1 else "ended or hang"
    return UserError(
        f"lost contact with {who}: it {what}" if len(ranks) == 1 else f"{who} {what}",
        hint="Look at its output and its machine. --resume auto goes on from the newest "
        "checkpoint; torchrun --max-restarts does so by itself.",
        code=EXIT_RANK_LOST,
    )


def is_failed_exchange(error: BaseException) -> bool:
    """Whether an error says that an exchange between ranks failed."""
    if isinstance(error, dist.DistError):
        return True
    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset", "TCPStore")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
