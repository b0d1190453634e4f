"""What the ranks tell each other outside the training: who ended, why, and who does not answer.

A rank that dies or hangs leaves the others in an exchange that fails: at once if its process is
gone, after `parallel.timeout_s` if it hangs. They then call the roll in a small store that torchrun
keeps: every rank that is alive answers, and those that do not are named. A thread of each rank
answers, since the rank itself may be busy: ranks that compute notice a failure later than those
that waited for the lost one. A rank that ends with an error of its own leaves a note first, so that
the others end silently with its exit code.

torchrun's store outlives the ranks, which it starts again after a failure, so each attempt writes
under a name of its own. The ranks agree on it when they meet: no number of torchrun's would do, as
every machine counts only the failures of its own ranks.
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
AGREE_S = 0.1  # between two looks whether the others have come
CONNECT_S = 300.0
_NOTE, _RUN, _CALLED, _OFFER = "ended", "run", "called", "offer"
_LISTENS, _FAILED_TOO = "listens", "failed too"  # answers
_AGENT = "TORCHELASTIC_USE_AGENT_STORE"


def of_torchrun() -> bool:
    """Whether torchrun keeps the store, which is there before the ranks and after them."""
    return os.environ.get(_AGENT) == "True"


@functools.cache
def roll_call(launched: Launch) -> RollCall:
    """The ranks' common store; this process connects to it once."""
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
        meeting: where the process group finds the other ranks; None until they have agreed.

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
            is_master=launched.first and not of_torchrun(),
            wait_for_workers=False,
            multi_tenant=True,
            timeout=datetime.timedelta(seconds=CONNECT_S),
        )
        job = f"simsmoe/{launched.run_id}"
        self._job = PrefixStore(job, store)  # lives as long as torchrun
        self._said = PrefixStore(f"said/{launched.restarts}", self._job)
        self._attempt = self._job
        self.meeting: PrefixStore | None = None

    def agree(self, patience_s: float) -> None:
        """Wait until all ranks have come, and agree on the name of this attempt.

        Under torchrun the first rank offers a name, the others answer it, and it accepts those that
        answered. An offer that an earlier attempt has left accepts nobody of this one.

        Args:
            patience_s: how long ranks wait for each other.

        Raises:
            UserError: ranks did not come.
        """
        name = "the only one"  # without torchrun: the store is as new as the ranks
        if of_torchrun():
            name, accepted = (self._offer if self.launched.first else self._answer)(patience_s)
            missing = [str(rank) for rank in self._others() if str(rank) not in accepted]
            if missing:
                raise lost(missing)
        self._attempt = PrefixStore(name, self._job)
        # torch 2.13 finds addresses of an earlier attempt in torchrun's store, as it adds no
        # prefix of its own.
        self.meeting = PrefixStore("meeting", self._attempt)

    def _others(self) -> range:
        return range(1, self.launched.size)

    def _offer(self, patience_s: float) -> tuple[str, dict[str, str]]:
        """Offer a name; returns it with the ranks that came, and which processes they are."""
        name, until = uuid.uuid4().hex, time.monotonic() + patience_s
        self._job.set(_OFFER, name)
        answers = {str(rank): f"{name}/{rank}" for rank in self._others()}
        while not self._job.check(list(answers.values())) and time.monotonic() < until:
            time.sleep(AGREE_S)
        came = {
            rank: self._job.get(answer).decode()
            for rank, answer in answers.items()
            if self._job.check([answer])
        }
        self._job.set(f"{name}/accepted", json.dumps(came))
        return name, came

    def _answer(self, patience_s: float) -> tuple[str, dict[str, str]]:
        """Answer offers until one accepts this process; returns what `_offer` does."""
        # A little longer than the first rank, who knows which ranks are missing.
        me, until = uuid.uuid4().hex, time.monotonic() + patience_s + PATIENCE_S
        rank, answered = str(self.launched.rank), ""
        while time.monotonic() < until:
            if self._job.check([_OFFER]):
                name = self._job.get(_OFFER).decode()
                if name != answered:
                    self._job.set(f"{name}/{rank}", me)
                    answered = name
                if self._job.check([f"{name}/accepted"]):
                    came: dict[str, str] = json.loads(self._job.get(f"{name}/accepted"))
                    if came.get(rank) == me:
                        return name, came
            time.sleep(AGREE_S)
        raise lost(["0"])

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
        return bool(self._said.add(key, 1) == 1)

    def leave_note(self, code: int) -> None:
        """Tell the others that this rank ends by itself, with this exit code."""
        self._attempt.set(_NOTE, str(code))

    def remember_run(self, path: str) -> None:
        """Keep the run folder, for when torchrun starts all ranks again."""
        self._job.set(_RUN, path)
        self._job.check([_RUN])  # set does not wait until the store has it, and check does

    def forget_run(self) -> None:
        """Forget the run folder, since the command has ended well."""
        self._job.delete_key(_RUN)

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
        if self.meeting is None:
            return failed(error)
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
