"""What the ranks tell each other outside the training: who ended, why, and who does not answer.

A rank that dies or hangs leaves the others in an exchange that fails: at once if its process is
gone, after `parallel.timeout_s` if it hangs. They then call the roll in a small store that torchrun
keeps: every rank that is alive answers, and those that do not are named. A thread of each rank
answers, since the rank itself may be busy: ranks that compute notice a failure later than those
that waited for the lost one. A rank that ends with an error of its own leaves a note first, so that
the others end silently with its exit code.

The store outlives the ranks, whom torchrun starts again after a failure, so every attempt writes
under a name of its own. The ranks agree on it: each machine counts only the failures that it has
seen itself, so these counts differ.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from simsmoe_cli.errors import EXIT_RANK_LOST, EndedElsewhere, UserError, listed, printable
from simsmoe_cli.parallel.launch import Launch

PATIENCE_S = 5.0  # for notes and answers of other ranks, whose processes are alive
LISTEN_S = 1.0  # between two looks whether the roll is called
AGREE_S = 0.1  # between two looks whether the first rank has accepted this one
CONNECT_S = 300.0  # for the store, and for all ranks to come to it
_NOTE, _RUN, _CALLED, _OFFER, _ACCEPTED = "ended", "run", "called", "offer", "accepted"
_LISTENS, _FAILED_TOO = "listens", "failed too"  # answers
_AGENT = "TORCHELASTIC_USE_AGENT_STORE"


def of_torchrun() -> bool:
    """Whether torchrun keeps the store, which then is there before the ranks and after them."""
    return os.environ.get(_AGENT) == "True"


@functools.cache
def roll_call(launched: Launch) -> RollCall:
    """The ranks' common store; this process connects to it once, and waits there for the others."""
    return RollCall(launched)


def speaks(launched: Launch, message: str) -> bool:
    """Whether this rank is to say something that all of them may have to say."""
    if not (roll_call.cache_info().currsize or of_torchrun()):
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
        RuntimeError: there is no store, because the first rank or torchrun is gone, or the first
            rank does not come.
    """

    def __init__(self, launched: Launch):
        self.launched = launched
        store = TCPStore(
            os.environ.get("MASTER_ADDR", "127.0.0.1"),
            int(os.environ.get("MASTER_PORT", "29500")),
            is_master=launched.first and not of_torchrun(),
            wait_for_workers=False,
            multi_tenant=True,
            timeout=datetime.timedelta(seconds=CONNECT_S),
        )
        job = f"simsmoe/{launched.run_id}"
        self._job = PrefixStore(job, store)  # lives as long as torchrun
        self._attempt = PrefixStore(f"{job}/{self._agreed()}", store)
        # torch 2.13 finds addresses of an earlier attempt in torchrun's store, as it adds no
        # prefix of its own.
        self.meeting = PrefixStore("meeting", self._attempt)

    def _agreed(self) -> str:
        """The name of this attempt. The first rank offers one, all others answer, and it accepts
        those that did within `CONNECT_S`. An offer of an earlier attempt accepts nobody of this
        one."""
        me, rank = uuid.uuid4().hex, self.launched.rank
        if self.launched.first:
            self._job.set(_OFFER, me)
            answers = [f"{me}/{other}" for other in range(1, self.launched.size)]
            with contextlib.suppress(RuntimeError):  # not all came: those will be named as lost
                self._job.wait(answers, datetime.timedelta(seconds=CONNECT_S))
            came = [self._job.get(key).decode() for key in answers if self._job.check([key])]
            self._job.set(f"{me}/{_ACCEPTED}", " ".join(came))
            return me
        until = time.monotonic() + 2 * CONNECT_S
        while time.monotonic() < until:
            offer = self._job.get(_OFFER).decode()
            self._job.set(f"{offer}/{rank}", me)
            accepted = f"{offer}/{_ACCEPTED}"
            if self._job.check([accepted]) and me in self._job.get(accepted).decode().split():
                return offer
            time.sleep(AGREE_S)
        raise dist.DistStoreError(f"rank {rank} waited in vain for rank 0")

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

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Answer when a rank calls the roll, whatever this one is doing then."""
        done = threading.Event()

        def listen() -> None:
            with contextlib.suppress(RuntimeError):  # the store is gone
                while not done.wait(LISTEN_S):
                    if self._attempt.check([_CALLED]):
                        key = _answer_of(self.launched.rank)
                        self._attempt.compare_set(key, "", _LISTENS)  # unless it has answered
                        return

        thread = threading.Thread(target=listen, name="roll-call", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(LISTEN_S)

    def explain(self, error: Exception) -> UserError | EndedElsewhere:
        """Why an exchange between ranks failed.

        Args:
            error: what this rank saw of it.
        """
        self._attempt.set(_CALLED, "")
        self._attempt.set(_answer_of(self.launched.rank), _FAILED_TOO)
        answers: dict[int, str | None] = {}
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if self._attempt.check([_NOTE]):
                return EndedElsewhere(int(self._attempt.get(_NOTE)))
            answers = {rank: self._answer_of(rank) for rank in range(self.launched.size)}
            if all(answer == _FAILED_TOO for answer in answers.values()):
                break
            time.sleep(0.1)
        for answer, describe in ((None, lost), (_LISTENS, late)):
            found = [self._name(rank) for rank in answers if answers[rank] == answer]
            if found:
                return describe(found)
        return failed(error)

    def _answer_of(self, rank: int) -> str | None:
        key = _answer_of(rank)
        return self._attempt.get(key).decode() if self._attempt.check([key]) else None

    def _name(self, rank: int) -> str:
        if not self._attempt.check([_member(rank)]):
            return str(rank)
        member = json.loads(self._attempt.get(_member(rank)))
        return f"{rank} ({member['device']} of {member['host']})"


def _member(rank: int) -> str:
    return f"member/{rank}"


def _answer_of(rank: int) -> str:
    return f"here/{rank}"


def lost(ranks: Sequence[str]) -> UserError:
    """The error for ranks whose processes ended, or are stopped."""
    if len(ranks) == 1:
        why, look = "it ended or hangs", "Look at its output and its machine."
    else:
        why, look = "they ended or hang", "Look at their output and their machines."
    return _rank_error(f"lost contact with {_ranks(ranks)}: {why}", look)


def late(ranks: Sequence[str]) -> UserError:
    """The error for ranks that are alive, and that the others waited for in vain."""
    return _rank_error(
        f"waited in vain for {_ranks(ranks)}",
        "Look at what it does; parallel.timeout_s is how long the others wait.",
    )


def failed(error: Exception) -> UserError:
    """The error for an exchange that failed on every rank."""
    return _rank_error(
        f"an exchange between the processes failed: {printable(error, 300)}",
        "Look at MASTER_ADDR, MASTER_PORT and the network between the machines.",
    )


def _ranks(names: Sequence[str]) -> str:
    return f"rank{'s' * (len(names) > 1)} {listed(names, 8)}"


def _rank_error(what: str, look: str) -> UserError:
    hint = (
        f"{look} --resume auto goes on from the newest checkpoint; torchrun --max-restarts does so "
        "by itself."
    )
    return UserError(what, hint=hint, code=EXIT_RANK_LOST)


def is_failed_exchange(error: BaseException) -> bool:
    """Whether an error says that an exchange between ranks failed."""
    if isinstance(error, dist.DistError):
        return True
    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset", "TCPStore")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
